"""Holds the tracees of a process, and lets them go.

During the hold the OS thread of the tracer sleeps in waitid(2), so a hold costs no CPU.  It wakes
up if a thread stops late, if a tracee dies, or if another thread of ours rings (kernel/bell.py).
Threads that are left asleep, or late, are looked at now and then: the kernel reports nothing of one
that runs, or whose interrupt is gone.
"""

import threading
import time
from collections.abc import Callable

from gcorefs import tuning
from gcorefs.kernel import wait4
from gcorefs.process.progress import Progress
from gcorefs.sources.asleep import Asleep
from gcorefs.sources.tracees import LONGEST_NAP, SHORTEST_NAP, Tracees
from gcorefs.steps import Step

_MOST_TRIES = 10
"""How often we try to let the tracees go if there is no memory for it."""

_LOOK_NAP = 0.02
_LOOK_SHARE = 50
"""Seconds between two looks at threads that are left asleep; and how much longer than a look they
are at least."""

_LATE_NAP = 0.02
"""Seconds between two looks at threads that are late (process/late.py), or longer, as above."""

_AGAIN = 1.0
"""Seconds after which these are interrupted again."""

_DEATH_NAP = 1e-3
"""Seconds between two looks at a process that is killed: its threads die one after another."""


def hold(
    tracees: Tracees,
    is_to_end: threading.Event,
    die: Callable[[], None],
    asleep: Asleep | None = None,
    tend: Callable[[], None] = lambda: None,
    count_newborn: Callable[[], None] = lambda: None,
) -> None:
    """Sleep until the event, or until no tracee is left.

    `die` is called once if the process dies, before the first dead thread is reaped.  `asleep`:
    a tracee that was left asleep and has run since is stopped, and then `count_newborn` is called.
    `tend` is called each time that the sleep ends.  OSError, MemoryError: a thread that has stopped
    only now could not be recorded.
    """
    death = _Death(tracees, die, asleep)
    while not is_to_end.is_set():
        tuning.now().reach(Step.HOLDING, tracees.pid)
        if asleep is None or not tracees.asleep:
            _await_status(tracees)
        else:
            _watch(tracees, is_to_end, asleep)
        if is_to_end.is_set():
            if asleep is not None and tracees.asleep:
                asleep.woken_in_hold()
            return
        tend()
        before = tracees.counts
        # They may stop yet, or end by themselves.  And one that was left asleep may stand in a stop
        # for a signal that another thread of ours has waited for.
        tracees.look_at_running(are_overdue=True)
        death.look()
        if not tracees.known:
            death.tell()  # none of them had stopped
            return
        if asleep is not None and asleep.have_woken:
            count_newborn()
        if death.is_told or tracees.counts == before:
            time.sleep(_DEATH_NAP)


class _Death:
    """Sees that a process that is held dies, and tells it once."""

    def __init__(self, tracees: Tracees, die: Callable[[], None], asleep: Asleep | None) -> None:
        self.is_told = False
        self._tracees = tracees
        self._die = die
        self._asleep = asleep

    def tell(self) -> None:
        if not self.is_told:
            self.is_told = True
            self._die()

    def look(self) -> None:
        """Take in what the kernel reports about tracees that have stopped, or are left asleep."""
        tracees = self._tracees
        if not wait4.has_status():
            return
        for tid in tracees.stopped:
            if not self.is_told and tracees.is_ending(tid):
                self.tell()
            tracees.look_at(tid)
        # One that was left asleep may wake and end by itself; the process has died with the last
        # thread.
        if not self.is_told and tracees.asleep and all(map(tracees.is_ending, tracees.known)):
            self.tell()
        if self._asleep is not None:
            self._asleep.look_in_hold()


def _await_status(tracees: Tracees) -> None:
    """Sleep until the kernel reports something of a tracee.

    If another thread of ours may take that away (Tracees.misses_stops), only for a while, as long
    as a stop is awaited.
    """
    if tracees.misses_stops and tracees.awaited:
        time.sleep(_LATE_NAP)
    else:
        wait4.await_status()


def _watch(tracees: Tracees, is_to_end: threading.Event, asleep: Asleep) -> None:
    """Sleep until the event, until the kernel reports something of a tracee, or until one that was
    left asleep has run, which nobody reports."""
    nap = _LOOK_NAP
    while not is_to_end.wait(nap) and not wait4.has_status():
        began = time.monotonic()
        if woken := asleep.woken_in_hold():
            for tid in woken:
                tracees.interrupt(tid)
            return
        nap = max(_LOOK_NAP, (time.monotonic() - began) * _LOOK_SHARE)


def await_late(tracees: Tracees, is_to_end: threading.Event) -> None:
    """Wait for the event, while no thread is held.  One that stops late is let go at once."""
    while tracees.awaited and not is_to_end.is_set():
        _let_late_go(tracees, is_to_end.is_set)
    is_to_end.wait()


def _let_late_go(tracees: Tracees, is_over: Callable[[], bool]) -> None:
    """For a second, let each go that stops, and interrupt the rest again."""
    nap = SHORTEST_NAP
    end = time.monotonic() + _AGAIN
    while tracees.awaited and not is_over():
        if time.monotonic() > end:
            tracees.interrupt_again()
            return
        began = time.monotonic()
        tracees.look_at_awaited(are_overdue=True)
        tracees.detach_stopped()
        time.sleep(max(nap, (time.monotonic() - began) * _LOOK_SHARE))
        nap = min(nap * 2, _LATE_NAP)


def let_go(
    tracees: Tracees,
    progress: Progress,
    timeout: float,
    is_taken_over: Callable[[], bool],
    may_wait: Callable[[], bool],
) -> None:
    """Let every tracee go as soon as it has stopped.

    A tracee that has been interrupted may have left its system call with an EINTR that is ours.  So
    we do not let it go before it has stopped and is repaired.  After `timeout` seconds we wait only
    as long as `may_wait` says so; in no case longer than until `is_taken_over`.  The kernel lets go
    what is left when the OS thread of the tracer ends.
    """
    reach = tuning.now().reach
    for _ in range(_MOST_TRIES):
        try:
            reach(Step.RELEASED, tracees.pid)
            progress.end()
            tracees.detach_stopped()
            progress.released_at = progress.released_at or time.monotonic()
            _let_the_rest_go(tracees, timeout, is_taken_over, may_wait)
            reach(Step.DETACHED_ALL, tracees.pid)
        except MemoryError:  # a thread that nobody looked at would see our EINTR: try again
            time.sleep(tuning.now().last_look / _MOST_TRIES)
        else:
            return


def _let_the_rest_go(
    tracees: Tracees,
    timeout: float,
    is_taken_over: Callable[[], bool],
    may_wait: Callable[[], bool],
) -> None:
    nap = SHORTEST_NAP
    deadline = time.monotonic() + timeout
    # If another thread of ours has waited for a stop, the kernel has forgotten the signal, and a
    # tracee that we leave would not get it (kernel/exit.c, wait_task_stopped).
    tracees.look_at_awaited(are_overdue=True)
    while tracees.awaited and not is_taken_over():
        _, before = tracees.counts
        tracees.look_at_awaited(are_overdue=nap == LONGEST_NAP)
        tracees.detach_stopped()
        if tracees.counts[1] < before:
            nap = SHORTEST_NAP
            continue
        if time.monotonic() > deadline:
            break
        time.sleep(nap)
        nap = min(nap * 2, LONGEST_NAP)
    while tracees.awaited and not is_taken_over() and may_wait():
        _let_late_go(tracees, is_taken_over)
