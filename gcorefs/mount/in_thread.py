"""Blocking calls, out of the event loop."""

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

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

    A caller that is cancelled leaves the thread behind.  EAGAIN: there is none.
    """
    try:
        return await trio.to_thread.run_sync(
            call, *arguments, abandon_on_cancel=True, limiter=limiter
        )
    except NoThread as error:
        raise ProcessError(Reason.NO_THREAD, pid) from error
    except RuntimeError as error:
        if is_no_thread(error):
            raise ProcessError(Reason.NO_THREAD, pid) from error
        raise
