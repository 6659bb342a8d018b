"""The interpreter, set for an event loop that shares it with threads."""

import gc
import sys

_SWITCH_INTERVAL = 1e-4
"""Seconds that a thread may go on while another waits for the interpreter lock (5 ms by default).
A thread that looks through the mappings of a large process must not delay the event loop."""


def settle() -> None:
    """Call it when everything is imported: the garbage collector never looks at that again."""
    sys.setswitchinterval(_SWITCH_INTERVAL)
    gc.freeze()
