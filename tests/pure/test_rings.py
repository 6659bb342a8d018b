"""Who would wait for themselves if they got a core."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.mount.rings import closes_ring

PIDS = st.integers(1, 6)


@pytest.mark.parametrize(
    ("held", "is_ring"),
    [
        ([], False),
        ([(1, [2])], True),  # 2 reads 1
        ([(2, [1])], False),
        ([(1, [3]), (3, [2])], True),
        ([(1, [3]), (4, [2])], False),
        ([(1, [3, 4]), (4, [5]), (5, [2])], True),
        ([(3, [3])], False),  # a child of 3 opened it, and 3 has the file now
        ([(1, [])], False),
    ],
)
def test_one_that_reads_two(held: list[tuple[int, list[int]]], is_ring: bool) -> None:
    assert closes_ring(1, 2, held) == is_ring


@given(st.lists(st.tuples(PIDS, PIDS)))
def test_if_each_that_would_close_a_ring_is_refused_somebody_always_runs(
    opens: list[tuple[int, int]],
) -> None:
    held: dict[int, set[int]] = {}
    for reader, process in opens:
        if reader != process and not closes_ring(reader, process, [*held.items()]):
            held.setdefault(process, set()).add(reader)
    while held:
        free = [pid for pid, readers in held.items() if not readers & held.keys()]
        assert free, held
        for pid in free:
            del held[pid]
