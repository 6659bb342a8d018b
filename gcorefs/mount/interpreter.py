"""The interpreter, set for threads that must not wait long for each other.

One of them stops a process; what another does meanwhile, with the mappings of a process that
has 70,000, is not to keep that one standing still.
"""

import gc
import sys

_SWITCH_INTERVAL = 1e-4
"""Seconds that a thread may go on while another waits for the interpreter lock.  A stop lets go
of the lock at each call that may sleep, some fifty times, and by default waits 5 ms each time."""

_MANY_OBJECTS = 10_000
"""Of which the collector looks at the youngest; by default 700.  A process of 70,000 mappings
makes many in a moment, and none of them is in a cycle."""


def settle() -> None:
    """Once everything is imported: the collector never looks at it again, which takes it longer
    than all else, with the lock held."""
    sys.setswitchinterval(_SWITCH_INTERVAL)
    gc.freeze()
    gc.set_threshold(_MANY_OBJECTS)
