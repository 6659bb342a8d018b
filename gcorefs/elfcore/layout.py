"""Where every byte of the file lies.

Rules of this file:
- Offsets are computed here, once.  Other code asks the layout for them.
- Same input, same bytes: no process, no clock, no iteration order of a set.
- Extents tile the file: every offset below `size` is in exactly one extent, in order, with
  no gap and no overlap.  Any split of reads therefore gives the bytes of one whole read.
- The file begins with the header: ELF header, program headers, section headers if there are
  any, notes, zeros up to a page boundary.  Memory follows in address order, so that a reader
  that only goes forward (a pipe) meets everything before it needs it.
- The area of zeros (segments.py) is the end of the file.  libdw takes a segment for the
  continuation of the previous segment unless its offset is higher than the end of that segment
  (elfutils, libdwfl/core-file.c, dwfl_elf_phdr_memory_callback).  With the area in front of the
  memory, libdw did not find the list of libraries.
"""

import copy
import enum
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from gcorefs.arch.machine import Machine
from gcorefs.elfcore import elf
from gcorefs.elfcore.columns import Column, differences, raised
from gcorefs.elfcore.header_store import Piece, Pieces
from gcorefs.elfcore.segments import ZEROS, Loads


class Source(enum.Enum):
    """Where the bytes of an extent come from."""

    HEADER = "header"
    MEMORY = "memory"
    ZEROS = "zeros"


@dataclass(frozen=True, slots=True)
class Extent:
    """A piece of the file.  `at` is an address in memory, or an offset in the header."""

    source: Source
    offset: int
    length: int
    at: int


class Header(Protocol):
    """The bytes before the memory."""

    @property
    def size(self) -> int: ...

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`.  The range must not reach beyond the end.  Blocks if these
        bytes are still to be made."""

    def __bytes__(self) -> bytes: ...


class Layout:
    """The file of one snapshot: its header pages, and the map from file offsets to memory."""

    def __init__(self, machine: Machine, loads: Loads, notes: Pieces) -> None:
        form = elf.CLASSES[machine.word_size]
        self.phnum = phnum = len(loads.vaddr) + 1
        shnum = 2 if phnum >= elf.PN_XNUM else 0
        shoff = form.ehdr_size + phnum * form.phdr_size
        notes_offset = shoff + shnum * form.shdr_size
        memory_offset = elf.page_up(notes_offset + notes.size)
        zeros_offset = memory_offset + loads.in_file
        offsets = raised(loads.places, memory_offset)
        parts: list[Piece] = [
            form.pack_ehdr(machine.elf_machine, phnum, shoff if shnum else 0, shnum),
            # p_align 4: with 8, elfutils and drgn expect notes padded to eight bytes.
            form.pack_phdr(elf.ProgramHeader(elf.PT_NOTE, 0, notes_offset, 0, notes.size, 0, 4)),
            form.pack_loads(loads.flags, offsets, loads.vaddr, loads.filesz, loads.memsz),
        ]
        if shnum:
            parts.append(form.pack_extended_numbering(phnum, notes_offset, notes.size))
        header = Pieces([*parts, *notes])
        header.extend([bytes(memory_offset - header.size)])
        self._header: Header = header
        self.notes_offset = notes_offset
        """Where the notes begin.  Only headers lie before them."""
        self.memory_offset = memory_offset
        """Where the memory begins."""
        self.zeros_offset = zeros_offset
        """Where the memory ends and the area of zeros begins."""
        # Extent i is from _offsets[i] to _offsets[i + 1] and holds memory from _addresses[i] on.
        self._addresses = loads.addresses
        self._offsets = array("Q", accumulate(loads.lengths, initial=memory_offset))
        if loads.area:
            self._addresses.append(ZEROS)
            self._offsets.append(zeros_offset + loads.area)
        self.size = self._offsets[-1]
        """Bytes of the whole file."""

    def with_header(self, header: Header) -> "Layout":
        """The same layout with its header kept in another place."""
        layout = copy.copy(self)
        layout._header = header
        return layout

    @property
    def header(self) -> bytes:
        """The whole header, which may be large."""
        return bytes(self._header)

    def read_header(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`.  The range must end before `memory_offset`."""
        self._header.read_into(offset, buffer)

    def address(self, offset: int, length: int) -> int | None:
        """The address of the `length` bytes at `offset`, or ZEROS, if all of them lie in one
        extent behind the header; else None."""
        offsets = self._offsets
        index = bisect_right(offsets, offset) - 1
        if index < 0 or index + 1 == len(offsets) or offset + length > offsets[index + 1]:
            return None
        address = self._addresses[index]
        return address if address == ZEROS else address + offset - offsets[index]

    def memory(self, offset: int, length: int) -> tuple[Column, Column]:
        """Addresses, or ZEROS, and lengths of the extents of `length` bytes at `offset`.  The
        range must lie between the header and the end of the file."""
        addresses, borders = self._between(offset, offset + length)
        return addresses, differences(borders[1:], borders[:-1])

    def _between(self, offset: int, end: int) -> tuple[Column, Column]:
        """Addresses and boundaries of the extents between two offsets behind the header."""
        first = bisect_right(self._offsets, offset) - 1
        last = bisect_left(self._offsets, end, first)
        addresses = self._addresses[first:last]
        borders = self._offsets[first : last + 1]
        if addresses[0] != ZEROS:
            addresses[0] += offset - borders[0]
        borders[0], borders[-1] = offset, end
        return addresses, borders

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """The pieces of `length` bytes at `offset`, clipped to the file, in order."""
        end = min(offset + length, self.size)
        if offset < self.memory_offset and offset < end:
            count = min(end, self.memory_offset) - offset
            yield Extent(Source.HEADER, offset, count, offset)
            offset += count
        index = bisect_right(self._offsets, offset) - 1
        while offset < end:
            base, address = self._offsets[index], self._addresses[index]
            count = min(end, self._offsets[index + 1]) - offset
            if address == ZEROS:
                yield Extent(Source.ZEROS, offset, count, 0)
            else:
                yield Extent(Source.MEMORY, offset, count, address + offset - base)
            offset += count
            index += 1
