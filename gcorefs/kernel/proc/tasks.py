"""Which processes and threads there are: the folders /proc and /proc/PID/task (proc(5)).

A process whose leader has called pthread_exit(3) reads empty or not at all through /proc/PID, but
well through /proc/PID/task/LIVE.  So every file is read through a live thread: that is what the
`tid` of the functions of this folder is.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable
from typing import TypeVar

from gcorefs.kernel.proc import procfile, task_stat

T = TypeVar("T")


def is_ours() -> bool:
    """True where /proc names processes as system calls do (pid_namespaces(7)).

    One mounted in another pid namespace has other processes under the same numbers.
    """
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


NOT_OURS = "/proc is not mounted, or is that of another pid namespace"
"""What to say where it is not."""


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def user_pids() -> list[int]:
    """Every process that is no kernel thread, without a look at any of them.

    Kernel threads are the children of kthreadd, which makes them (kernel/kthread.c).  It has
    pid 2, and in no other pid namespace than its own are there any.  Its other children are
    programs that the kernel starts, such as that of core_pattern (kernel/umh.c).
    """
    try:
        if not task_stat.stat(_KTHREADD).is_kernel_thread:
            return pids()
    except ProcessLookupError:
        return pids()
    except PermissionError:  # hidepid=: what we may not look at has no file
        return [pid for pid in pids() if not _is_kernel_thread(pid)]
    try:
        # Before and after, for those that begin meanwhile; and one that ends while its siblings
        # are read can make the kernel leave out another (fs/proc/array.c, get_children_pid).
        before = children(_KTHREADD)
        found = pids()
        threads = {_KTHREADD, *_kernel_threads.among({*before, *children(_KTHREADD)})}
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return [pid for pid in pids() if not _is_kernel_thread(pid)]
    return [pid for pid in found if pid not in threads]


_KTHREADD = 2


class _KernelThreads:
    """The children of kthreadd that are kernel threads.  Each is looked at once, and again after
    ten seconds, as its pid may be another's by then."""

    def __init__(self) -> None:
        self._known: set[int] = set()
        self._looked_at = -math.inf

    def among(self, children: set[int]) -> set[int]:
        now = time.monotonic()
        if now - self._looked_at >= _STAYS_KERNEL:
            self._known, self._looked_at = set(), now
        found = {pid for pid in children if pid in self._known or _is_kernel_thread(pid)}
        self._known = found
        return found


_STAYS_KERNEL = 10.0
_kernel_threads = _KernelThreads()


def children(pid: int) -> list[int]:
    """Children of a process's leader, nearly all (proc(5), children).  ESRCH."""
    return [int(child) for child in procfile.read(f"{pid}/task/{pid}/children").split()]


def _is_kernel_thread(pid: int) -> bool:
    """As far as a listing goes, one that is gone or not shown is none of the others."""
    try:
        return task_stat.stat(pid).is_kernel_thread
    except (ProcessLookupError, PermissionError):
        return True


def tids(pid: int) -> list[int]:
    """Every thread of a process, the leader first where it is still there."""
    try:
        found = sorted(map(int, os.listdir(f"/proc/{pid}/task")))
    except OSError as error:
        raise procfile.explained(error, f"{pid}/task") from error
    if pid in found:  # not always the lowest: thread ids begin anew at pid_max
        found.remove(pid)
        found.insert(0, pid)
    return found


def thread_count(pid: int) -> int:
    """How many threads `tids` would list, at once.

    The directory has a link for each, and two of its own (fs/proc/base.c, proc_task_getattr).
    """
    try:
        return os.stat(f"/proc/{pid}/task").st_nlink - 2
    except OSError as error:
        raise procfile.explained(error, f"{pid}/task") from error


def ask_live_thread(pid: int, ask: Callable[[int], T]) -> T:
    """`ask(tid)` of the first thread that has not exited, and does not meanwhile.

    ESRCH: there is none.
    """
    # Nearly always the leader, and the list of 10,000 takes 9 ms.  Again where all seem dead:
    # execve(2) gives the thread that calls it the leader's id.
    for list_some in (lambda _: [pid], tids, tids, tids):
        for tid in list_some(pid):
            with contextlib.suppress(ProcessLookupError):
                if not task_stat.stat(pid, tid).is_dead:
                    return ask(tid)
    raise procfile.gone(pid)
