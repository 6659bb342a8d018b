"""All of a bundle but its core, in the order in which it is written: the manifest comes last, since
it says which files could not be read."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from gcorefs.bundle import scripts
from gcorefs.bundle.content import Content
from gcorefs.bundle.manifest import Lacks, Origin, Placed, manifest
from gcorefs.bundle.mapped_files import MappedFiles
from gcorefs.bundle.places import Places
from gcorefs.bundle.tarball import Tarball

CORE = "core"


@dataclass(frozen=True, slots=True)
class Collected:
    """What is known of the process."""

    files: MappedFiles
    names: Sequence[tuple[bytes, int]]
    """As in link_names.py."""
    facts: dict[str, bytes]
    no_facts: dict[str, str]
    """Why others cannot be had."""


def write_rest(to: Tarball, origin: Origin, collected: Collected) -> list[str]:
    """Write it.  What it lacks that a debugger may miss, a line each.  SinkError."""
    places = Places()
    files = [Placed(each, places.take(os.fsdecode(each.path))) for each in collected.files.kept]
    content = Content()
    written: dict[tuple[int, int], str] = {}
    try:
        for each in files:
            identity = each.kept.identity
            if identity in written:
                to.add_link(each.place, written[identity])
                continue
            written[identity] = each.place
            to.add(each.place, each.kept.size, partial(content.read, each.kept))
    finally:
        content.close()
    _name(to, places, files, collected)
    for name, text in collected.facts.items():
        to.add_bytes(f"proc/{name}", text)
    to.add_bytes("proc/maps", collected.files.maps)
    to.add_bytes("open.gdb", scripts.for_gdb(files))
    to.add_bytes("open.lldb", scripts.for_lldb(files))
    to.add_bytes("open-gdb", scripts.OPEN_GDB, 0o700)
    to.add_bytes("open-lldb", scripts.OPEN_LLDB, 0o700)
    to.add_bytes("README.txt", scripts.readme(origin.pid, origin.taken_at))
    lacks = Lacks(collected.files.not_taken, content.lost, collected.no_facts)
    to.add_bytes("manifest.json", manifest(origin, files, lacks))
    to.end()
    return _told(lacks)


def _name(to: Tarball, places: Places, files: Sequence[Placed], collected: Collected) -> None:
    """Links for the other names of files."""
    by_file = {each.kept: each for each in files}
    for name, address in collected.names:
        kept = collected.files.at(address)
        if kept is None:
            continue
        text = os.fsdecode(name)
        placed = by_file[kept]
        for folder in places.folders_of(text):
            to.add_folder(folder)
        if text != os.fsdecode(kept.path):
            placed.names[text] = None
        if place := places.take_name(text):
            to.add_link(place, placed.place)
    for each in files:
        if each.kept.is_program:
            to.add_link(scripts.PROGRAM, each.place)
            break


def _told(lacks: Lacks) -> list[str]:
    missing = [
        f"not in the bundle: {os.fsdecode(each.path)}: {each.why}"
        for each in lacks.files
        if not each.is_expected
    ]
    return missing + [
        f"partly zeros: {os.fsdecode(kept.path)}: {why}" for kept, why in lacks.parts.items()
    ]
