"""Questions of ls(1) and stat(1) about processes, which may never be answered.

A read of any file of /proc/PID may block: during an execve(2) it waits for exec_update_lock, and
that execve(2) may be closing a file of this mount, so that it waits for us.  So threads read these
files, with a time limit, and the event loop never does.

A thread that hangs is left behind.  From then on it counts for the user of the process and no more
for the user who asked: whoever has processes that do not answer keeps nobody from all others.
"""

import contextlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar, cast

import trio

from gcorefs.kernel.proc import task_status
from gcorefs.mount.in_thread import in_thread
from gcorefs.mount.limits import THREADS_OF_A_USER, Limiters, UserLimiters
from gcorefs.process.errors import ProcessError, Reason

T = TypeVar("T")

LOOK_TIMEOUT = 5.0
"""Seconds that a question to /proc may take."""

_MOST_OF_A_PROCESS = 10

_MOST_LEFT_BEHIND = 2
"""Threads left behind by questions about one process.  Further ones are refused at once."""


def user_of(pid: int) -> int | None:
    """The real uid of a process, which no set-uid program changes; None if it is not known.  An
    execve(2) that hangs blocks none of these files."""
    with contextlib.suppress(OSError):
        owner, _ = task_status.owner_of(str(pid))
        # Root owns the files of a process that is not dumpable, too (proc_pid(5)).
        return owner or int(task_status.status(pid)["Uid"].split()[0])
    return None


class Questions:
    """Threads that ask blocking questions, with a time limit.

    Each process and each user has a number of threads.  So a process that does not answer takes no
    thread from the questions about other processes.
    """

    def __init__(
        self,
        owner: Callable[[int], int] = int,
        of_a_user: int = THREADS_OF_A_USER,
        user_of: Callable[[int], int | None] = user_of,
    ) -> None:
        """`owner`: the user who is charged for a uid.  `of_a_user`: threads for each of them, and
        as many that were left behind by questions about their processes.  `user_of`: the uid of a
        process, or None; called in a thread."""
        self._owner, self._of_a_user, self._user_of = owner, of_a_user, user_of
        self._by_pid = Limiters(_MOST_OF_A_PROCESS)
        self._by_user = UserLimiters(of_a_user, owner)
        self._behind_by_pid: Counter[int] = Counter()
        self._behind_by_user: Counter[int] = Counter()

    def apart(self) -> "Questions":
        """As many threads again, for questions that must not delay these."""
        return Questions(self._owner, self._of_a_user, self._user_of)

    async def ask(
        self, pid: int, uid: int, question: Callable[[], T], seconds: float = LOOK_TIMEOUT
    ) -> T:
        """The answer to a blocking question about `pid` (0: about all processes) for `uid`.

        ProcessError STUCK (EIO): there is no answer after `seconds`, or none is to be expected.
        """
        if self._behind_by_pid[pid] >= _MOST_LEFT_BEHIND:
            raise ProcessError(Reason.STUCK, pid, "/proc still does not answer")
        asked = _Asked(pid, question, self._judged)
        with self._by_pid.of(pid) as process, self._by_user.of(uid) as user:
            place = Place(user, process)
            with trio.move_on_after(seconds):
                return await in_thread(pid, cast(trio.CapacityLimiter, place), asked)
            if place.is_taken and pid:
                self._leave_behind(place, pid, asked.user)
        if not asked.has_begun:
            raise ProcessError(Reason.STUCK, pid, f"uid {uid} waits for other answers of /proc")
        raise ProcessError(Reason.STUCK, pid, f"/proc did not answer for {seconds:g} s")

    def _judged(self, pid: int) -> int | None:
        """In a thread: the user of a process of whom another thread may be left behind."""
        user = self._user_of(pid) if pid else None
        if user is not None and self._behind_by_user[self._owner(user)] >= self._of_a_user:
            detail = f"too many processes of uid {user} do not answer"
            raise ProcessError(Reason.STUCK, pid, detail)
        return user

    def _leave_behind(self, place: "Place", pid: int, user: int | None) -> None:
        if user is None:  # it was gone, and its pid has another process by now
            return
        counts = (self._behind_by_pid, pid), (self._behind_by_user, self._owner(user))
        for counter, key in counts:
            counter[key] += 1
        place.leave_user(partial(_count_down, counts))


def _count_down(counts: tuple[tuple[Counter[int], int], ...]) -> None:
    for counter, key in counts:
        counter[key] -= 1
        if not counter[key]:
            del counter[key]


class _Asked(Generic[T]):
    """A question that knows whose process it is about, and whether a thread asks it yet."""

    def __init__(
        self, pid: int, question: Callable[[], T], judge: Callable[[int], int | None]
    ) -> None:
        self._pid, self._question, self._judge = pid, question, judge
        self.has_begun = False
        self.user: int | None = None

    def __call__(self) -> T:
        self.has_begun = True
        self.user = self._judge(self._pid)
        return self._question()


class Place:
    """A place for a thread among those of a user and among those of a process, as
    trio.to_thread.run_sync needs it.  The thread may leave that of the user."""

    def __init__(self, user: trio.CapacityLimiter, process: trio.CapacityLimiter) -> None:
        self._user, self._process = user, process
        self._borrower: object = None
        self._ended: Callable[[], None] | None = None
        self.is_taken = False

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        await self._user.acquire_on_behalf_of(borrower)
        try:
            await self._process.acquire_on_behalf_of(borrower)
        except BaseException:
            self._user.release_on_behalf_of(borrower)
            raise
        self._borrower, self.is_taken = borrower, True

    def leave_user(self, ended: Callable[[], None]) -> None:
        """Give the place of the user back.  `ended`: called when the thread has ended."""
        self._ended = ended
        self._user.release_on_behalf_of(self._borrower)

    def release_on_behalf_of(self, borrower: object) -> None:
        self.is_taken = False
        self._process.release_on_behalf_of(borrower)
        if self._ended is None:
            self._user.release_on_behalf_of(borrower)
        else:
            self._ended()
