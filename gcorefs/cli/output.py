"""Writes the output of a command while it holds a process.

The process may be what the output waits for: it reads the pipe, carries it to a terminal or another
host, or is the server of the file system (FUSE).  While it stands still it takes and answers
nothing, and no signal but SIGKILL ends a write that waits for a file server (fs/fuse/dev.c,
request_wait_answer).  So another thread writes, and a signal or a time-out ends our wait for that
thread.  Then the process runs again, and answers.
"""

import concurrent.futures
import errno
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from gcorefs import tuning
from gcorefs.api import Core, Stop
from gcorefs.export.sink import SinkError
from gcorefs.process.worker_threads import Worker

P = ParamSpec("P")
T = TypeVar("T")

_END_TIMEOUT = 5.0
"""Seconds in which a write has to end when the process runs again."""


class Output:
    """Close it when the process runs again."""

    def __init__(self) -> None:
        self._worker = Worker("gcorefs-output")

    def do(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call in the other thread, and wait for it.  Its result, or its exception;
        NoThread."""
        return self._worker.submit(call, *args, **kwargs).result()

    def do_held(
        self, stop: Stop, core: Core, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The same for a call that writes `core`.  SinkError (ETIMEDOUT): the process would go on
        standing still although nothing is read of its core any more."""
        timeout = tuning.now().output_timeout
        writing = self._worker.submit(call, *args, **kwargs)
        before = core.given
        while not concurrent.futures.wait([writing], timeout).done:
            if core.given == before and stop.holds:
                why = (
                    f"it took no further piece for {timeout:.0f} s while process {stop.pid} stood "
                    "still, which runs again now; with --hold copy the process does not wait for it"
                )
                raise SinkError("the output", OSError(errno.ETIMEDOUT, why))
            before = core.given
        return writing.result()

    def close(self) -> None:
        """Wait for the end of a call that was not waited for."""
        self._worker.join(_END_TIMEOUT)
