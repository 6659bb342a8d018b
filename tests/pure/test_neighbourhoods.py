"""The pages that count as shared because they are near a shared page, against the definition."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gcorefs.process.copy_on_write import REACH, neighbourhoods
from gcorefs.process.pagemap import runs_in

pages = st.lists(st.integers(0, 3000), max_size=8).map(
    lambda marked: bytes(number in marked for number in range(3001))
)


@given(pages)
def test_all_that_is_within_reach_and_nothing_else(shared: bytes) -> None:
    marked = [number for number, mark in enumerate(shared) if mark]
    near = {
        number
        for number in range(len(shared))
        if any(abs(number - each) <= REACH for each in marked)
    }
    runs = list(neighbourhoods(shared))
    found = [number for low, high in runs for number in range(low, high)]
    assert found == sorted(set(found))
    # A gap of one page between two reaches is not a separate run.
    assert {number for number in found if 0 <= number < len(shared)} == near


@given(st.binary(max_size=40).map(lambda data: bytes(byte & 1 for byte in data)), st.data())
def test_runs_between_two_indexes(marks: bytes, data: st.DataObject) -> None:
    low = data.draw(st.integers(0, len(marks)))
    high = data.draw(st.integers(low, len(marks)))
    runs = list(runs_in(marks, low, high))
    found = [number for first, last in runs for number in range(first, last)]
    assert found == [number for number in range(low, high) if marks[number]]
    assert all(one[1] < other[0] for one, other in pairwise(runs))
