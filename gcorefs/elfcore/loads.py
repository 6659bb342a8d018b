"""Makes program headers of mappings: what becomes of each hole (segments.py).

A process may have 100,000 holes, and stands still meanwhile.  So nothing is done hole by hole
but what is rare: columns are handled by functions that are written in C.
"""

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate, compress
from math import isqrt

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.columns import Column, differences, dropping, indexes
from gcorefs.elfcore.elf import ELF64, page_up
from gcorefs.elfcore.segments import ZEROS, Loads, Segment, Segments

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

_TOO_LONG = _LITERAL_AT_LEAST + 1
"""The size from which on no hole is literal, but in a .bss."""

_NOT = b"\1\0" + bytes(254)
"""Translates a byte for each hole: 0 becomes 1, and 1 becomes 0."""


def load(segments: Segments) -> Loads:
    """The PT_LOADs of mappings."""
    divided = [*segments.divided.values()]
    starts, ends = array("Q"), array("Q")
    for mapping in divided:
        starts.extend(mapping.hole_starts)
        ends.extend(mapping.hole_ends)
    sizes = differences(ends, starts)
    zeros = sum(sizes)
    populated = sum(mapping.filesz for mapping in divided) - zeros
    is_literal = _literal(divided, starts, sizes, _most_literal(populated))
    shared = zeros - sum(compress(sizes, is_literal))
    longest = max(compress(sizes, is_literal.translate(_NOT)), default=0)
    area = min(longest, _area(populated, shared)) if shared else 0
    loads = Loads(area, shared, zeros, sum(segments.filesz) - shared)
    place = first = done = 0
    for index, mapping in segments.divided.items():
        place = _add_whole(loads, segments, slice(done, index), place)
        count = len(mapping.hole_starts)
        is_at_start = starts[first] == mapping.vaddr and sizes[first] < mapping.filesz
        if count == 1 and is_at_start and not is_literal[first]:
            place = _add_stack(loads, mapping, place)
        else:
            own = slice(first, first + count)
            place = _add_divided(loads, mapping, sizes[own], is_literal[own], place)
        first += count
        done = index + 1
    _add_whole(loads, segments, slice(done, None), place)
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


def _literal(mappings: Sequence[Segment], starts: Column, sizes: Column, most: int) -> bytearray:
    """For each hole of the mappings, in order, 1 if it gets no program header of its own.

    The smallest do, as long as the sum of them is at most `most` bytes, or less for longer ones.
    """
    first = 0
    own_sizes = sizes[:]
    undivided = []
    for mapping in mappings:
        if sizes[first] == mapping.filesz:
            # A hole that fills its mapping costs no program header more than the mapping does.
            own_sizes[first] = _TOO_LONG
        if mapping.is_bss:
            undivided.append((mapping, first))
        first += len(mapping.hole_starts)
    longest, fits = _longest_literal(Counter(filter(_TOO_LONG.__gt__, own_sizes)), most)
    found = bytearray(map(longest.__gt__, own_sizes))
    at = -1
    for _ in range(fits):
        at = own_sizes.index(longest, at + 1)
        found[at] = 1
    for mapping, first in undivided:
        border = mapping.vaddr + BSS_UNDIVIDED
        for index in range(first, first + len(mapping.hole_starts)):
            if sizes[index] < _AREA_AT_LEAST and starts[index] + sizes[index] <= border:
                found[index] = 1
    return found


