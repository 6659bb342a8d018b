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

# Objects, made and not freed, of which some may be garbage: so many are looked at when nobody
# stands still for it, and so many in any case.
_MANY = 10_000
_TOO_MANY = 500_000


def settle() -> None:
    """Once everything is imported.

    The collector, left to itself, begins in the midst of 70,000 mappings, of which none is
    garbage, and holds the interpreter lock for up to 28 ms.  Nearly all objects are freed without
    it; what is in a cycle waits for `tidy`.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL)
    gc.freeze()
    gc.disable()


def tidy() -> None:
    """At the end of a request: have the garbage collected where there may be much of it."""
    count, *_ = gc.get_count()
    if count > _TOO_MANY or (count > _MANY and LINE.is_idle):
        gc.collect()
