"""The threads of this process, as the kernel lists them."""

import contextlib
import os
from pathlib import Path


def names() -> list[str]:
    """The names of all tasks but the first (proc(5), comm)."""
    found = []
    for tid in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # it has just ended
            if int(tid) != os.getpid():
                found.append(Path(f"/proc/self/task/{tid}/comm").read_text().rstrip("\n"))
    return found
