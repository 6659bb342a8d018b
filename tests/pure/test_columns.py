"""Columns as a whole, compared with their numbers one by one."""

from array import array

from hypothesis import given
from hypothesis import strategies as st

from gcorefs.elfcore.columns import differences, dropping, indexes, raised

words = st.integers(0, (1 << 64) - 1)


@given(st.lists(st.tuples(words, words)))
def test_differences(pairs: list[tuple[int, int]]) -> None:
    high = array("Q", map(max, pairs))
    low = array("Q", map(min, pairs))
    assert list(differences(high, low)) == [max(pair) - min(pair) for pair in pairs]


@given(st.lists(st.integers(0, (1 << 63) - 1)), st.integers(0, (1 << 63) - 1))
def test_raised(numbers: list[int], amount: int) -> None:
    assert list(raised(array("Q", numbers), amount)) == [number + amount for number in numbers]


@given(st.lists(st.integers(0, 2)), st.integers(0, 3))
def test_what_is_dropped_by_its_indexes(numbers: list[int], one: int) -> None:
    column = array("Q", numbers)
    found = [*indexes(column, one)]
    assert found == [index for index, number in enumerate(numbers) if number == one]
    rest = [number for number in numbers if number != one]
    assert list(dropping(column, found)) == rest
    assert dropping(bytearray(numbers), found) == bytes(rest)
    assert list(column) == numbers
