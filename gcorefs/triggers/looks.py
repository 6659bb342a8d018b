"""What each condition reads of the process.

A look is a few system calls and stops nobody.  That for D reads a file for each thread.
"""

import contextlib
import time
from collections import deque
from typing import Protocol

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.kernel.proc import procfile, task_stat, task_status, tasks
from gcorefs.triggers.group_events import GroupEvents
from gcorefs.triggers.words import GROUP_EVENTS, Condition


class Look(Protocol):
    """A condition that is looked at again and again."""

    def look(self, now: float) -> str:
        """What was found, if the condition holds; else empty.  `now`: time.monotonic().

        ESRCH: the process is gone.  OSError.
        """

    def files(self) -> list[int]:
        """Descriptors for which poll(2) reports POLLPRI when the kernel has something to tell."""

    def close(self) -> None:
        """Nothing is looked at any more."""


def look_at(pid: int, condition: Condition) -> Look:
    """OSError: it cannot be looked at here."""
    if condition.word in GROUP_EVENTS:
        return GroupEvents(pid, condition.word)
    if condition.word == "cpu":
        return Cpu(pid, condition)
    if condition.word == "D":
        return Uninterruptible(pid, condition)
    return Level(pid, condition)


class _Polled:
    """A look that the kernel never asks for."""

    def files(self) -> list[int]:
        return []

    def close(self) -> None:
        pass


class Level(_Polled):
    """rss, as /proc/PID/statm has it, or the number of threads."""

    def __init__(self, pid: int, condition: Condition) -> None:
        self._pid = pid
        self._limit = condition.limit
        self._is_rss = condition.word == "rss"

    def look(self, now: float) -> str:
        if self._is_rss:
            found = resident(self._pid)
            return f"rss is {found >> 20} MiB" if found > self._limit else ""
        found = tasks.thread_count(self._pid)
        return f"threads are {found}" if found > self._limit else ""


def resident(pid: int) -> int:
    """Bytes.  Through a living thread: a dead leader has no memory."""
    text = tasks.ask_live_thread(pid, lambda tid: procfile.read_of(pid, tid, "statm"))
    return int(text.split()[1]) * PAGE_SIZE


class Cpu(_Polled):
    """The mean of the time that all threads ran, in percent of one processor."""

    def __init__(self, pid: int, condition: Condition) -> None:
        # The clock of another process (clock_getcpuclockid(3)): CPUCLOCK_SCHED of its pid
        # (include/linux/posix-timers_types.h).  /proc has 10 ms as its unit.
        self._clock = ~pid << 3 | 2
        self._pid = pid
        self._limit = condition.limit
        self._over = condition.over
        self._samples: deque[tuple[float, float]] = deque()

    def look(self, now: float) -> str:
        try:
            used = time.clock_gettime(self._clock)
        except OSError as error:
            raise procfile.gone(self._pid) from error
        samples = self._samples
        samples.append((now, used))
        # The last one that is old enough is the first of the mean.
        while len(samples) > 1 and samples[1][0] <= now - self._over:
            samples.popleft()
        begun, before = samples[0]
        if now - begun < self._over:
            return ""
        share = 100 * (used - before) / (now - begun)
        return f"cpu was {share:.0f}% for {now - begun:.3g} s" if share > self._limit else ""


class Uninterruptible(_Polled):
    """A thread that has slept in state D for so long.

    It counts from the first look that sees it asleep, and only while the thread is not switched:
    the kernel's own search for hung tasks compares the same counts (kernel/hung_task.c,
    check_hung_task).  So it is never told too early, and too late by one look.
    """

    def __init__(self, pid: int, condition: Condition) -> None:
        self._pid = pid
        self._limit = condition.limit
        self.asleep: dict[int, tuple[float, bytes]] = {}
        """By thread: since when, and its counts of switches."""

    def look(self, now: float) -> str:
        asleep = {}
        for tid in tasks.tids(self._pid):
            with contextlib.suppress(ProcessLookupError):
                if task_stat.stat(self._pid, tid).state == "D":
                    since, switches = self.asleep.get(tid, (now, b""))
                    found = _switches(self._pid, tid)
                    asleep[tid] = (since if found == switches else now, found)
        self.asleep = asleep
        longest = max((now - since for since, _ in asleep.values()), default=0.0)
        if longest <= self._limit:
            return ""
        count = sum(now - since > self._limit for since, _ in asleep.values())
        return f"{count} thread{'s' * (count != 1)} in state D, the longest for {longest:.3g} s"


def _switches(pid: int, tid: int) -> bytes:
    found = task_status.status(pid, tid)
    return b"%b %b" % (
        found.get("voluntary_ctxt_switches", b""),
        found.get("nonvoluntary_ctxt_switches", b""),
    )
