"""The order of the threads in the notes: readers take the first thread for the current one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.elfcore.provenance import How
from gcorefs.sources.thread_record import ThreadRecord, in_reading_order

LEADER = 50


def record(tid: int, is_whole: bool = True) -> ThreadRecord:
    return ThreadRecord(tid, How.STOPPED if is_whole else How.ZERO)


def order(*records: ThreadRecord) -> list[int]:
    return [each.tid for each in in_reading_order(records, LEADER)]


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([record(7), record(50), record(60)], [50, 7, 60]),
        ([record(60), record(7)], [7, 60]),
        ([record(50, False), record(60), record(7)], [7, 60, 50]),
        ([record(7, False), record(60), record(50)], [50, 60, 7]),
        ([record(60, False), record(7, False), record(50, False)], [50, 7, 60]),
        ([record(60, False), record(7, False)], [7, 60]),
    ],
    ids=["leader", "dead leader", "late leader", "late thread", "none stopped", "none, dead"],
)
def test_the_leader_is_first_if_it_is_recorded_in_full(
    records: list[ThreadRecord], expected: list[int]
) -> None:
    assert order(*records) == expected


@given(st.dictionaries(st.integers(1, 99), st.booleans(), min_size=1))
def test_threads_recorded_in_full_come_before_partial_ones(is_whole: dict[int, bool]) -> None:
    tids = order(*(record(tid, whole) for tid, whole in is_whole.items()))
    assert sorted(tids) == sorted(is_whole)
    assert sorted(tids, key=lambda tid: not is_whole[tid]) == tids
    if is_whole.get(LEADER):
        assert tids[0] == LEADER
