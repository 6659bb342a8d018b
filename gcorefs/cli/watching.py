"""When `gcorefs watch` takes the next core: at times, or when a condition holds."""

import contextlib
import errno
import os
import select
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import click

from gcorefs.cli.printable import printable
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.triggers.budget import Budget
from gcorefs.triggers.looks import Look

_SHARE = 20
"""Looks take at most this part of the time of one processor."""

ENDED = "ended"
"""What `wait` returns if the process has ended."""


class Waiting(Protocol):
    def wait(self) -> str:
        """Wait until something is to be taken.  Why; empty if it is just time.  ENDED."""

    def taken(self) -> None:
        """Something was taken, or was tried to."""

    @property
    def is_over(self) -> bool:
        """The process has ended."""


@contextlib.contextmanager
def opened(pid: int) -> Iterator[int]:
    """A descriptor that stands for the process: no other one has it, whatever becomes of the pid
    (pidfd_open(2))."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        if error.errno == errno.EINVAL:  # a thread that leads no process
            raise ProcessError(Reason.GONE, pid, "it is a thread of another process") from error
        if error.errno == errno.ESRCH:
            raise ProcessError(Reason.GONE, pid) from error
        raise
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def _is_over(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _polled(poll: select.poll, left: float) -> list[tuple[int, int]]:
    """As poll(2), for any number of seconds."""
    end = time.monotonic() + left
    while not (found := poll.poll(min(left, _LONGEST) * 1000)):
        left = end - time.monotonic()
        if left <= 0:
            break
    return found


_LONGEST = 86400.0
"""Seconds.  poll(2) takes an int of milliseconds, 24 days."""


class Clock:
    """A core is due again and again.  One that takes longer makes the clock leave out times."""

    def __init__(self, pidfd: int, every: float) -> None:
        self._pidfd = pidfd
        self._every = every
        self._due = time.monotonic()
        self._is_first = True

    def wait(self) -> str:
        now = time.monotonic()
        if self._is_first:
            self._is_first = False
            return ""
        while self._due < now:
            self._due += self._every
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return ENDED if _polled(poll, self._due - now) else ""

    def taken(self) -> None:
        pass

    @property
    def is_over(self) -> bool:
        return _is_over(self._pidfd)


class Conditions:
    """Something is due if one of some conditions holds, and the budget allows it."""

    def __init__(self, pidfd: int, looks: Sequence[Look], budget: Budget, poll: float) -> None:
        """`poll`: seconds from one look to the next, if the kernel does not wake us."""
        self._pidfd = pidfd
        self._looks = looks
        self._budget = budget
        self._poll = poll
        self._has_told = False

    def wait(self) -> str:
        while not self.is_over:
            begun = time.monotonic()
            try:
                causes = [each.look(begun) for each in self._looks]
            except ProcessLookupError:
                causes = []
            if (cause := "; ".join(filter(None, causes))) and self._is_allowed(cause):
                return cause
            if self._sleep(time.monotonic() - begun):
                break
        return ENDED

    def _is_allowed(self, cause: str) -> bool:
        now = _now()
        wait = self._budget.wait(now)
        if self._budget.is_used_up(now):
            if not self._has_told:
                self._has_told = True
                line = (
                    f"{cause}: --max-per-day is reached, the next is taken in {wait / 3600:.1f} h"
                )
                click.echo(printable(line), err=True)
        else:
            self._has_told = False
        return not wait

    def _sleep(self, cost: float) -> bool:
        """Wait for the next look.  True if the process has ended."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        # The kernel may have something to tell a hundred times in a second.
        least = (_SHARE - 1) * cost
        if _polled(poll, least):
            return True
        if not self._budget.wait(_now()):
            for each in self._looks:
                for file in each.files():
                    poll.register(file, select.POLLPRI)
        found = _polled(poll, max(0.0, self._poll - least))
        return any(file == self._pidfd for file, _ in found)

    def taken(self) -> None:
        self._budget.taken(_now())

    @property
    def is_over(self) -> bool:
        return _is_over(self._pidfd)


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
