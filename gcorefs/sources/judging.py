"""The judgement of a process that may call execve(2) while its threads are recorded.

It may run a set-uid program for a moment, and be judged before and after that.  Its memory does not
tell: the process chooses all that is in it, and another process may keep the old memory alive.  But
an execve ends all other threads, and the thread that calls it runs.  So what was recorded of a
thread belongs to the program that is judged, if the thread has neither run nor ended when it is
looked at after the judgement.
"""

import time
from collections.abc import Callable, Collection, Sequence

from gcorefs.sources.sleeping import Sleeping
from gcorefs.sources.thread_record import ThreadRecord

Judge = Callable[[Collection[int]], None]
"""Asks the kernel whether the opener may see these threads of the process now.  ProcessError."""

_LOOKS = 5
_NAP = 1e-3
"""A thread that works a little and then sleeps again is seen asleep in one of a few looks."""


def judged_records(threads: Sleeping, tids: Sequence[int], judge: Judge) -> list[ThreadRecord]:
    """A record of each of these threads, which run on.  ZERO: it has run meanwhile."""
    found: dict[int, ThreadRecord] = {}
    for look in range(_LOOKS):
        if look:
            time.sleep(_NAP)
        sleepers = threads.sleepers([tid for tid in tids if tid not in found])
        judge(sleepers)
        marks = threads.marks(sleepers)
        found |= {tid: each.record for tid, each in sleepers.items() if marks.get(tid) == each.mark}
        if len(found) == len(tids):
            break
    return [found.get(tid) or ThreadRecord(tid) for tid in tids]
