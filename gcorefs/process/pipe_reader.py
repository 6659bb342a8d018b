"""Whether a process reads the pipe into which we write: stopped, it would never take what we write.

A program that dumps itself through a pipe is one: it waits for a child, and reads what that says.
"""

import os
import stat

from gcorefs.kernel import statx
from gcorefs.kernel.proc import procfile, tasks


def reads(pid: int, descriptor: int) -> bool:
    """True if the process has the other end of the pipe `descriptor`.  False if /proc does not show
    that, and if `descriptor` is not a pipe."""
    try:
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return False
        ours = statx.cached_stat(f"/proc/self/fd/{descriptor}").identity
        return tasks.ask_live_thread(pid, lambda tid: _has_end(tid, ours))
    except OSError:
        return False


def _has_end(tid: int, ours: tuple[int, int, int]) -> bool:
    folder = f"/proc/{tid}/fd"
    for name in os.listdir(folder):
        try:
            # No file server is asked: the process may have files of one that does not answer.
            found = statx.cached_stat(f"{folder}/{name}")
            if found.identity == ours and _is_for_reading(tid, name):
                return True
        except FileNotFoundError:  # it is closed
            continue
    return False


def _is_for_reading(tid: int, name: str) -> bool:
    """proc(5), /proc/PID/fdinfo: the flags are octal."""
    fields = procfile.read(f"{tid}/fdinfo/{name}").split()
    flags = int(fields[fields.index(b"flags:") + 1], 8)
    return flags & os.O_ACCMODE != os.O_WRONLY
