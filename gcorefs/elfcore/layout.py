"""Where every byte of the file lies.

Rules of this file:
- Offsets are computed here, once.  Whoever needs one asks the layout.
- Same input, same bytes: no process, no clock, no iteration order of a set.
- Extents tile the file: every offset below `size` is in exactly one extent, in order, with
  no gap and no overlap.  Any split of reads therefore gives the bytes of one whole read.
- The file begins with the header: ELF header, program headers, section headers where there
  are any, notes, zeros up to a page border.  Memory follows in address order, so that a
  reader that only goes forward (a pipe) meets everything before it needs it.
"""

import enum
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gcorefs.elfcore import elf
from gcorefs.elfcore.regsets import Machine


@dataclass(frozen=True, slots=True)
class Segment:
    """One PT_LOAD: `memsz` bytes of memory from `vaddr`, of which the file holds `filesz`."""

    vaddr: int
    memsz: int
    filesz: int
    flags: int


class Source(enum.Enum):
    """Where the bytes of an extent come from."""

    HEADER = "header"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Extent:
    """A piece of the file.  `at` is an address in memory, or an offset in the header."""

    source: Source
    offset: int
    length: int
    at: int


class Layout:
    """The file of one snapshot: its header pages, and the way from an offset to memory."""

    def __init__(self, machine: Machine, segments: Sequence[Segment], notes: bytes) -> None:
        self.segments = tuple(segments)
        phnum = len(self.segments) + 1
        shnum = 2 if phnum >= elf.PN_XNUM else 0
        shoff = elf.EHDR_SIZE + phnum * elf.PHDR_SIZE
        notes_offset = shoff + shnum * elf.SHDR_SIZE
        parts = [
            elf.pack_ehdr(machine.elf_machine, phnum, shoff if shnum else 0, shnum),
            # p_align 4: with 8 elfutils and drgn look for notes padded to eight bytes.
            elf.pack_phdr(elf.PT_NOTE, 0, notes_offset, 0, len(notes), 0, 4),
        ]
        offset = elf.page_up(notes_offset + len(notes))
        # _offsets[i] is where the data of _loaded[i] begins; the last entry ends the file.
        self._offsets: list[int] = []
        self._loaded: list[Segment] = []
        for segment in self.segments:
            parts.append(
                elf.pack_phdr(
                    elf.PT_LOAD,
                    segment.flags,
                    offset,
                    segment.vaddr,
                    segment.filesz,
                    segment.memsz,
                    elf.PAGE_SIZE,
                )
            )
            if segment.filesz:
                self._offsets.append(offset)
                self._loaded.append(segment)
                offset += segment.filesz
        if shnum:
            parts.append(elf.pack_extended_numbering(phnum, notes_offset, len(notes)))
        parts.append(notes)
        header = b"".join(parts)
        self.header = header.ljust(elf.page_up(len(header)), b"\0")
        self.size = offset
        """Bytes of the whole file."""

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """The pieces of `length` bytes at `offset`, clipped to the file, in order."""
        end = min(offset + length, self.size)
        if offset < len(self.header) and offset < end:
            count = min(end, len(self.header)) - offset
            yield Extent(Source.HEADER, offset, count, offset)
            offset += count
        index = bisect_right(self._offsets, offset) - 1
        while offset < end:
            segment, base = self._loaded[index], self._offsets[index]
            count = min(end, base + segment.filesz) - offset
            yield Extent(Source.MEMORY, offset, count, segment.vaddr + offset - base)
            offset += count
            index += 1
