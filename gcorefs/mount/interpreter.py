"""Settings of the interpreter for an event loop, or a worker, that shares it with threads."""

import gc
import sys

_SWITCH_INTERVAL = 1e-4
"""Seconds that a thread may run while another waits for the interpreter lock (default: 5 ms).  A
thread that reads the mappings of a large process must not delay the event loop, and a stop must not
last as long as the threads of its worker wait for each other."""


def settle() -> None:
    """Call this after all imports: the garbage collector then ignores all that exists now."""
    sys.setswitchinterval(_SWITCH_INTERVAL)
    gc.freeze()
