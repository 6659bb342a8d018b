"""Late threads: they were interrupted but have not stopped yet when their process is let go.

A late thread may already have left its system call with an EINTR that we caused (restart.py).  It
sees that EINTR unless the tracer repairs it when the thread stops.  So the thread stays traced,
alone, until it has stopped.  Its tracer looks now and then (sources/holding.py), which costs one OS
thread.  The next stop of the process takes over that OS thread and the tracee, which is traced
without a gap.

The tracer does not wait for a thread in uninterruptible sleep, which an interrupt does not wake:
it may sleep for days (the parent of a vfork), and no debugger could attach to it meanwhile.
"""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from math import inf
from typing import Any, Protocol

from gcorefs.kernel.proc import task_stat, task_status
from gcorefs.kernel.proc.task_stat import Process

_MOST_OF_ONE_USER = 64
"""Processes of one user with late threads.  Each costs us a thread that nobody waits for."""


class Predecessor(Protocol):
    """A tracer that waits for the late threads of a process that has been let go."""

    process: Process

    def hand_over(self, successor: Any) -> None:
        """Let `successor`, a tracer of the same type, go on in the same OS thread."""


class Late:
    """All tracers that wait, each for one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[Process, tuple[Predecessor, int]] = {}
        self._of_user: Counter[int] = Counter()
        self._most = _MOST_OF_ONE_USER

    def enter(self, tracer: Predecessor) -> bool:
        """True if `tracer` may wait, until it leaves or hands over."""
        user = _user(tracer.process.pid)
        with self._lock:
            if self._of_user[user] >= self._most:
                return False
            self._waiting[tracer.process] = tracer, user
            self._of_user[user] += 1
        return True

    def permit(self, may_wait: bool) -> None:
        """Whether a tracer may begin to wait from now on."""
        self._most = _MOST_OF_ONE_USER if may_wait else 0

    def leave(self, tracer: Predecessor) -> None:
        """`tracer` waits no longer.  It may have handed over before; it never does afterwards."""
        with self._lock:
            self._remove(tracer)

    def succeed(self, successor: Predecessor) -> Predecessor | None:
        """The tracer that has handed over to `successor`; None if none waits for its process."""
        with self._lock:
            predecessor, _ = self._waiting.get(successor.process, (None, 0))
            if predecessor is not None:
                predecessor.hand_over(successor)
                self._remove(predecessor)
            return predecessor

    def _remove(self, tracer: Predecessor) -> None:
        found, user = self._waiting.get(tracer.process, (None, 0))
        if found is tracer:
            del self._waiting[tracer.process]
            self._of_user[user] -= 1


LATE = Late()
"""The late threads of all stops by this process."""


def _user(pid: int) -> int:
    """The uid of the owner of a process; 0 if it is gone, because then no wait is long."""
    try:
        return task_status.owner_of(str(pid))[0]
    except OSError:
        return 0


def may_stop(pid: int, tid: int) -> bool:
    """False for a thread that is dead or in uninterruptible sleep.  True if that is unknown."""
    try:
        stat = task_stat.stat(pid, tid)
    except OSError:
        return True
    return not stat.is_dead and stat.state != "D"


_MOST_ASKED = 1000

_TICKS = 0.02
"""Seconds in which the kernel updates the CPU time of a running thread (CONFIG_HZ is at least 100;
kernel/sched/fair.c, update_curr)."""


class Starved:
    """Finds the threads of a process that are runnable but get no CPU."""

    def __init__(self, pid: int) -> None:
        self.tids: frozenset[int] = frozenset()
        """The threads that got no CPU between the last two calls of `seconds`."""
        self._pid = pid
        self._asked_at = inf
        self._run_times: dict[int, int] = {}
        self.has_compared = False
        """The last two calls of `seconds`, far enough apart, were about the same threads."""

    def seconds(self, tids: Sequence[int]) -> float:
        """Seconds since the last call, if any of `tids` got no CPU meanwhile; else 0.0."""
        now = time.monotonic()
        elapsed = now - self._asked_at
        if 0.0 < elapsed < _TICKS:  # too early to tell
            return 0.0
        self._asked_at = now
        return elapsed if self._ask(tids) else 0.0

    def _ask(self, tids: Sequence[int]) -> bool:
        before, self._run_times = self._run_times, {}
        starved = []
        for tid in tids[:_MOST_ASKED]:
            try:
                run_time = task_stat.run_time(self._pid, tid)
                if run_time is None:
                    continue
                self._run_times[tid] = run_time
                if before.get(tid) == run_time and task_stat.stat(self._pid, tid).state == "R":
                    starved.append(tid)
            except OSError:  # gone, or not shown
                continue
        self.tids = frozenset(starved)
        self.has_compared = self._run_times.keys() <= before.keys()
        return bool(starved)
