"""Sets of addresses as runs: what they have in common, without, and together."""

from hypothesis import given
from hypothesis import strategies as st

from gcorefs.process.runs import Runs, common, either, nothing, runs_of, size_of, without

ADDRESSES = st.sets(st.integers(0, 40))


def as_runs(addresses: set[int]) -> Runs:
    starts = sorted(each for each in addresses if each - 1 not in addresses)
    ends = sorted(each + 1 for each in addresses if each + 1 not in addresses)
    return runs_of(zip(starts, ends, strict=True))


def as_set(runs: Runs) -> set[int]:
    found: set[int] = set()
    last = -1
    for start, end in zip(*runs, strict=True):
        assert last <= start < end
        last = end
        found.update(range(start, end))
    return found


@given(ADDRESSES, ADDRESSES)
def test_what_two_sets_have_in_common(one: set[int], other: set[int]) -> None:
    assert as_set(common(as_runs(one), as_runs(other))) == one & other


@given(ADDRESSES, ADDRESSES)
def test_what_only_the_first_set_has(one: set[int], other: set[int]) -> None:
    assert as_set(without(as_runs(one), as_runs(other))) == one - other


@given(ADDRESSES, ADDRESSES)
def test_what_one_of_two_disjoint_sets_has(one: set[int], other: set[int]) -> None:
    both = either(as_runs(one), as_runs(other - one))
    assert as_set(both) == one | other
    assert both == as_runs(one | other)


@given(ADDRESSES)
def test_the_size_of_a_set(addresses: set[int]) -> None:
    assert size_of(as_runs(addresses)) == len(addresses)


@given(ADDRESSES, st.lists(st.integers(1, 39), unique=True).map(sorted))
def test_borders_within_a_set_stay(addresses: set[int], borders: list[int]) -> None:
    pieces = runs_of(zip([0, *borders], [*borders, 40], strict=True))
    assert as_set(common(pieces, as_runs(addresses))) == addresses - {40}
    assert common(pieces, nothing()) == nothing()
