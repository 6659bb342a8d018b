"""What ls(1) and stat(1) show of a process, without stopping it.

Even the plainest file of /proc/PID may make its reader wait: for an execve(2) under way
(exec_update_lock), which may itself be closing a file of this mount and so be waiting for
us.  Hence all of it is read in threads, under a bound, and never in the event loop.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

import trio

from gcorefs.elfcore.segments import most_bytes
from gcorefs.mount.in_thread import in_thread
from gcorefs.mount.limits import Both, Limiters
from gcorefs.process import procfs
from gcorefs.process.errors import ProcessError, Reason, told
from gcorefs.process.procfs import Process, Stat
from gcorefs.process.turns import LINE

T = TypeVar("T")

LOOK_TIMEOUT = 5.0
"""Seconds that a question to /proc may take."""

_MOST_OF_A_PROCESS = 10
_MOST_OF_A_USER = 100

_BYTES_OF_A_THREAD = 16 << 10  # of its notes, with room for the largest registers


@dataclass(frozen=True, slots=True)
class Look:
    """One process as its file shows it while it is not open."""

    process: Process
    uid: int
    gid: int
    estimate: int
    """Bytes that a core may have, by what is resident or swapped: rather too many than too few,
    for lldb asks before it opens, and then reads no further."""


def look(pid: int) -> Look:
    """ESRCH: there is no such process, or the number is that of a thread.

    ProcessError: EACCES where /proc does not show it to us, as with hidepid= (proc(5)).
    """
    with told(pid, gone=None):
        return _look(pid)


def _look(pid: int) -> Look:
    stat = procfs.stat(pid)
    status = procfs.status(pid)
    if int(status["Tgid"]) != pid:
        raise ProcessLookupError(f"{pid} is a thread of {status['Tgid'].decode()}")
    uid, gid = procfs.owner_of(str(pid))
    return Look(
        process=Process(pid, stat.start_time),
        uid=uid,
        gid=gid,
        estimate=_estimate(pid, stat, status),
    )


def _estimate(pid: int, stat: Stat, status: dict[str, bytes]) -> int:
    if stat.is_dead:
        # A leader that has exited has no memory any more, and its process may well have.
        with contextlib.suppress(ProcessLookupError):
            stat, status = procfs.ask_live_thread(
                pid, lambda tid: (procfs.stat(pid, tid), procfs.status(pid, tid))
            )
    swapped, mapped = (int(status.get(key, b"0").split()[0]) * 1024 for key in ("VmSwap", "VmSize"))
    if not mapped:
        return 0
    notes = int(status["Threads"]) * _BYTES_OF_A_THREAD
    return most_bytes(stat.resident * procfs.PAGE_SIZE + swapped, mapped) + notes


def _at_once(question: Callable[[], T]) -> T:
    """Its answer, and what takes long gives way meanwhile."""
    with LINE.begun():
        return question()


class Questions:
    """The threads that ask, so many at a time; one that is stuck is left behind."""

    def __init__(self) -> None:
        self._by_pid = Limiters(_MOST_OF_A_PROCESS)
        self._by_user = Limiters(_MOST_OF_A_USER)

    async def ask(self, pid: int, uid: int, question: Callable[[], T]) -> T:
        """The answer to a blocking question about `pid` for `uid`; EIO where it takes too long.

        So many at a time for each process and each user: one that does not answer takes no
        thread from the others.
        """
        with self._by_pid.of(pid) as process, self._by_user.of(uid) as user:
            limiter = cast(trio.CapacityLimiter, Both(user, process))
            with trio.move_on_after(LOOK_TIMEOUT):
                return await in_thread(pid, limiter, _at_once, question)
        raise ProcessError(Reason.STUCK, pid, f"/proc did not answer for {LOOK_TIMEOUT:g} s")
