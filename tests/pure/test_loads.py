"""Never-populated memory takes program headers, and few bytes of the file."""

import random
from array import array
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.elf import ELF64
from gcorefs.elfcore.loads import BSS_UNDIVIDED, most_bytes
from gcorefs.elfcore.segments import ZEROS, Loads, Segment
from tests.pure.cores import load

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
BASE = 0x7F0000000000


def mapping(size: int, populated: Sequence[tuple[int, int]], at: int = BASE) -> Segment:
    """`size` bytes, all in the core.  `populated`: start and end of the populated runs."""
    starts, ends = array("Q"), array("Q")
    border = 0
    for start, end in [*populated, (size, size)]:
        if start > border:
            starts.append(at + border)
            ends.append(at + start)
        border = end
    return Segment(at, size, size, 6, starts, ends)


def literal_zeros(loads: Loads) -> int:
    pairs = zip(loads.addresses, loads.lengths, strict=True)
    return sum(length for address, length in pairs if address == ZEROS)


def file_size(loads: Loads) -> int:
    """The size without the notes."""
    return loads.area + sum(loads.lengths) + ELF64.phdr_size * len(loads.vaddr)


def scattered(size: int, pages: int) -> Segment:
    return mapping(size, scattered_runs(size // PAGE_SIZE, pages, seed=7))


def scattered_runs(of: int, pages: int, seed: int) -> list[tuple[int, int]]:
    """Some runs (start, end) in so many pages."""
    runs: list[tuple[int, int]] = []
    for number in sorted(random.Random(seed).sample(range(of), pages)):
        start = number * PAGE_SIZE
        if runs and runs[-1][1] == start:
            start, _ = runs.pop()
        runs.append((start, (number + 1) * PAGE_SIZE))
    return runs


def test_a_mapping_without_holes_is_one_segment() -> None:
    loads = load([mapping(8 * MIB, [(0, 8 * MIB)])])
    assert (loads.area, list(loads.is_zero)) == (0, [0])
    assert list(loads.lengths) == [8 * MIB]


def test_a_small_process_has_one_segment_for_each_mapping() -> None:
    # The stack and the heap of a small program.
    heap = mapping(132 * KIB, [(0, 8 * KIB)])
    stack = mapping(132 * KIB, [(120 * KIB, 132 * KIB)], at=BASE + GIB)
    loads = load([heap, stack])
    assert (loads.area, list(loads.filesz), list(loads.is_zero)) == (0, [132 * KIB] * 2, [0, 0])
    assert literal_zeros(loads) == 244 * KIB


def test_a_large_hole_is_many_segments_of_one_area() -> None:
    loads = load([mapping(8 * MIB + 8 * KIB, [(8 * MIB, 8 * MIB + 8 * KIB)])])
    assert loads.area == MIB
    assert list(loads.is_zero) == [1] * 8 + [0]
    assert list(loads.vaddr) == [BASE + n * MIB for n in range(9)]
    assert list(loads.filesz) == list(loads.memsz) == [MIB] * 8 + [8 * KIB]
    assert list(loads.addresses) == [BASE + 8 * MIB]


def test_a_mapping_that_is_all_hole_never_lies_in_the_file() -> None:
    # It needs a program header in any case, however small it is.
    loads = load([mapping(PAGE_SIZE, [])])
    assert (loads.area, list(loads.is_zero), list(loads.lengths)) == (PAGE_SIZE, [1], [])


def test_a_bss_is_divided_only_for_large_holes() -> None:
    # Of 40 MiB of .bss, 4 KiB are written, and 16 MiB at the end.
    whole = mapping(40 * MIB, [(900 * KIB, 904 * KIB), (24 * MIB, 40 * MIB)])
    bss = replace(whole, is_bss=True)
    assert list(load([whole]).is_zero) == [1, 0] + [1] * 24 + [0]
    loads = load([bss])
    assert list(loads.is_zero) == [0] + [1] * 24 + [0]
    assert loads.filesz[0] == 904 * KIB
    assert literal_zeros(loads) == 900 * KIB


def test_what_the_core_does_not_have_is_at_the_end_of_the_last_segment() -> None:
    base = mapping(2 * MIB, [(0, PAGE_SIZE)])
    loads = load([Segment(base.vaddr, 3 * MIB, 2 * MIB, 4, base.hole_starts, base.hole_ends)])
    assert sum(loads.memsz) == 3 * MIB
    assert sum(loads.filesz) == 2 * MIB
    assert loads.memsz[-1] == loads.filesz[-1] + MIB
    assert list(loads.memsz)[:-1] == list(loads.filesz)[:-1]


def test_the_smallest_holes_are_zeros_between_other_bytes() -> None:
    # Some 40 MiB are populated.  Holes of 4 KiB are filled first; a quarter of 40 MiB has room for
    # all of them and for some of 12 KiB.
    runs = []
    at = 0
    sizes = [4 * KIB] * 1024 + [12 * KIB] * 1024 + [128 * KIB] * 8
    for size in sizes:
        runs.append((at, at + 20 * KIB))
        at += 20 * KIB + size
    whole = mapping(at, runs)
    loads = load([whole])
    kept = literal_zeros(loads)
    quarter = whole.populated // 4
    assert quarter - 12 * KIB < kept <= quarter
    zeros = [size for size, zero in zip(loads.filesz, loads.is_zero, strict=True) if zero]
    assert 4 * KIB not in zeros
    assert zeros.count(12 * KIB) == 1024 - (kept - 4 * MIB) // (12 * KIB)
    assert zeros.count(128 * KIB) == 8


def test_100_gib_with_200_mib_in_scattered_pages_is_a_file_of_little_more() -> None:
    loads = load([scattered(100 * GIB, 51_200)])
    assert file_size(loads) < 200 * MIB * 1.2
    assert len(loads.vaddr) < 110_000


def test_a_terabyte_that_is_all_but_untouched_is_a_small_file() -> None:
    loads = load([mapping(1 << 40, [(1 << 39, (1 << 39) + PAGE_SIZE)])])
    assert file_size(loads) < 20 * MIB


def test_a_large_process_has_no_large_area_of_zeros() -> None:
    # 64 GiB, and 10 GiB that are not used yet.
    loads = load([mapping(74 * GIB, [(0, 64 * GIB)])])
    assert loads.area == 10 * MIB
    assert len(loads.vaddr) == 1 + 1024


@given(
    st.lists(st.tuples(st.integers(1, 64), st.integers(1, 2048)), min_size=1, max_size=40),
    st.integers(1, 1 << 30),
)
def test_segments_tile_the_mapping_and_what_is_populated_is_in_the_file(
    lengths: list[tuple[int, int]], at: int
) -> None:
    runs = []
    end = 0
    for hole, run in lengths:
        runs.append(((end + hole) * PAGE_SIZE, (end + hole + run) * PAGE_SIZE))
        end += hole + run
    whole = mapping(end * PAGE_SIZE, runs, at * PAGE_SIZE)
    loads = load([whole])
    address = whole.vaddr
    for start, size in zip(loads.vaddr, loads.memsz, strict=True):
        assert start == address
        address += size
    assert address == whole.vaddr + whole.memsz
    data = [
        (at, at + length)
        for at, length in zip(loads.addresses, loads.lengths, strict=True)
        if at != ZEROS
    ]
    assert data == [(whole.vaddr + start, whole.vaddr + end) for start, end in runs]
    assert literal_zeros(loads) <= max(whole.populated // 4, 512 * KIB)
    zeros = [size for size, zero in zip(loads.filesz, loads.is_zero, strict=True) if zero]
    assert max(zeros, default=0) == loads.area


def literals_of(mappings: Sequence[Segment]) -> set[int]:
    """The starts of the holes that get no program header of their own, decided one by one."""
    populated = sum(each.populated for each in mappings if each.hole_starts)
    few = min(populated, 64 * MIB)
    most = max(few // 4 + (populated - few) // 64, 512 * KIB)
    found = set()
    holes = []
    for each in mappings:
        for start, end in zip(each.hole_starts, each.hole_ends, strict=True):
            size = end - start
            if each.is_bss and size < MIB and end <= each.vaddr + BSS_UNDIVIDED:
                found.add(start)
            if size <= 512 * KIB and size < each.filesz:
                holes.append((size, start))
    total = 0
    for size, start in sorted(holes):
        total += size
        if total > (most if size <= 16 * KIB else 512 * KIB):
            break
        found.add(start)
    return found


def hole_by_hole(mappings: Sequence[Segment], loads: Loads) -> None:
    """Compare `loads` with the PT_LOADs that a loop over all holes makes."""
    literals = literals_of(mappings)
    pieces: list[tuple[int, ...]] = []
    memory: list[tuple[int, int]] = []
    place = 0

    def add(start: int, end: int, mapping: Segment, is_zero: bool) -> None:
        nonlocal place
        if start < end or not mapping.filesz:
            size = end - start
            where = loads.in_file if is_zero else place
            pieces.append((start, size, size, where, mapping.flags, is_zero))
            place += 0 if is_zero else size

    for each in mappings:
        begin = at = each.vaddr
        for start, end in zip(each.hole_starts, each.hole_ends, strict=True):
            memory.append((at, start - at))
            at = end
            if start in literals:
                memory.append((ZEROS, end - start))
                continue
            add(begin, start, each, is_zero=False)
            for part in range(start, end, loads.area):
                add(part, min(part + loads.area, end), each, is_zero=True)
            begin = end
        end = each.vaddr + each.filesz
        memory.append((at, end - at))
        add(begin, end, each, is_zero=False)
        start, size, filesz, *rest = pieces[-1]
        pieces[-1] = (start, size + each.memsz - each.filesz, filesz, *rest)
    columns = (loads.vaddr, loads.memsz, loads.filesz, loads.places, loads.flags, loads.is_zero)
    assert [*zip(*columns, strict=True)] == pieces
    memory = [(address, length) for address, length in memory if length]
    assert [*zip(loads.addresses, loads.lengths, strict=True)] == memory
    assert loads.in_file == sum(loads.lengths)
    assert loads.zeros == sum(each.holes for each in mappings)
    assert loads.shared == sum(filesz for _, _, filesz, _, _, is_zero in pieces if is_zero)


lengths_of_holes = st.one_of(st.sampled_from((1, 2, 4, 5)), st.integers(1, 2000))
shapes_of_mappings = st.lists(
    st.tuples(
        st.lists(st.tuples(lengths_of_holes, st.integers(1, 40)), max_size=12),
        st.integers(0, 3),  # pages of memory at the beginning
        st.booleans(),  # a hole at the end
        st.integers(0, 3),  # pages that the core lacks
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


@given(shapes_of_mappings, st.integers(1, 2000))
def test_columns_are_the_same_as_a_loop_over_the_holes(
    shapes: list[tuple[list[tuple[int, int]], int, bool, int, bool]], repeated: int
) -> None:
    mappings = []
    at = BASE
    for number, (holes, first, is_open, lacking, is_bss) in enumerate(shapes):
        runs = [(0, first * PAGE_SIZE)] if first else []
        end = first
        # The first mapping has the same holes many times.
        for hole, run in holes * (repeated if number == 0 and holes else 1):
            runs.append(((end + hole) * PAGE_SIZE, (end + hole + run) * PAGE_SIZE))
            end += hole + run
        size = (end + is_open) * PAGE_SIZE
        own = mapping(size, runs, at)
        own.memsz += lacking * PAGE_SIZE
        mappings.append(replace(own, is_bss=is_bss and number > 0))
        at += own.memsz + PAGE_SIZE
    hole_by_hole(mappings, load(mappings))


@given(st.integers(1, 60_000), st.integers(0, 16))
def test_a_file_has_no_more_bytes_than_the_most(pages: int, factor: int) -> None:
    whole = scattered(pages * PAGE_SIZE << factor, pages)
    assert file_size(load([whole])) < most_bytes(whole.populated, whole.memsz)


@given(
    st.lists(
        st.tuples(st.integers(1, 3000), st.floats(0, 1), st.booleans(), st.integers(0, 99)),
        min_size=1,
        max_size=30,
    )
)
def test_nor_has_one_of_many_mappings(
    shapes: list[tuple[int, float, bool, int]],
) -> None:
    mappings, undivided, at = [], 0, BASE
    for pages, share, is_bss, seed in shapes:
        runs = scattered_runs(pages, round(pages * share), seed)
        size = pages * PAGE_SIZE
        mappings.append(replace(mapping(size, runs, at), is_bss=is_bss))
        undivided += min(size, BSS_UNDIVIDED) if is_bss else 0
        at += size + PAGE_SIZE
    whole = Segment(at, 9 * MIB, 9 * MIB, 5)
    populated = sum(each.populated for each in mappings)
    sparse = sum(each.memsz for each in mappings)
    most = most_bytes(populated, sparse, whole.memsz, len(mappings) + 1, undivided)
    assert file_size(load([*mappings, whole])) < most


def test_of_much_that_is_populated_a_smaller_share_is_zeros() -> None:
    # 1 GiB, with a hole of 4 KiB after every 16 KiB.  There is room for a quarter of 64 MiB and a
    # 64th of the rest.
    whole = mapping(GIB // 4 * 5, [(n * 20 * KIB, n * 20 * KIB + 16 * KIB) for n in range(1 << 16)])
    assert whole.populated == GIB
    kept = literal_zeros(load([whole]))
    assert kept == 16 * MIB + (GIB - 64 * MIB) // 64


def test_far_from_its_start_a_bss_is_divided_as_any_memory_is() -> None:
    # More than the small holes that any memory may have, 512 KiB.
    runs = [(n * 512 * KIB, n * 512 * KIB + 4 * KIB) for n in range(32)]
    bss = replace(mapping(16 * MIB, runs), is_bss=True)
    zeros = [
        start - BASE
        for start, zero in zip(load([bss]).vaddr, load([bss]).is_zero, strict=True)
        if zero
    ]
    assert min(zeros) == 4 * MIB + 4 * KIB
