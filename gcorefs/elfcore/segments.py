"""Memory as program headers tell of it, and zeros that the file holds only once.

A mapping may be reserved by the terabyte and populated by the page.  What was never populated
reads as zeros, and a program header may point anywhere in the file: so all such runs point
into one area of zeros, and the file is as large as what is populated.  Their p_filesz is not
0, by which readers know memory that is not in the core: gdb shows zeros there, lldb and drgn
an error.

A run costs program headers, and lldb ends a read at the border of a segment.  So the smallest
runs stay what they are, zeros between other bytes, as long as all of these are few.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isqrt

from gcorefs.elfcore.elf import PHDR_SIZE, page_up

# Of the populated bytes: what zeros between them may take.
_LITERAL_SHARE = 4

# A process as small as that has one program header for each mapping, as in the kernel's cores.
_LITERAL_AT_LEAST = 512 << 10
_LONGEST_LITERAL = 16 << 10
"""In a larger one: few reads go across a longer run, and it would cost more than it saves."""

# An area of n bytes needs R / n program headers of 56 bytes for R bytes of zeros.  The sum of
# both is least where n is the root of 56 R.  A larger area makes fewer program headers; it may
# be as large as it takes for a thousand of them, and an eighth of the populated bytes.
_AREA_AT_LEAST = 1 << 20
_AREA_SHARE = 8
_ENOUGH_LOADS = 1024

ZEROS = 1
"""In place of an address, which lies on a page border."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One mapping: `memsz` bytes of memory from `vaddr`, of which the core has `filesz`."""

    vaddr: int
    memsz: int
    filesz: int
    flags: int
    holes: Sequence[tuple[int, int]] = ()
    """Where, in what the core has, nothing was ever populated: start and end of each run, on
    page borders, in order, none touching the next."""

    @property
    def populated(self) -> int:
        return self.filesz - sum(end - start for start, end in self.holes)


@dataclass(frozen=True, slots=True)
class Loads:
    """The PT_LOADs of a file and the memory behind them, as columns: there may be 100,000."""

    area: int = 0
    """Bytes of the area of zeros, 0 where there is none."""
    flags: "array[int]" = field(default_factory=lambda: array("Q"))
    vaddr: "array[int]" = field(default_factory=lambda: array("Q"))
    memsz: "array[int]" = field(default_factory=lambda: array("Q"))
    filesz: "array[int]" = field(default_factory=lambda: array("Q"))
    is_zero: bytearray = field(default_factory=bytearray)
    """1 where all of it lies in the area of zeros."""
    addresses: "array[int]" = field(default_factory=lambda: array("Q"))
    """What the file holds of memory, in order: addresses, or ZEROS that are between them ..."""
    lengths: "array[int]" = field(default_factory=lambda: array("Q"))
    """... and how many bytes of each."""


def load(mappings: Sequence[Segment]) -> Loads:
    """The PT_LOADs of these mappings, which stand in address order."""
    populated = sum(mapping.populated for mapping in mappings)
    last_literal = _last_literal(mappings, populated)
    shared = [
        end - start
        for mapping in mappings
        for start, end in mapping.holes
        if (end - start, start) > last_literal or end - start == mapping.filesz
    ]
    area = 0
    if shared:
        reserved = sum(shared)
        wanted = min(populated // _AREA_SHARE, reserved // _ENOUGH_LOADS)
        least = max(isqrt(PHDR_SIZE * reserved), _AREA_AT_LEAST)
        area = min(max(shared), page_up(max(wanted, least)))
    loads = Loads(area)
    for mapping in mappings:
        if mapping.holes:
            _add_pieces(loads, mapping, last_literal)
        else:
            _add(loads, mapping, [mapping.vaddr], b"\0")
            if mapping.filesz:
                loads.addresses.append(mapping.vaddr)
                loads.lengths.append(mapping.filesz)
    return loads


def _last_literal(mappings: Sequence[Segment], populated: int) -> tuple[int, int]:
    """Length and start of the last hole, by these, of which no program header is to be made."""
    # One that is a whole mapping costs no program header more than the mapping does.
    holes = sorted(
        (end - start, start)
        for mapping in mappings
        for start, end in mapping.holes
        if end - start <= _LITERAL_AT_LEAST and end - start < mapping.filesz
    )
    most = max(populated // _LITERAL_SHARE, _LITERAL_AT_LEAST)
    total = 0
    last = (0, 0)
    for hole in holes:
        total += hole[0]
        if total > (most if hole[0] <= _LONGEST_LITERAL else _LITERAL_AT_LEAST):
            break
        last = hole
    return last


def _add_pieces(loads: Loads, mapping: Segment, last_literal: tuple[int, int]) -> None:
    """`mapping`, divided where the area of zeros begins and ends to stand for it."""
    starts: list[int] = []  # of each piece; the next one is its end
    is_zero = bytearray()
    addresses: list[int] = []
    lengths: list[int] = []
    begin = at = mapping.vaddr  # of the piece under way, and of its memory not yet added
    for start, end in mapping.holes:
        if start > at:
            addresses.append(at)
            lengths.append(start - at)
        at = end
        if (end - start, start) <= last_literal and end - start < mapping.filesz:
            addresses.append(ZEROS)
            lengths.append(end - start)
            continue
        if start > begin:
            starts.append(begin)
            is_zero.append(0)
        pieces = range(start, end, loads.area)
        starts += pieces
        is_zero += b"\1" * len(pieces)
        begin = end
    file_end = mapping.vaddr + mapping.filesz
    if at < file_end:
        addresses.append(at)
        lengths.append(file_end - at)
    if begin < file_end:
        starts.append(begin)
        is_zero.append(0)
    loads.addresses.extend(addresses)
    loads.lengths.extend(lengths)
    _add(loads, mapping, starts, is_zero)


def _add(loads: Loads, mapping: Segment, starts: list[int], is_zero: bytes | bytearray) -> None:
    ends = [*starts[1:], mapping.vaddr + mapping.memsz]
    sizes = array("Q", [end - start for start, end in zip(starts, ends, strict=True)])
    loads.vaddr.extend(starts)
    loads.memsz.extend(sizes)
    sizes[-1] -= mapping.memsz - mapping.filesz  # what the core does not have is at the end
    loads.filesz.extend(sizes)
    loads.flags.extend([mapping.flags] * len(starts))
    loads.is_zero.extend(is_zero)
