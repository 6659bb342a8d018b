"""The tracees that a stop leaves asleep (stop=gentle).

A thread that sleeps in a system call is seized like all others, but not interrupted: some calls
come back early or in part after a stop.  Its registers are read while it sleeps (sleeping.py), and
its mark tells later whether it has run since.  Then it is looked at again: it may sleep in its next
call by then.  A thread that is woken again and again is stopped at last.

A seized thread stops by itself only for a signal, and the tracer sees that (tracees.py).
"""

from collections import Counter
from collections.abc import Callable

from gcorefs import tuning
from gcorefs.process.progress import Progress
from gcorefs.sources.sleeping import Sleeping
from gcorefs.sources.tracees import Tracees
from gcorefs.steps import Step

LookAsleep = Callable[[], Sleeping]
"""Makes a look at the threads of the process."""

_MOST_WAKES = 3


class Asleep:
    """Those of one process."""

    def __init__(self, tracees: Tracees, look: LookAsleep, progress: Progress) -> None:
        self._tracees = tracees
        self._look = look
        self._progress = progress
        self._wakes: Counter[int] = Counter()
        self._is_over = False

    def leave(self) -> None:
        """Leave each tracee asleep that sleeps now."""
        candidates = self._tracees.running - self._tracees.awaited
        candidates = {tid for tid in candidates if self._wakes[tid] < _MOST_WAKES}
        if candidates and not self._is_over:
            self._tracees.learn_machine()
            self._tracees.leave_asleep(self._look().sleepers(candidates))
        tuning.now().reach(Step.LEFT_ASLEEP, self._tracees.pid)

    def end(self) -> None:
        """Leave nobody asleep any more: all are to stop."""
        self._is_over = True
        for tid in tuple(self._tracees.asleep):
            self._tracees.wake(tid)

    @property
    def have_woken(self) -> bool:
        """True if some have run during the hold."""
        return bool(self._progress.woken)

    def are_unchanged(self) -> bool:
        """True if none of them has run since it was recorded.  The others are to stop."""
        before = len(self._tracees.asleep)
        self._tracees.look_at_asleep()
        self.woken()
        return len(self._tracees.asleep) == before

    def woken(self) -> set[int]:
        """Those that have run since.  They are to stop, or to be left asleep again."""
        asleep = {**self._tracees.asleep}
        marks = self._look().marks(asleep) if asleep else {}
        found = {tid for tid, each in asleep.items() if marks.get(tid) != each.mark}
        for tid in found:
            self._tracees.wake(tid)
            self._wakes[tid] += 1
        return found

    def look_in_hold(self) -> None:
        """Take in what the kernel reports about them during the hold.  Those that a signal has
        woken, or that have ended, are counted."""
        before = len(self._tracees.asleep)
        self._tracees.look_at_asleep()
        self._progress.woken += before - len(self._tracees.asleep)

    def woken_in_hold(self) -> set[int]:
        """The same as `woken`, during the hold, and they are counted."""
        found = self.woken()
        self._progress.woken += len(found)
        return found
