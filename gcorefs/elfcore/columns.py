"""Columns of 64-bit numbers.

A process may have 100,000 holes, and it stands still while they are handled.  So a column is
handled as a whole, by functions that are written in C.
"""

from array import array
from collections.abc import Iterator, Sequence
from typing import TypeAlias, TypeVar

Column: TypeAlias = "array[int]"
"""Of unsigned 64-bit numbers, array("Q")."""


Items = TypeVar("Items", "array[int]", bytearray)


def differences(high: Column, low: Column) -> Column:
    """Each number of `high` minus that of `low`.  None of them may be negative.

    That is one subtraction of two long numbers: nothing is borrowed from one column's number for
    the next.  It takes half the time of a loop over them.
    """
    return _numbers(_long(high) - _long(low), len(high))


def raised(column: Column, amount: int) -> Column:
    """Each number plus `amount`.  No sum may be 1 << 64 or more."""
    return _numbers(_long(column) + _long(array("Q", (amount,)) * len(column)), len(column))


def indexes(column: Column, number: int) -> Iterator[int]:
    """Where a number stands."""
    at = -1
    while True:
        try:
            at = column.index(number, at + 1)
        except ValueError:  # there is no further one
            return
        yield at


def dropping(row: Items, indexes: Sequence[int]) -> Items:
    """What is left of `row` without the items at some indexes, which are in order: `row` itself if
    there are none."""
    if not indexes:
        return row
    found = row[:0]
    done = 0
    for index in indexes:
        found.extend(row[done:index])
        done = index + 1
    found.extend(row[done:])
    return found


def _long(column: Column) -> int:
    return int.from_bytes(column, "little")


def _numbers(long: int, count: int) -> Column:
    return array("Q", long.to_bytes(8 * count, "little"))