def _longest_literal(numbers: Mapping[int, int], most: int) -> tuple[int, int]:
    """Of which size the last literal holes are, and how many of that size are literal.

    `numbers`: how many holes have each size.
    """
    total = 0
    size = fits = 0
    for size in sorted(numbers):
        room = most if size <= _LONGEST_LITERAL else _LITERAL_AT_LEAST
        fits = max(0, min(numbers[size], (room - total) // size))
        total += numbers[size] * size
        if fits < numbers[size]:
            break
    return size, fits


def _add_whole(loads: Loads, segments: Segments, own: slice, place: int) -> int:
    """Add mappings without holes.  `place` and the result are those of `_add_divided`."""
    starts, sizes = segments.vaddr[own], segments.filesz[own]
    places = array("Q", accumulate(sizes, initial=place))
    place = places.pop()
    loads.vaddr.extend(starts)
    loads.memsz.extend(segments.memsz[own])
    loads.filesz.extend(sizes)
    loads.flags.extend(segments.flags[own])
    loads.is_zero.extend(bytes(len(sizes)))
    loads.places.extend(places)
    loads.addresses.extend(compress(starts, sizes))
    loads.lengths.extend(filter(None, sizes))
    return place


def _add_stack(loads: Loads, mapping: Segment, place: int) -> int:
    """As `_add_divided` for a mapping that begins with its only hole, but fast: a process may have
    10,000 stacks."""
    border = mapping.hole_ends[0]
    rest = mapping.vaddr + mapping.filesz - border
    parts = range(mapping.vaddr, border, loads.area)
    count = len(parts)
    sizes = array("Q", (loads.area,)) * count
    sizes[-1] = border - parts[-1]
    loads.vaddr.extend(parts)
    loads.vaddr.append(border)
    loads.memsz.extend(sizes)
    loads.memsz.append(rest + mapping.memsz - mapping.filesz)
    loads.filesz.extend(sizes)
    loads.filesz.append(rest)
    loads.flags.extend(bytes((mapping.flags,)) * (count + 1))
    loads.is_zero.extend(b"\1" * count + b"\0")
    loads.places.extend(array("Q", (loads.in_file,)) * count)
    loads.places.append(place)
    loads.addresses.append(border)
    loads.lengths.append(rest)
    return place + rest


def _add_divided(
    loads: Loads, mapping: Segment, holes: Column, is_literal: bytearray, place: int
) -> int:
    """Add a mapping, divided at the start and the end of every hole that is not literal.

    `holes`: their sizes.  `place`: bytes of memory in the file before the mapping.  The result is
    the same behind it.
    """
    starts, ends = mapping.hole_starts, mapping.hole_ends
    literals = [*compress(range(len(holes)), is_literal)]
    _add_memory(loads, mapping, holes, literals)
    starts, ends, holes = (dropping(column, literals) for column in (starts, ends, holes))
    if max(holes, default=0) > loads.area:
        starts, ends = _in_parts(starts, ends, holes, loads.area)
        holes = differences(ends, starts)
    begins, sizes = _between(mapping, starts, ends)
    places = array("Q", accumulate(sizes, initial=place))
    place = places.pop()
    zeros = array("Q", (loads.in_file,)) * len(starts)
    # Nothing lies between the parts of a hole, or before a hole at the beginning.
    empty = [2 * index for index in indexes(sizes, 0)]
    pieces = dropping(_alternating(sizes, holes), empty)
    loads.vaddr.extend(dropping(_alternating(begins, starts), empty))
    loads.places.extend(dropping(_alternating(places, zeros), empty))
    loads.is_zero.extend(dropping(bytearray(b"\0\1" * len(starts) + b"\0"), empty))
    loads.flags.extend(bytes((mapping.flags,)) * len(pieces))
    loads.filesz.extend(pieces)
    pieces[-1] += mapping.memsz - mapping.filesz  # what the core lacks is at the end
    loads.memsz.extend(pieces)
    return place


def _add_memory(loads: Loads, mapping: Segment, holes: Column, literals: Sequence[int]) -> None:
    """Add what the file holds of a mapping: the memory between its holes, and the holes that are
    literal, by their indexes."""
    begins, sizes = _between(mapping, mapping.hole_starts, mapping.hole_ends)
    # There may be nothing before the first hole and behind the last.
    done = 0 if sizes[0] else 1
    for index in literals:
        loads.addresses.extend(begins[done : index + 1])
        loads.addresses.append(ZEROS)
        loads.lengths.extend(sizes[done : index + 1])
        loads.lengths.append(holes[index])
        done = index + 1
    end = len(sizes) if sizes[-1] else len(holes)
    loads.addresses.extend(begins[done:end])
    loads.lengths.extend(sizes[done:end])


def _between(mapping: Segment, starts: Column, ends: Column) -> tuple[Column, Column]:
    """Starts and sizes of what lies before, between and behind some holes of a mapping."""
    begins = array("Q", (mapping.vaddr,)) + ends
    borders = starts + array("Q", (mapping.vaddr + mapping.filesz,))
    return begins, differences(borders, begins)


def _in_parts(starts: Column, ends: Column, sizes: Column, most: int) -> tuple[Column, Column]:
    """Starts and ends of the same holes, divided into parts of at most `most` bytes."""
    part_starts, part_ends = array("Q"), array("Q")
    done = 0
    for index in [index for index, size in enumerate(sizes) if size > most]:
        inner = range(starts[index] + most, ends[index], most)
        part_starts.extend(starts[done : index + 1])
        part_starts.extend(inner)
        part_ends.extend(ends[done:index])
        part_ends.extend(inner)
        part_ends.append(ends[index])
        done = index + 1
    part_starts.extend(starts[done:])
    part_ends.extend(ends[done:])
    return part_starts, part_ends


def _alternating(one: Column, other: Column) -> Column:
    """The first of one, the first of the other, the second of one ... and the last of one, which is
    longer by one."""
    both = array("Q", (0,)) * (len(one) + len(other))
    both[::2] = one
    both[1::2] = other
    return both
