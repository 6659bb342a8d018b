"""The address space of a core: no byte is lost, however its mappings are combined."""

import io
from array import array
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.cli.picture import Paper, draw, permissions, shares, size
from gcorefs.elfcore import space
from gcorefs.elfcore.corefile import Core, read_core
from gcorefs.elfcore.segments import Segment
from gcorefs.elfcore.space import Row
from gcorefs.elfcore.vma import Vma
from tests.pure.cores import account_of, load, made, mapped
from tests.pure.test_layout import lists_of_segments

Range = tuple[int, int]
Files = Sequence[tuple[Vma, bytes]]


def core_of(
    segments: Sequence[Segment],
    unreadable: Sequence[Range] = (),
    files: Files = (),
    names: dict[int, str] | None = None,
) -> Core:
    layout = made(segments, account_of(segments, unreadable, names), files)
    return read_core(io.BytesIO(layout.header), layout.size)


def sums(rows: Sequence[Row]) -> tuple[int, int, int, int, int]:
    whole = space.total(rows)
    return whole.mappings, whole.in_file, whole.zeros, whole.left_out, whole.unreadable


@st.composite
def _unreadable(draw: st.DrawFn, segments: Sequence[Segment]) -> list[Range]:
    """Some mapped pages, as ranges that do not touch."""
    pages = [
        segment.vaddr + number * PAGE_SIZE
        for segment in segments
        for number in draw(st.sets(st.integers(0, segment.memsz // PAGE_SIZE - 1), max_size=4))
    ]
    ranges: list[Range] = []
    for page in sorted(pages):
        if ranges and ranges[-1][1] == page:
            ranges[-1] = ranges[-1][0], page + PAGE_SIZE
        else:
            ranges.append((page, page + PAGE_SIZE))
    return ranges


@given(lists_of_segments, st.data())
def test_every_byte_of_our_cores_is_where_the_note_counts_it(
    segments: Sequence[Segment], data: st.DataObject
) -> None:
    unreadable = data.draw(_unreadable(segments))
    core = core_of(segments, unreadable)
    rows = space.mappings(core)
    whole = space.total(rows)
    assert space.disagreement(core, whole) == ""
    assert core.facts is not None
    counted = core.facts["bytes"]
    assert whole.size == counted["mapped"] == sum(segment.memsz for segment in segments)
    assert whole.in_file + whole.zeros == counted["recorded"] + counted["zeros"]
    assert (whole.left_out, whole.unreadable) == (counted["left_out"], counted["unreadable"])
    # Each mapping by itself: the program headers within it.
    loads = load(segments)
    for row in rows:
        within = [row.start <= vaddr < row.end for vaddr in loads.vaddr]
        found = [*zip(within, loads.memsz, loads.filesz, loads.is_zero, strict=True)]
        assert row.size == row.end - row.start
        assert row.in_file == sum(f for is_in, _, f, zero in found if is_in and not zero)
        assert row.zeros == sum(f for is_in, _, f, zero in found if is_in and zero)
        assert row.left_out == sum(m - f for is_in, m, f, _ in found if is_in)
        assert row.unreadable == sum(
            max(0, min(end, row.end) - max(start, row.start)) for start, end in unreadable
        )
    # No mapping is in two rows, and two mappings are in one row only if nothing separates them.
    borders = [segments[0].vaddr] if segments else []
    is_zero = dict(zip(loads.vaddr, loads.is_zero, strict=True))
    for before, after in pairwise(segments):
        is_one = before.vaddr + before.memsz == after.vaddr and before.flags == after.flags
        is_whole = before.filesz == before.memsz and after.filesz > 0
        last = max(vaddr for vaddr in loads.vaddr if vaddr < after.vaddr)
        if not (is_one and is_whole and (is_zero[last] or is_zero[after.vaddr])):
            borders.append(after.vaddr)
    assert [row.start for row in rows] == borders


def page(number: int, flags: int = 6, pages: int = 1, kept: int | None = None) -> Segment:
    kept = pages if kept is None else kept
    return Segment(number * PAGE_SIZE, pages * PAGE_SIZE, kept * PAGE_SIZE, flags)


def file(number: int, path: bytes, pages: int = 1) -> tuple[Vma, bytes]:
    return mapped(number * PAGE_SIZE, (number + pages) * PAGE_SIZE), path


def reserved(start: int, pages: int) -> Segment:
    """A mapping in which nothing was ever touched."""
    borders = (array("Q", [at * PAGE_SIZE]) for at in (start, start + pages))
    holes: dict[str, Any] = dict(zip(HOLES, borders, strict=True))
    return replace(page(start, pages=pages), **holes)


HOLES = ("hole_starts", "hole_ends")


def test_what_has_a_name_is_a_mapping_of_its_own() -> None:
    # Adjacent, with the same permissions, and zeros: only the notes separate them.
    many = 1 << 12
    segments = [reserved(number * many, many) for number in range(1, 9)]
    files = [file(2 * many, b"/a", 2 * many), file(4 * many, b"/b", many), file(7 * many, b"/a", 5)]
    rows = space.mappings(core_of(segments, files=files, names={5 * many * PAGE_SIZE: "[heap]"}))
    assert [(row.start / PAGE_SIZE / many, row.name) for row in rows] == [
        (1, b""), (2, b"/a"), (4, b"/b"), (5, "[heap]"), (7, b"/a"),
    ]  # fmt: skip
    assert sums(rows) == (5, 0, 8 * many * PAGE_SIZE, 0, 0)


def test_what_is_in_the_file_as_two_is_two_mappings() -> None:
    rows = space.mappings(core_of([page(16), page(17), page(18, kept=0), page(19), page(20)]))
    assert [row.start // PAGE_SIZE for row in rows] == [16, 17, 18, 19, 20]


def test_a_mapping_of_many_program_headers_is_one_row() -> None:
    holes = [(n * PAGE_SIZE, (n + 40) * PAGE_SIZE) for n in range(100, 20_000, 50)]
    starts, ends = (array("Q", column) for column in zip(*holes, strict=True))
    segment = Segment(96 * PAGE_SIZE, 20_100 * PAGE_SIZE, 20_100 * PAGE_SIZE, 6, starts, ends)
    core = core_of([segment])
    assert core.phnum > 500
    (row,) = space.mappings(core)
    assert (row.start, row.end, row.size) == (
        segment.vaddr,
        segment.vaddr + segment.memsz,
        segment.memsz,
    )
    assert row.zeros > 10_000 * PAGE_SIZE


def test_a_single_segment_of_zeros_is_seen_to_be_one() -> None:
    # At the very end: only the note distinguishes it from memory.
    hole = Segment(
        PAGE_SIZE, 1 << 30, 1 << 30, 6, array("Q", [2 * PAGE_SIZE]), array("Q", [1 << 30])
    )
    (row,) = space.mappings(core_of([hole]))
    assert (row.in_file, row.zeros) == (2 * PAGE_SIZE, (1 << 30) - 2 * PAGE_SIZE)


def test_without_our_note_nothing_is_zeros() -> None:
    segments = [page(1), page(2, pages=3, kept=1)]
    layout = made(segments, None, [file(1, b"/a")])
    core = read_core(io.BytesIO(layout.header), layout.size)
    assert sums(space.mappings(core)) == (2, 2 * PAGE_SIZE, 0, 2 * PAGE_SIZE, 0)
    assert space.disagreement(core, space.total(space.mappings(core))) == ""


@pytest.mark.parametrize("name", ["in the file", "zeros", "left out"])
def test_a_note_that_counts_other_bytes_is_reported(name: str) -> None:
    core = core_of([page(1), page(2, pages=3, kept=1)])
    whole = space.total(space.mappings(core))
    field = {"in the file": "in_file"}.get(name, name.replace(" ", "_"))
    found = getattr(whole, field)
    wrong = replace(whole, **{field: found + 1})
    assert space.disagreement(core, wrong) == (
        f"the GCOREFS note counts {found} bytes {name}, the program headers {found + 1}"
    )


def test_mappings_of_one_file_in_a_row_are_one() -> None:
    segments = [page(1, 4), page(2, 5), page(5, 6), page(6, 6), page(7, 4), page(9, 4), page(11, 4)]
    files = [file(1, b"/a"), file(2, b"/a"), file(5, b"/a"), file(7, b"/b"), file(9, b"/a")]
    rows = space.mappings(core_of(segments, files=files))
    before = [replace(row) for row in rows]
    found = space.by_file(rows)
    seen = [(row.start // PAGE_SIZE, row.mappings, row.name, permissions(row)) for row in found]
    assert seen == [
        (1, 3, b"/a", "3x"), (6, 1, b"", "rw-"), (7, 1, b"/b", "r--"), (9, 1, b"/a", "r--"),
        (11, 1, b"", "r--"),
    ]  # fmt: skip
    assert sums(found) == sums(rows)
    assert rows == before


rows_of_any_size = st.lists(st.integers(0, 1 << 40), max_size=200).map(
    lambda sizes: [
        Row(n << 41, (n << 41) + each, flags=4, in_file=each) for n, each in enumerate(sizes)
    ]
)


@given(rows_of_any_size, st.integers(1, 60))
def test_of_too_many_rows_the_largest_stay_and_no_byte_is_lost(rows: list[Row], most: int) -> None:
    found = space.largest(rows, most)
    assert len(found) <= most
    assert sums(found) == sums(rows)
    assert [row.start for row in found] == sorted(row.start for row in found)
    if len(rows) <= most:
        assert found == rows
        return
    kept = [row for row in found if not row.is_rest]
    assert all(row in rows for row in kept)
    assert all(row.mappings > 1 for row in found if row.is_rest)
    # None of the combined mappings is larger than the largest with its own row.
    hidden = [row for row in rows if row not in kept]
    if kept:
        assert max(row.in_file for row in hidden) <= max(row.in_file for row in kept)


def test_the_rows_that_there_is_room_for_are_used() -> None:
    rows = [Row(n, n + 1, flags=4, in_file=n % 2) for n in range(100)]
    assert len(space.largest(rows, 40)) in (39, 40)
    alone = [Row(n, n + 1, flags=4, in_file=n) for n in range(100)]
    found = space.largest(alone, 40)
    assert [row.mappings for row in found] == [61] + [1] * 39


@given(st.lists(st.integers(0, 1 << 60), min_size=4, max_size=4), st.integers(4, 100))
def test_a_bar_is_as_long_as_it_should_be_and_shows_whatever_there_is(
    parts: list[int], width: int
) -> None:
    found = shares(parts, width)
    assert sum(found) == (width if any(parts) else 0)
    assert all((length > 0) == (part > 0) for length, part in zip(found, parts, strict=True))


SIZES = {
    0: "0 B", 1: "1 B", 1023: "1023 B", 1024: "1.0 KiB", 4096: "4.0 KiB", 102_348: "99.9 KiB",
    102_349: "100 KiB", 999 << 10: "999 KiB", 1000 << 10: "1.0 MiB", (100 << 30) + 1: "100 GiB",
    1 << 63: "8.0 EiB", 999 << 20: "999 MiB",
}  # fmt: skip


@pytest.mark.parametrize("count", SIZES)
def test_sizes_are_for_people(count: int) -> None:
    assert size(count) == SIZES[count]


@given(lists_of_segments, st.data())
@settings(max_examples=30)
def test_a_picture_fits_its_paper(segments: Sequence[Segment], data: st.DataObject) -> None:
    path = data.draw(st.binary(min_size=1, max_size=200).filter(lambda text: b"\0" not in text))
    files = [(mapped(each.vaddr, each.vaddr + each.memsz), path) for each in segments]
    core = core_of(segments, data.draw(_unreadable(segments)), files)
    rows = space.mappings(core)
    for paper in (Paper(80), Paper(80, is_ascii=True), Paper(None), Paper(130)):
        lines = [*draw(paper, core, space.total(rows), rows)]
        assert all(line.isprintable() for line in lines)
        # A letter may take two columns, or none.
        assert all(cell_len(line) <= (paper.width or 10_000) for line in lines)
        assert len(lines) == len(space_lines(lines)) + len(rows) + (2 if rows else 0)


def space_lines(lines: Sequence[str]) -> list[str]:
    """The lines above the table."""
    blank = [at for at, line in enumerate(lines) if not line]
    return list(lines if len(blank) < 2 else lines[: blank[1]])


def test_a_picture_in_black_and_white_and_in_color() -> None:
    core = core_of([page(16, pages=4, kept=2)], [(16 * PAGE_SIZE, 17 * PAGE_SIZE)])
    rows = space.mappings(core)

    def bars(paper: Paper) -> list[str]:
        lines = [*draw(paper, core, space.total(rows), rows)]
        blank = lines.index("")
        return [lines[blank + 2], lines[-1]]

    assert bars(Paper(None)) == [
        "█" * 19 + "·" * 40 + "!" * 19,
        "10000-14000 rw-  16.0K 8.0K     -     8.0K   4.0K ██····!!",
    ]
    assert bars(Paper(80, is_ascii=True))[1] == "  10000 rw-  16.0K 8.0K 8.0K   4.0K ##....!!"
    assert bars(Paper(80, is_colored=True))[1].endswith(
        "\x1b[32m██\x1b[0m\x1b[33m····\x1b[0m\x1b[31m!!\x1b[0m"
    )


def test_a_long_name_loses_its_middle_and_a_wide_one_fits_too() -> None:
    for path in ("/usr/lib/" + "x" * 100 + "/libend.so (deleted)", "/名" * 60, "/" + "名" * 30):
        core = core_of([page(16)], files=[file(16, path.encode())])
        rows = space.mappings(core)
        whole = space.total(rows)
        assert [*draw(Paper(None), core, whole, rows)][-1].endswith(" " + path)
        line = [*draw(Paper(80), core, whole, rows)][-1]
        assert ".." in line
        assert line.endswith(path[-5:])
        assert sum(1 + (letter == "名") for letter in line) <= 80
