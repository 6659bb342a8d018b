"""Blocking calls outside of the event loop."""

import os
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple, cast

import outcome
import trio

from gcorefs.kernel import statx
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.threads import NoThread, is_no_thread, is_room_for_thread

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class _Room:
    """A limiter that refuses a thread for which there is no memory.  Nothing waits between its
    answer and the start of the thread (trio/_threads.py, to_thread_run_sync)."""

    def __init__(self, limiter: trio.CapacityLimiter) -> None:
        self._limiter = limiter

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        await self._limiter.acquire_on_behalf_of(borrower)
        if not is_room_for_thread():
            self._limiter.release_on_behalf_of(borrower)
            raise NoThread

    def release_on_behalf_of(self, borrower: object) -> None:
        self._limiter.release_on_behalf_of(borrower)


def with_room(limiter: trio.CapacityLimiter | None = None) -> trio.CapacityLimiter:
    """`limiter` (by default that of trio), for every use of trio.to_thread.run_sync, which raises
    NoThread then, where trio would wait forever for a thread that has no memory."""
    # trio calls these two methods only.
    return cast(
        trio.CapacityLimiter, _Room(limiter or trio.to_thread.current_default_thread_limiter())
    )


async def own_device(path: str) -> int:
    """st_dev of a mount of ours.  OSError, NoThread.

    The mount itself is not asked.  A thread of ours that waits for our own answer could not be
    killed: the connection lives as long as a thread has our descriptors, and a request that the
    server has read is waited for without end (fs/fuse/dev.c, request_wait_answer).
    """
    found = await trio.to_thread.run_sync(
        statx.cached_stat, path, abandon_on_cancel=True, limiter=with_room()
    )
    major, minor, _ = found.identity
    return os.makedev(major, minor)


async def in_thread(
    pid: int,
    limiter: trio.CapacityLimiter,
    call: Callable[[*Arguments], T],
    *arguments: *Arguments,
) -> T:
    """The result of a blocking call for process `pid`; raises its exception.

    If the caller is cancelled, the thread is abandoned.  EAGAIN: no thread can be started.  ENOMEM.

    An exception does not pass through trio.  In trio's threads an exception becomes part of a
    reference cycle (trio/_threads.py, report_back_in_trio_thread_fn and worker_fn), and all that
    its traceback refers to (buffers, descriptors, copies) would live until the next collection.
    """
    answers: list[outcome.Outcome[T]] = []
    is_awaited = True

    def answer() -> None:
        answers.append(outcome.capture(call, *arguments))
        # In this order; the code below has the reverse order.  So one of the two sees the other.
        if not is_awaited:
            answers.clear()

    try:
        await trio.to_thread.run_sync(answer, abandon_on_cancel=True, limiter=with_room(limiter))
        return answers.pop().unwrap()
    except NoThread as error:
        raise ProcessError(Reason.NO_THREAD, pid) from error
    except RuntimeError as error:
        if is_no_thread(error):
            raise ProcessError(Reason.NO_THREAD, pid) from error
        raise
    except MemoryError as error:
        # Without its traceback, which refers to the memory that was taken.
        raise ProcessError(Reason.NO_MEMORY, pid) from error.with_traceback(None)
    finally:
        is_awaited = False
        answers.clear()
