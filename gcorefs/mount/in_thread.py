"""Blocking calls outside of the event loop."""

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import outcome
import trio

from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.threads import NoThread, is_no_thread

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


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
        await trio.to_thread.run_sync(answer, abandon_on_cancel=True, limiter=limiter)
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
