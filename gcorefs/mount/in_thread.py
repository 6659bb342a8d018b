"""Blocking calls, out of the event loop."""

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
    """The result of a blocking call on account of process `pid`, or what it raises.

    A caller that is cancelled leaves the thread behind.  EAGAIN: there is none.  ENOMEM.

    An exception goes past trio, in whose threads it is part of a reference cycle
    (trio/_threads.py, report_back_in_trio_thread_fn and worker_fn): all that its traceback refers
    to, buffers, descriptors and copies, would live until the next collection.
    """
    answers: list[outcome.Outcome[T]] = []
    is_awaited = True

    def answer() -> None:
        answers.append(outcome.capture(call, *arguments))
        # In this order, and the reverse below: one of the two sees the other.
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
        # Without its traceback, which keeps what took the memory.
        raise ProcessError(Reason.NO_MEMORY, pid) from error.with_traceback(None)
    finally:
        is_awaited = False
        answers.clear()
