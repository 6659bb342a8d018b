"""Memory as program headers describe it, and zeros that the file holds only once.

A process may reserve a mapping of terabytes and populate few of its pages.  A run of pages
that was never populated (a hole) reads as zeros, and a program header may point anywhere in the
file.  So all holes point into one area of zeros, and the file is as large as the populated
memory.  Their p_filesz is not 0: a p_filesz of 0 tells readers that the core does not have the
memory, and gdb shows zeros there, lldb and drgn an error.

A hole costs program headers, and lldb ends a read at the end of a segment.  So the smallest
holes stay literal, zeros between other bytes, as long as the sum of these zeros is small.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import isqrt
from operator import mul, sub
from typing import TypeAlias

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.elf import ELF64, ElfClass, page_up

# Literal zeros may take this part of the populated bytes of mappings that have holes.  The part is
# smaller above _MANY bytes: a quarter of 4 GiB costs more than some thousand program headers.
_LITERAL_SHARE = 4
_LITERAL_SHARE_OF_MANY = 64
_MANY = 64 << 20

# A small process has one program header for each mapping, as in the kernel's cores.
_LITERAL_AT_LEAST = 512 << 10
_LONGEST_LITERAL = 16 << 10
"""In a larger process.  Few reads cross a longer hole; its zeros cost more than they save."""

# An area of n bytes needs R / n program headers of 56 bytes for R bytes of zeros.  The sum of
# both is least where n is the square root of 56 R.  A larger area needs fewer program headers.
# It grows until about a thousand are enough, but not beyond this part of the populated bytes.
_AREA_AT_LEAST = 1 << 20
_AREA_SHARE = 32
_ENOUGH_LOADS = 1024

BSS_UNDIVIDED = 4 << 20
"""In this many bytes from the start of a .bss, holes smaller than the smallest area are literal."""

ZEROS = 1
"""Stands for the area of zeros in place of an address: every address is a multiple of a page."""

Column: TypeAlias = "array[int]"
"""Of 64-bit numbers.  A process may have 100,000 holes: a column handles all of them at once."""


def _column() -> Column:
    return array("Q")


@dataclass(slots=True)  # as Vma, not frozen
class Segment:
    """One mapping: `memsz` bytes of memory from `vaddr`, of which the core has `filesz`.

    Its holes are runs of whole pages in the first `filesz` bytes that were never populated.  They
    are in order, and no hole touches the next.
    """

    vaddr: int
    memsz: int
    filesz: int
    flags: int
    hole_starts: Column = field(default_factory=_column)
    hole_ends: Column = field(default_factory=_column)
    is_bss: bool = False
    """It follows a mapping of a program's file, and readers take both for one mapping: py-spy
    searches .data and .bss as one piece of the file (src/coredump.rs)."""

    @property
    def holes(self) -> int:
        """Bytes."""
        return sum(self.hole_ends) - sum(self.hole_starts)

    @property
    def populated(self) -> int:
        return self.filesz - self.holes


@dataclass(frozen=True, slots=True)
class Loads:
    """The PT_LOADs of a file and the memory behind them."""

    area: int = 0
    """Bytes of the area of zeros, 0 where there is none."""
    flags: Column = field(default_factory=_column)
    vaddr: Column = field(default_factory=_column)
    memsz: Column = field(default_factory=_column)
    filesz: Column = field(default_factory=_column)
    is_zero: bytearray = field(default_factory=bytearray)
    """1 for a PT_LOAD that lies in the area of zeros."""
    addresses: Column = field(default_factory=_column)
    """The memory that the file holds, in order: an address, or ZEROS for literal zeros."""
    lengths: Column = field(default_factory=_column)
    """The bytes of each of `addresses`."""

    @property
    def shared(self) -> int:
        """Bytes of memory that the area of zeros stands for."""
        return sum(map(mul, self.filesz, self.is_zero))


def that_fit(form: ElfClass, mappings: Sequence[Segment], header: int) -> Sequence[Segment]:
    """The mappings.  A mapping whose file offset does not fit into p_offset loses its memory.

    This happens to a 32-bit process that has populated nearly all of its address space.
    `header`: bytes in front of the memory, without the program headers.
    """
    pieces = sum(1 + 2 * len(mapping.hole_starts) for mapping in mappings)
    room = form.most - header - form.phdr_size * pieces
    if sum(mapping.filesz for mapping in mappings) <= room:
        return mappings
    found = []
    for mapping in mappings:
        fits = mapping.filesz <= room
        room -= mapping.filesz if fits else 0
        found.append(mapping if fits else Segment(mapping.vaddr, mapping.memsz, 0, mapping.flags))
    return found


def load(mappings: Sequence[Segment]) -> Loads:
    """The PT_LOADs of `mappings`, which are in address order."""
    divided = [mapping for mapping in mappings if mapping.hole_starts]
    holes = sum(mapping.holes for mapping in divided)
    populated = sum(mapping.filesz for mapping in divided) - holes
    last_literal = _last_literal(divided, populated)
    shared = _column()
    for mapping in divided:
        for hole in _holes(mapping):
            if not _is_literal(mapping, hole, last_literal):
                shared.append(hole[0])
    area = min(max(shared), _area(populated, sum(shared))) if shared else 0
    loads = Loads(area)
    for mapping in mappings:
        if not mapping.hole_starts:  # the usual case in a process of 100,000 mappings
            loads.vaddr.append(mapping.vaddr)
            loads.memsz.append(mapping.memsz)
            loads.filesz.append(mapping.filesz)
            loads.flags.append(mapping.flags)
            loads.is_zero.append(0)
            if mapping.filesz:
                loads.addresses.append(mapping.vaddr)
                loads.lengths.append(mapping.filesz)
        elif len(mapping.hole_starts) > 1 or not _add_stack(loads, mapping, last_literal):
            _add_pieces(loads, mapping, last_literal)
    return loads


def most_bytes(
    populated: int, sparse: int, whole: int = 0, mappings: int = 1, undivided: int = 0
) -> int:
    """The most bytes that a file can have, without its ELF header and notes.

    `sparse`: bytes of the mappings that may have holes.  `populated`: how many of these bytes are
    populated.  `undivided`: how many of them lie at the beginning of a .bss.  `whole`: bytes of
    the mappings without holes.  `mappings`: the number of all mappings.
    """
    populated = min(populated, sparse)
    literal = _most_literal(populated) + undivided
    area = _area(populated, sparse)
    # A mapping has at most one hole more than populated runs, and each is at least a page.  A hole
    # is cut in pieces of the size of the area, and the memory behind it is a piece as well.
    holes = min(populated // PAGE_SIZE + mappings, sparse // PAGE_SIZE)
    cuts = min(sparse // _AREA_AT_LEAST, isqrt(sparse // ELF64.phdr_size) + 1)
    loads = 1 + mappings + 2 * holes + cuts
    return whole + min(sparse, populated + literal + area) + ELF64.phdr_size * loads


def _most_literal(populated: int) -> int:
    """The most bytes of literal zeros between `populated` bytes."""
    few = min(populated, _MANY)
    share = few // _LITERAL_SHARE + (populated - few) // _LITERAL_SHARE_OF_MANY
    return max(share, _LITERAL_AT_LEAST)


def _area(populated: int, reserved: int) -> int:
    """Bytes of the area of zeros that stands for `reserved` bytes of holes."""
    wanted = min(populated // _AREA_SHARE, reserved // _ENOUGH_LOADS)
    return page_up(max(wanted, isqrt(ELF64.phdr_size * reserved), _AREA_AT_LEAST))


def _holes(mapping: Segment) -> Iterator[tuple[int, int]]:
    """Length and start of each hole."""
    return zip(map(sub, mapping.hole_ends, mapping.hole_starts), mapping.hole_starts, strict=True)


def _is_literal(mapping: Segment, hole: tuple[int, int], last: tuple[int, int]) -> bool:
    """True if `hole` (length and start) gets no program header of its own."""
    if mapping.is_bss and hole[0] < _AREA_AT_LEAST:
        return hole[1] + hole[0] <= mapping.vaddr + BSS_UNDIVIDED or hole <= last
    # A hole that fills its mapping costs no program header more than the mapping does.
    return hole <= last and hole[0] < mapping.filesz


def _last_literal(mappings: Sequence[Segment], populated: int) -> tuple[int, int]:
    """Length and start of the largest hole that stays literal."""
    holes = sorted(
        hole
        for mapping in mappings
        for hole in _holes(mapping)
        if hole[0] <= _LITERAL_AT_LEAST and hole[0] < mapping.filesz
    )
    most = _most_literal(populated)
    total = 0
    last = (0, 0)
    for hole in holes:
        total += hole[0]
        if total > (most if hole[0] <= _LONGEST_LITERAL else _LITERAL_AT_LEAST):
            break
        last = hole
    return last


def _add_stack(loads: Loads, mapping: Segment, last_literal: tuple[int, int]) -> bool:
    """Add `mapping` if it looks like the stack of a thread: one hole, then populated memory.

    False if it does not.  A process may have 10,000 stacks, and this way is fast.
    """
    start, border = mapping.hole_starts[0], mapping.hole_ends[0]
    hole, rest = border - start, mapping.filesz - (border - start)
    if start != mapping.vaddr or not rest or hole > loads.area:
        return False
    if _is_literal(mapping, (hole, start), last_literal):
        return False
    loads.vaddr.extend((start, border))
    loads.memsz.extend((hole, mapping.memsz - hole))
    loads.filesz.extend((hole, rest))
    loads.flags.extend((mapping.flags, mapping.flags))
    loads.is_zero.extend(b"\1\0")
    loads.addresses.append(border)
    loads.lengths.append(rest)
    return True


def _add_pieces(loads: Loads, mapping: Segment, last_literal: tuple[int, int]) -> None:
    """Add `mapping`, divided at the start and the end of every hole that the area stands for.

    Most holes fit into the area and have memory before and behind them.  A row of such holes is
    handled as columns.
    """
    pieces = _Pieces(loads, mapping.vaddr)
    done = 0
    for index, hole in enumerate(_holes(mapping)):
        is_literal = _is_literal(mapping, hole, last_literal)
        if is_literal or hole[0] > loads.area or hole[1] == mapping.vaddr:
            pieces.add_row(mapping.hole_starts[done:index], mapping.hole_ends[done:index])
            pieces.add_one(hole[1], hole[1] + hole[0], is_literal)
            done = index + 1
    pieces.add_row(mapping.hole_starts[done:], mapping.hole_ends[done:])
    pieces.add_rest(mapping.vaddr + mapping.filesz)
    _add(loads, mapping, pieces.starts, pieces.is_zero)


class _Pieces:
    """Makes the pieces of one mapping, from its start to its end."""

    def __init__(self, loads: Loads, start: int) -> None:
        self.starts = array("Q")
        self.is_zero = bytearray()
        self._loads = loads
        self._begin = start  # of the current piece
        self._at = start  # of the memory in it that is not added yet

    def add_row(self, starts: Column, ends: Column) -> None:
        """Add holes that have memory between them.  Each of them lies in the area of zeros."""
        if not starts:
            return
        memory = array("Q", [self._at]) + ends[:-1]
        self._loads.addresses.extend(memory)
        self._loads.lengths.extend(array("Q", map(sub, starts, memory)))
        memory[0] = self._begin
        pieces = array("Q", bytes(2 * starts.itemsize * len(starts)))
        pieces[::2] = memory
        pieces[1::2] = starts
        self.starts.extend(pieces)
        self.is_zero.extend(b"\0\1" * len(starts))
        self._begin = self._at = ends[-1]

    def add_one(self, start: int, end: int, is_literal: bool) -> None:
        """Add any hole."""
        if start > self._at:
            self._loads.addresses.append(self._at)
            self._loads.lengths.append(start - self._at)
        self._at = end
        if is_literal:
            self._loads.addresses.append(ZEROS)
            self._loads.lengths.append(end - start)
            return
        self._end_piece(start)
        parts = range(start, end, self._loads.area)
        self.starts.extend(parts)
        self.is_zero.extend(b"\1" * len(parts))
        self._begin = end

    def add_rest(self, end: int) -> None:
        if end > self._at:
            self._loads.addresses.append(self._at)
            self._loads.lengths.append(end - self._at)
        self._end_piece(end)

    def _end_piece(self, end: int) -> None:
        if end > self._begin:
            self.starts.append(self._begin)
            self.is_zero.append(0)


def _add(loads: Loads, mapping: Segment, starts: Column, is_zero: bytearray) -> None:
    ends = starts[1:]
    ends.append(mapping.vaddr + mapping.memsz)
    sizes = array("Q", map(sub, ends, starts))
    loads.vaddr.extend(starts)
    loads.memsz.extend(sizes)
    sizes[-1] -= mapping.memsz - mapping.filesz  # memory that the core lacks is at the end
    loads.filesz.extend(sizes)
    loads.flags.extend(array("Q", [mapping.flags]) * len(starts))
    loads.is_zero.extend(is_zero)
