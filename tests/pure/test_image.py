"""An image by address: where memory is, which of it is true, and the order of a file."""

import os
from array import array

from hypothesis import given
from hypothesis import strategies as st

from gcorefs.elfcore.columns import Column
from gcorefs.hold.image import Image
from gcorefs.process.pagemap import Pagemap
from gcorefs.process.ranges import Ranges
from gcorefs.process.runs import Runs, common, nothing, runs_of, size_of, without

PAGE = 4096
TABLE = 512 * PAGE
FIRST = 3 * TABLE - 20 * PAGE  # pages of two page tables
COUNT = 40
PRESENT = 1 << 63
FILE = 1 << 61
EXCLUSIVE = 1 << 56
MARKED = 1 << 55

PAGES = st.sets(st.integers(0, COUNT - 1))


class Entries(Pagemap):
    """A pagemap that has these entries from FIRST on, and no PAGEMAP_SCAN, or one that it
    makes of them."""

    def __init__(self, words: list[int], scans: bool) -> None:
        self.words = words
        self.scans = scans

    def entries(self, address: int, length: int) -> bytes:
        first = (address - FIRST) // PAGE
        return array("Q", self.words[first : first + length // PAGE]).tobytes()

    def scan(
        self, start: int, end: int, all_of: int = 0, any_of: int = 0, none_of: int = 0
    ) -> tuple[Column, Column] | None:
        if not self.scans:
            return None
        good = {
            index
            for index, word in enumerate(self.words)
            if word & PRESENT and not word & (MARKED | FILE)
        }
        return common(pages(good), runs_of([(start, end)]))


def pages(indexes: set[int]) -> Runs:
    starts = sorted(each for each in indexes if each - 1 not in indexes)
    ends = sorted(each + 1 for each in indexes if each + 1 not in indexes)
    places = zip(starts, ends, strict=True)
    return runs_of((FIRST + start * PAGE, FIRST + end * PAGE) for start, end in places)


def indexes(runs: Runs) -> set[int]:
    return {
        (address - FIRST) // PAGE
        for start, end in zip(*runs, strict=True)
        for address in range(start, end, PAGE)
    }


def frames() -> list[int]:
    return [PRESENT | EXCLUSIVE | 1000 + index for index in range(COUNT)]


def image_of(copied: set[int], words: list[int]) -> Image:
    image = Image()
    image.make_places(pages(copied))
    image.note_frames(image.ranges(pages(copied)), Entries(words, scans=False))
    return image


@given(PAGES, PAGES)
def test_each_page_has_one_place(some: set[int], more: set[int]) -> None:
    image = Image()
    image.make_places(pages(some))
    image.make_places(without(pages(more), image.placed))
    assert indexes(image.placed) == some | more
    assert image.size == len(some | more) * PAGE
    found = image.ranges(pages(some | more))
    places = {place + at for _, length, place in found for at in range(0, length, PAGE)}
    assert places == set(range(0, image.size, PAGE))
    few = image.ranges(pages(some & more))
    all_places = {
        address + at: place + at
        for address, length, place in found
        for at in range(0, length, PAGE)
    }
    for address, length, place in few:
        for at in range(0, length, PAGE):
            assert all_places[address + at] == place + at


@given(PAGES, PAGES, PAGES, PAGES, PAGES, PAGES)
def test_a_page_is_true_if_it_is_the_same_page_without_a_mark(
    copied: set[int],
    written: set[int],
    moved: set[int],
    gone: set[int],
    of_files: set[int],
    shared: set[int],
) -> None:
    image = image_of(copied, frames())
    words = frames()
    for index in range(COUNT):
        if index in written:
            words[index] |= MARKED
        if index in moved:
            words[index] += COUNT
        if index in gone:
            words[index] = MARKED
        if index in of_files:
            words[index] |= FILE
        if index in shared:  # since a fork(2), or the page of zeros
            words[index] &= ~EXCLUSIVE
    expected = copied - written - moved - gone - of_files - shared
    assert indexes(image.true_part(pages(copied), Entries(words, scans=False))) == expected


@given(PAGES, PAGES, st.sets(st.integers(0, 1)))
def test_one_page_tells_that_a_page_table_was_moved(
    copied: set[int], written: set[int], moved: set[int]
) -> None:
    image = image_of(copied, frames())
    words = frames()
    for index in range(COUNT):
        if index in written:
            words[index] |= MARKED
        if index // 20 in moved:
            words[index] += COUNT
    expected = {each for each in copied - written if each // 20 not in moved}
    assert indexes(image.true_part(pages(copied), Entries(words, scans=True))) == expected


def test_nothing_is_true_of_an_address_space_that_is_gone() -> None:
    image = image_of({1, 2, 30}, frames())
    for scans in (False, True):
        gone = Entries(frames(), scans)
        gone.entries = lambda *_: b""  # type: ignore[method-assign]
        assert image.true_part(pages({1, 2, 30}), gone) == nothing()


@given(PAGES, PAGES, st.data())
def test_a_file_has_the_bytes_of_the_image_in_its_order(
    some: set[int], more: set[int], data: st.DataObject
) -> None:
    image = Image()
    image.make_places(pages(some))
    image.make_places(without(pages(more), image.placed))
    content = os.urandom(image.size)
    wanted = pages(some | more)
    lengths = array("Q", map(int.__sub__, wanted[1], wanted[0]))
    gap = PAGE  # literal zeros before each range
    offsets = array("Q")
    expected = b""
    for start, length in zip(wanted[0], lengths, strict=True):
        expected += bytes(gap)
        offsets.append(len(expected))
        for _, count, place in image.ranges(runs_of([(start, start + length)])):
            expected += content[place : place + count]
    assert len(expected) == size_of(wanted) + gap * len(offsets)
    expected += bytes(gap)
    in_file = image.in_file(Ranges(wanted[0], lengths, offsets))
    offset = data.draw(st.integers(0, len(expected) - 1))
    length = data.draw(st.integers(1, len(expected) - offset))
    found = b"".join(
        bytes(count) if place is None else content[place : place + count]
        for place, count in in_file.pieces(offset, length)
    )
    assert found == expected[offset : offset + length]
