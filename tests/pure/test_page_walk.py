"""A walk by all cores finds what one walk finds."""

import threading
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.process.page_walk import by_all_cores
from gcorefs.process.runs import Runs, runs_of
from tests import own_tasks

GIB = 1 << 30
LONG = runs_of([(0, 64 * GIB)])

# Gap before a range and its length, in gibibytes; gaps and lengths of runs, in pages.
ranges_in_order = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=6)
runs_in_order = st.lists(st.tuples(st.integers(1, 1 << 18), st.integers(1, 1 << 20)), max_size=60)


def tables(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    found = []
    at = 0
    for gap, length in runs:
        found.append(((at + gap) * PAGE_SIZE, (at + gap + length) * PAGE_SIZE))
        at += gap + length
    return found


class Walked:
    """Page tables that remember who walked them."""

    def __init__(self, runs: list[tuple[int, int]]) -> None:
        self.runs = tables(runs)
        self.walks: list[tuple[int, int]] = []

    def walk(self, start: int, end: int) -> Runs:
        self.walks.append((start, end))
        cut = [(max(low, start), min(high, end)) for low, high in self.runs]
        cut = [(low, high) for low, high in cut if low < high]
        return array("Q", [low for low, _ in cut]), array("Q", [high for _, high in cut])


@given(ranges_in_order, runs_in_order)
def test_the_pieces_are_the_whole(
    lengths: list[tuple[int, int]], runs: list[tuple[int, int]]
) -> None:
    ranges = []
    at = 0
    for gap, length in lengths:
        ranges.append(((at + gap) * GIB, (at + gap + length) * GIB))
        at += gap + length
    process = Walked(runs)
    found = by_all_cores(process.walk, runs_of(ranges))
    walks = sorted(process.walks)
    assert found == process.walk(ranges[0][0], ranges[-1][1])
    # Each address is walked once.
    assert walks[0][0] == ranges[0][0]
    assert walks[-1][1] == ranges[-1][1]
    assert [end for _, end in walks[:-1]] == [start for start, _ in walks[1:]]
    mapped = sum(length for _, length in lengths)
    assert len(walks) == (1 if mapped < 4 else 32)


def test_a_kernel_that_does_not_tell() -> None:
    assert by_all_cores(lambda _start, _end: None, LONG) is None


def test_the_error_of_a_walk_is_raised_and_no_thread_goes_on() -> None:
    def gone(_start: int, _end: int) -> Runs | None:
        raise ProcessLookupError

    with pytest.raises(ProcessLookupError):
        by_all_cores(gone, LONG)
    assert "gcorefs-pagemap" not in own_tasks.names()


def test_what_a_helper_could_not_walk_is_walked_again() -> None:
    process = Walked([(1, 1 << 20)])
    mine = threading.get_ident()

    def walk(start: int, end: int) -> Runs:
        if threading.get_ident() != mine:
            raise BlockingIOError
        return process.walk(start, end)

    assert by_all_cores(walk, LONG) == process.walk(0, 64 * GIB)
