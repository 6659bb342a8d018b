"""What the dynamic linker keeps of a process, for debuggers: r_debug, the list of link_maps, and
the names in it.

A debugger finds r_debug through DT_DEBUG of the program, and from there each library (glibc:
elf/link.h; gdb: solib-svr4.c; elfutils: libdwfl/link_map.c).  libthread_db also reads variables of
glibc itself (nptl_db/structs.def), so its data is taken whole.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore import program
from gcorefs.elfcore.elf import PF_W
from gcorefs.elfcore.program import Module
from gcorefs.elfcore.selection import Range
from gcorefs.elfcore.vma import Vma
from gcorefs.process.peek import LONGEST_TEXT, Peek

_MOST_MODULES = 10_000
_MOST_NAMESPACES = 64  # dlmopen(3); glibc has 16
_LINK_MAP = 1280
"""Bytes of glibc's own struct link_map (include/link.h); the public part has five words."""
_SMALL = 64 << 10
"""The dynamic linker allocates its first lists in mappings of some pages (elf/dl-minimal.c).  So
much is taken of the mapping around a list."""
_LARGEST_DATA = 1 << 20

_GLIBC = re.compile(rb"(ld|libc|libpthread|libc\.musl|ld-musl|ld-linux)[-.][^/]*( \(deleted\))?")


@dataclass(frozen=True, slots=True)
class LoadedProgram:
    """The program of a process and what its auxiliary vector says."""

    table_at: int
    """Where its program headers lie; 0 if that is not known."""
    headers: int
    linker_at: int
    """Where the dynamic linker lies; 0 if the program has none."""


def loaded_program(auxv: bytes, peek: Peek) -> LoadedProgram:
    found = program.values(auxv, peek.form)
    return LoadedProgram(
        found.get(program.AT_PHDR, 0),
        min(found.get(program.AT_PHNUM, 0), program.MOST_HEADERS),
        found.get(program.AT_BASE, 0),
    )


def main_module(loaded: LoadedProgram, peek: Peek) -> Module | None:
    table = peek.read(loaded.table_at, loaded.headers * peek.form.phdr_size)
    if (found := program.module_of(loaded.table_at, table, peek.form)) is not None:
        return found
    vma = peek.vma(loaded.table_at)
    if vma is None:
        return None
    return program.module_at(vma.start, peek.read(vma.start, PAGE_SIZE))


def linker_ranges(loaded: LoadedProgram, peek: Peek) -> Iterator[Range]:
    """All of it, as ranges of addresses."""
    end = loaded.table_at + loaded.headers * peek.form.phdr_size
    yield loaded.table_at, end
    main = main_module(loaded, peek)
    if main is None:
        return
    for start, end in main.ranges(program.PT_DYNAMIC):
        yield start, end
        dynamic = program.values(dynamic_section(start, peek), peek.form)
        if debug := dynamic.get(program.DT_DEBUG, 0):
            yield from _lists(debug, peek)


def dynamic_section(start: int, peek: Peek) -> bytes:
    """The entries of a dynamic section, MOST_DYNAMIC at most."""
    size = 2 * peek.form.word_size
    data = peek.read(start, program.MOST_DYNAMIC * size)
    count = sum(1 for _ in program.pairs(data, peek.form))
    return data[: (count + 1) * size]


def _lists(debug: int, peek: Peek) -> Iterator[Range]:
    """struct r_debug of each namespace, and all that hangs on it."""
    word = peek.form.word_size
    seen: set[int] = set()
    for _ in range(_MOST_NAMESPACES):
        fields = peek.words(debug, 5)
        if not fields:
            return
        # r_version is an int and has padding behind it.  Since version 2 there is r_next.
        is_extended = fields[0] & 0xFFFFFFFF >= 2
        yield debug, debug + 6 * word
        yield from _modules(fields[1], peek, seen)
        following = peek.words(debug + 5 * word, 1) if is_extended else ()
        if not following or not following[0]:
            return
        (debug,) = following


def _modules(link_map: int, peek: Peek, seen: set[int]) -> Iterator[Range]:
    """Each struct link_map of a list, its name and its dynamic section.  `seen`: those of all
    lists, which have _MOST_MODULES together."""
    while link_map and link_map not in seen and len(seen) < _MOST_MODULES:
        seen.add(link_map)
        fields = peek.words(link_map, 4)
        if not fields:
            return
        _, name, dynamic, following = fields
        yield link_map, link_map + _LINK_MAP
        yield from _around(link_map, peek)
        if text := peek.text(name):
            yield name, name + min(len(text) + 1, LONGEST_TEXT)
        if entries := dynamic_section(dynamic, peek):
            yield dynamic, dynamic + len(entries)
        link_map = following


def _around(address: int, peek: Peek) -> Iterator[Range]:
    vma = peek.vma(address)
    if vma is not None and not vma.has_file and vma.size <= _SMALL:
        yield vma.start, vma.end


def libc_ranges(vmas: Sequence[Vma], loaded: LoadedProgram, peek: Peek) -> Iterator[Range]:
    """The data of the C library and of the dynamic linker; that of a static program itself."""
    whole = peek.vma(loaded.linker_at or loaded.table_at)
    for index, vma in enumerate(vmas):
        if not vma.has_file or vma.kind.is_shared:
            continue
        is_own = whole is not None and (vma.dev, vma.inode) == (whole.dev, whole.inode)
        if not is_own and not _GLIBC.fullmatch(vma.name.rpartition(b"/")[2]):
            continue
        if vma.flags & PF_W or vma.is_written:
            yield vma.start, min(vma.end, vma.start + _LARGEST_DATA)
            bss = vmas[index + 1] if index + 1 < len(vmas) else vma
            if bss.start == vma.end and not bss.has_file and bss.name != b"[heap]":
                yield bss.start, min(bss.end, bss.start + _LARGEST_DATA)
