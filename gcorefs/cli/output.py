"""Writes the output of a command while it holds a process.

The process may be the server of the file system to which the output goes (FUSE).  While it stands
still it answers nothing, and no signal but SIGKILL ends a write that waits for it (fs/fuse/dev.c,
request_wait_answer).  So another thread writes, and a signal ends our wait for that thread.  Then
the process runs again, and answers.
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

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

    def close(self) -> None:
        """Wait for the end of a call that was not waited for."""
        self._worker.join(_END_TIMEOUT)
