"""Ranges of memory and their places in a buffer, compared with single bytes."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.elfcore.segments import ZEROS
from gcorefs.process.ranges import Ranges, Row, divide

PAGE = 4096

# Gaps in memory and lengths, in pages; True for zeros.
rows = st.lists(st.tuples(st.integers(0, 99), st.integers(1, 200), st.booleans()), max_size=12)


def columns(row: list[tuple[int, int, bool]]) -> "tuple[array[int], array[int]]":
    addresses, lengths = array("Q"), array("Q")
    at = 0x10000
    for gap, length, is_zeros in row:
        at += gap * PAGE
        addresses.append(ZEROS if is_zeros else at)
        lengths.append(length * PAGE)
        at += length * PAGE
    return addresses, lengths


def bytes_of(ranges: Ranges) -> list[tuple[int, int]]:
    """Address and place of the beginning of each page."""
    return [
        (address + at, place + at)
        for address, length, place in ranges
        for at in range(0, length, PAGE)
    ]


@given(rows)
def test_memory_and_zeros_are_the_whole_buffer(row: list[tuple[int, int, bool]]) -> None:
    addresses, lengths = columns(row)
    ranges, zeros = divide(addresses, lengths)
    assert list(ranges.addresses) == [each for each in addresses if each != ZEROS]
    parts = sorted([(place, length) for _, length, place in ranges] + [*zeros])
    place = 0
    for (start, size), length in zip(parts, lengths, strict=True):
        assert (start, size) == (place, length)
        place += length


@given(rows)
def test_pieces_are_the_same_bytes(row: list[tuple[int, int, bool]]) -> None:
    ranges, _ = divide(*columns(row))
    pieces = ranges.in_pieces()
    assert bytes_of(pieces) == bytes_of(ranges)
    assert all(length <= 256 << 10 for length in pieces.lengths)


@given(rows, st.integers(0, 2500))
def test_what_is_behind_so_many_bytes(row: list[tuple[int, int, bool]], pages: int) -> None:
    ranges, _ = divide(*columns(row))
    count = min(pages * PAGE, sum(ranges.lengths))
    index, done = ranges.behind(count)
    rest = bytes_of(ranges.part(index, len(ranges)))[done // PAGE :]
    assert rest == bytes_of(ranges)[pages:]
    assert index == len(ranges) or done < ranges[index][1]


@pytest.mark.parametrize(("second", "is_so"), [(ZEROS, False), (0x9000, True)])
def test_whether_they_are_in_a_row(second: int, is_so: bool) -> None:
    addresses = array("Q", [0x1000, second, 0xF000])
    ranges, _ = divide(addresses, array("Q", [PAGE] * 3))
    assert ranges.is_in_a_row is is_so
    assert (ranges.start, ranges.end) == (0x1000, 0x10000)


@given(rows, st.data())
def test_a_part_has_the_bytes_between_two_counts(
    row: list[tuple[int, int, bool]], data: st.DataObject
) -> None:
    ranges, _ = divide(*columns(row))
    pages = bytes_of(ranges)
    low = data.draw(st.integers(0, len(pages)))
    high = data.draw(st.integers(low, len(pages)))
    assert bytes_of(Row(ranges).between(low * PAGE, high * PAGE)) == pages[low:high]


@given(rows)
def test_a_place_tells_how_many_bytes_are_before_it(row: list[tuple[int, int, bool]]) -> None:
    ranges, _ = divide(*columns(row))
    for done, (_, place) in enumerate(bytes_of(ranges)):
        assert ranges.done_at(place) == done * PAGE
    with pytest.raises(ValueError, match="no range"):
        ranges.done_at(1 << 40)
