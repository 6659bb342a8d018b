"""max_stop while a stop is at work.  When its first core is made, hold_time.py keeps it."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import outcome
import trio

from gcorefs.mount.remote_stop import RemoteStop

T = TypeVar("T")

_LOOK = 0.01
"""Seconds between two looks whether the process has been stopped.  The worker that stops it does
not tell, because it is busy with that."""


async def within(
    most: Callable[[], float],
    stop: RemoteStop,
    end: Callable[[], None],
    work: Callable[[], Awaitable[T]],
) -> T:
    """The result of `work`, or its exception.  `end` is called if the process has stood still for
    `most()` seconds before that."""
    results: list[outcome.Outcome[T]] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch, most, stop, end)
        # An exception that leaves a nursery becomes a group.
        results.append(await outcome.acapture(work))
        nursery.cancel_scope.cancel()
    return results.pop().unwrap()


async def _watch(most: Callable[[], float], stop: RemoteStop, end: Callable[[], None]) -> None:
    while True:
        left = most() - stop.stopped_seconds
        if left <= 0:
            break
        await trio.sleep(left if stop.stopped_seconds else min(left, _LOOK))
    end()
