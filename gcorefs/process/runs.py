"""Runs of memory: sets of addresses, each as two columns of starts and ends.

The runs of a set are in ascending order, and none is empty or overlaps another.  A process may
have 100,000 of them, so a column is handled as a whole wherever that can be done.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import compress
from operator import lt

from gcorefs.elfcore.columns import Column

Runs = tuple[Column, Column]
"""Starts and ends."""


def runs_of(ranges: Iterable[tuple[int, int]]) -> Runs:
    """Ranges that are in order and do not overlap, as runs."""
    pairs = [*ranges]
    return array("Q", [start for start, _ in pairs]), array("Q", [end for _, end in pairs])


def nothing() -> Runs:
    """No run."""
    return array("Q"), array("Q")


def size_of(runs: Runs) -> int:
    """Bytes."""
    return sum(runs[1]) - sum(runs[0])


def common(one: Runs, other: Runs) -> Runs:
    """What is in both.  Every border of both is a border of the result."""
    few, many = (one, other) if len(one[0]) <= len(other[0]) else (other, one)
    starts, ends = nothing()
    for start, end in zip(*few, strict=True):
        first, last = _between(many, start, end)
        if first == last:
            continue
        starts.extend(many[0][first:last])
        ends.extend(many[1][first:last])
        at = len(starts) - (last - first)
        starts[at] = max(starts[at], start)
        ends[-1] = min(ends[-1], end)
    return starts, ends


def without(one: Runs, other: Runs) -> Runs:
    """What is in `one` and not in `other`."""
    if not one[0] or not other[0]:
        return one
    return common(one, _gaps(other, one[0][0], one[1][-1]))


def either(one: Runs, other: Runs) -> Runs:
    """What is in `one` or in `other`, which have nothing in common."""
    if not one[0] or not other[0]:
        return one if one[0] else other
    starts, ends = array("Q", sorted(one[0] + other[0])), array("Q", sorted(one[1] + other[1]))
    # Where one run ends and the next begins, both become one run.
    apart = bytes(map(lt, ends[:-1], starts[1:]))
    return (
        array("Q", (starts[0], *compress(starts[1:], apart))),
        array("Q", (*compress(ends[:-1], apart), ends[-1])),
    )


def _between(runs: Runs, start: int, end: int) -> tuple[int, int]:
    """The index of the first run that reaches behind `start`, and that of the first run behind it
    that begins at `end` or later."""
    first = bisect_right(runs[1], start)
    return first, bisect_left(runs[0], end, first)


def _gaps(runs: Runs, low: int, high: int) -> Runs:
    """What is between `low` and `high` and in none of the runs."""
    first, last = _between(runs, low, high)
    starts = array("Q", (low,)) + runs[1][first:last]
    ends = runs[0][first:last] + array("Q", (high,))
    are_there = bytes(map(lt, starts, ends))
    return array("Q", compress(starts, are_there)), array("Q", compress(ends, are_there))
