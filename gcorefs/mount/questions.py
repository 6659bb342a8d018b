"""Questions of ls(1) and stat(1) about processes, which may never be answered.

A read of any file of /proc/PID may block: during an execve(2) it waits for exec_update_lock, and
that execve(2) may be closing a file of this mount, so that it waits for us.  So threads read these
files, with a time limit, and the event loop never does.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import trio

from gcorefs.mount.in_thread import in_thread
from gcorefs.mount.limits import THREADS_OF_A_USER, Both, Limiters, UserLimiters
from gcorefs.process.errors import ProcessError, Reason

T = TypeVar("T")

LOOK_TIMEOUT = 5.0
"""Seconds that a question to /proc may take."""

_MOST_OF_A_PROCESS = 10


class Questions:
    """Threads that ask blocking questions, with a time limit.

    Each process and each user has a number of threads.  So a process that does not answer takes no
    thread from the questions about other processes.  A thread that hangs is left behind.
    """

    def __init__(
        self, owner: Callable[[int], int] = int, of_a_user: int = THREADS_OF_A_USER
    ) -> None:
        """`owner`: the user who is charged for a uid.  `of_a_user`: threads for each of them."""
        self._owner, self._of_a_user = owner, of_a_user
        self._by_pid = Limiters(_MOST_OF_A_PROCESS)
        self._by_user = UserLimiters(of_a_user, owner)

    def apart(self) -> "Questions":
        """As many threads again, for questions that must not delay these."""
        return Questions(self._owner, self._of_a_user)

    async def ask(
        self, pid: int, uid: int, question: Callable[[], T], seconds: float = LOOK_TIMEOUT
    ) -> T:
        """The answer to a blocking question about `pid` for `uid`.  ProcessError STUCK (EIO): there
        is no answer after `seconds`."""
        with self._by_pid.of(pid) as process, self._by_user.of(uid) as user:
            limiter = cast(trio.CapacityLimiter, Both(user, process))
            with trio.move_on_after(seconds):
                return await in_thread(pid, limiter, question)
        raise ProcessError(Reason.STUCK, pid, f"/proc did not answer for {seconds:g} s")
