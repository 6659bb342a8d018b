"""A core accounts for every byte that the process had mapped: in its note and as attributes."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gcorefs.elfcore.smaps import parse_smaps
from gcorefs.elfcore.vma import VmFlag
from gcorefs.kernel.proc import address_space
from gcorefs.process.pagemap import scans_guards
from tests.conftest import GCOREFS, Mount, Target
from tests.mounted.conftest import eventually, is_free, note_of, opened, whole
from tests.readers.corefile import Core

PAGE = 4096
UNREADABLE = {"file_short_past_eof"}


def attributes(file: Path) -> dict[str, str]:
    prefix = "user.gcorefs."
    return {
        name.removeprefix(prefix): os.getxattr(file, name).decode() for name in os.listxattr(file)
    }


def regions(target: Target, names: set[str]) -> list[tuple[int, int]]:
    """Those of these names, according to the program (tests/targets/memory.c)."""
    return sorted(
        (int(region["start"], 16), int(region["end"], 16))
        for region in target.truth["regions"]
        if region["name"] in names
    )


def unreadable(target: Target) -> list[tuple[int, int]]:
    """The memory that nobody can read."""
    return regions(target, UNREADABLE)


@pytest.fixture
def target(spawn: Callable[..., Target], tmp_path: Path) -> Target:
    target = spawn("memory", tmp_path)
    Path(f"/proc/{target.pid}/coredump_filter").write_text("0x7f")
    return target


def test_the_note_and_the_attributes_list_what_could_not_be_read(
    mount: Mount, target: Target
) -> None:
    expected = unreadable(target)
    with opened(mount / target.pid) as fd:
        facts = note_of(whole(fd))
        found = attributes(mount / target.pid)
    texts = [f"{start:x}-{end:x}" for start, end in expected]
    assert facts["unreadable"] == texts
    assert found["unreadable"].split() == texts
    size = sum(end - start for start, end in expected)
    assert facts["bytes"]["unreadable"] == size
    assert found["bytes.unreadable"] == str(size)
    if scans_guards():
        (guard,) = regions(target, {"guard"})
        assert facts["bytes"]["guards"] == guard[1] - guard[0]


def test_what_could_not_be_read_is_zeros_and_its_neighbours_are_there(
    mount: Mount, target: Target, tmp_path: Path
) -> None:
    path = tmp_path / "core"
    subprocess.run(["cp", mount / target.pid, path], check=True, timeout=60)
    eventually(lambda: is_free(target.pid))
    core = Core(path)
    for start, end in regions(target, {*UNREADABLE, "guard"}):  # an old kernel has no guards
        assert core.read(start, end) == bytes(end - start)
        segment = core.segment(start)
        assert segment.vaddr < start  # it is a part of a mapping
        assert core.read(start - PAGE, start).strip(b"\0")


@pytest.mark.parametrize("mask", ["0x33", "0x7f", "0"])
def test_every_mapped_byte_is_recorded_or_zero_or_left_out(
    mount: Mount, target: Target, mask: str
) -> None:
    Path(f"/proc/{target.pid}/coredump_filter").write_text(mask)
    vmas = parse_smaps(address_space.read_mm(target.pid, "smaps"))
    mapped = sum(vma.size for vma in vmas)
    with opened(mount / target.pid) as fd:
        data = whole(fd)
        facts = note_of(data)
        size = os.fstat(fd).st_size
        found = attributes(mount / target.pid)
    count: dict[str, int] = facts["bytes"]
    assert count["mapped"] == mapped
    assert count["recorded"] + count["zeros"] + count["left_out"] == mapped
    assert sum(facts["left_out"].values()) == count["left_out"]
    dontdump = sum(
        vma.size for vma in vmas if VmFlag.DONTDUMP in vma.vm_flags and not vma.is_special
    )
    assert facts["left_out"]["dontdump"] == dontdump > 0
    assert count["recorded"] <= size
    assert facts["policy"]["coredump_filter"] == hex(int(mask, 16))
    flat: dict[str, Any] = {f"bytes.{name}": value for name, value in count.items()}
    flat |= {f"left_out.{name}": value for name, value in facts["left_out"].items()}
    assert {name: found[name] for name in flat} == {name: str(v) for name, v in flat.items()}


def test_dump_says_how_many_pages_could_not_be_read(target: Target, tmp_path: Path) -> None:
    core = tmp_path / "core"
    done = subprocess.run(
        [GCOREFS, "dump", str(target.pid), "-o", core], capture_output=True, text=True, check=True
    )
    pages = sum(end - start for start, end in unreadable(target)) // PAGE
    assert done.stderr == f"{pages} pages could not be read and are zeros\n"
