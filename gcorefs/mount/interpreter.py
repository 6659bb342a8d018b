"""The interpreter, set for threads that must not wait long for each other.

One of them stops a process; what another does meanwhile, with the mappings of a process that
has 70,000, is not to keep that one standing still.
"""

import gc
import sys

from gcorefs.process.turns import LINE

_SWITCH_INTERVAL = 1e-4
"""Seconds that a thread may go on while another waits for the interpreter lock.  A stop lets go
of the lock at each call that may sleep, some fifty times, and by default waits 5 ms each time."""

# Objects that were made and not freed since the last collection, of which some may be garbage:
# so many, or a quarter of all, are worth one while nobody is being stopped; so many always.
_MANY = 10_000
_SHARE = 4
_TOO_MANY = 500_000


def settle() -> None:
    """Once everything is imported.

    The collector, left to itself, begins in the midst of 70,000 mappings, of which none is
    garbage, and holds the interpreter lock for up to 28 ms.  Nearly all objects are freed without
    it; what is in a cycle waits for a Collector.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL)
    gc.freeze()
    gc.disable()


class Collector:
    """Has garbage collected, in the place of the interpreter."""

    def __init__(self) -> None:
        self._enough = _MANY

    def tidy(self) -> None:
        """Where it is time.  Takes 60 ns for each object that is alive, with the lock held; that
        of a process which stands already waits, as its reader does."""
        count, *_ = gc.get_count()
        if count > _TOO_MANY or (count > self._enough and LINE.is_idle):
            gc.collect()
            self._enough = max(_MANY, len(gc.get_objects()) // _SHARE)
