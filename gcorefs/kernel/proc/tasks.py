"""The processes and threads that exist: the directories /proc and /proc/PID/task (proc(5)).

If the leader of a process has called pthread_exit(3), files of /proc/PID are empty or missing, but
files of /proc/PID/task/LIVE are good.  So every file is read through a living thread: that is the
`tid` in the functions of this package.
"""

import math
import os
import time
from collections.abc import Callable
from typing import TypeVar

from gcorefs.kernel.proc import procfile, task_stat

T = TypeVar("T")


def is_ours() -> bool:
    """True if /proc numbers processes as system calls do (pid_namespaces(7)).

    A /proc of another pid namespace has other processes under the same numbers.
    """
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


NOT_OURS = "/proc is not mounted, or is that of another pid namespace"
"""The message if `is_ours` is false."""


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


_KTHREADD = 2
_STAYS_KERNEL = 10.0


class KernelThreads:
    """The children of kthreadd that are kernel threads.  Each is looked at once, and again after
    ten seconds, because another process may have its pid then."""

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


_of_this_kernel = KernelThreads()


def user_pids(kernel_threads: KernelThreads = _of_this_kernel) -> list[int]:
    """Every process that is not a kernel thread, without a look at each of them.

    Kernel threads are children of kthreadd, which creates them (kernel/kthread.c).  kthreadd has
    pid 2, and only its own pid namespace has kernel threads.  Its other children are programs that
    the kernel starts, such as the program of core_pattern (kernel/umh.c).
    """
    try:
        if not task_stat.stat(_KTHREADD).is_kernel_thread:
            return pids()
    except ProcessLookupError:
        return pids()
    except PermissionError:  # hidepid=: a process that we may not look at has no file
        return [pid for pid in pids() if not _is_kernel_thread(pid)]
    try:
        # Before and after, for children that begin meanwhile.  And if a child ends while its
        # siblings are read, the kernel can skip another one (fs/proc/array.c, get_children_pid).
        before = children(_KTHREADD)
        found = pids()
        threads = {_KTHREADD, *kernel_threads.among({*before, *children(_KTHREADD)})}
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        return [pid for pid in pids() if not _is_kernel_thread(pid)]
    return [pid for pid in found if pid not in threads]


def children(pid: int) -> list[int]:
    """The children of a process's leader; a few may be missing (proc(5), children).  ESRCH."""
    return [int(child) for child in procfile.read(f"{pid}/task/{pid}/children").split()]


def has_children(pid: int, tid: int) -> bool:
    """True if a thread has made a child that its process has not waited for.  False also if the
    thread is gone, or if the kernel does not tell."""
    try:
        file = procfile.open_file(f"{pid}/task/{tid}/children")
    except OSError:
        return False
    try:
        return bool(os.read(file, 1))
    except OSError:
        return False
    finally:
        os.close(file)


def _is_kernel_thread(pid: int) -> bool:
    """True also for a process that is gone or not shown: a listing leaves it out as well."""
    try:
        return task_stat.stat(pid).is_kernel_thread
    except (ProcessLookupError, PermissionError):
        return True


def tids(pid: int) -> list[int]:
    """Every thread of a process, with the leader first if it still exists."""
    try:
        found = sorted(map(int, os.listdir(f"/proc/{pid}/task")))
    except OSError as error:
        raise procfile.explained(error, f"{pid}/task") from error
    if pid in found:  # it need not be the lowest: thread ids wrap around at pid_max
        found.remove(pid)
        found.insert(0, pid)
    return found


def thread_count(pid: int) -> int:
    """The number of threads that `tids` would list, with one call.

    The directory has one link for each thread, and two for itself (fs/proc/base.c,
    proc_task_getattr).
    """
    try:
        return os.stat(f"/proc/{pid}/task").st_nlink - 2
    except OSError as error:
        raise procfile.explained(error, f"{pid}/task") from error


_TRIES = 3
_MOST_TRIES = 100


def ask_live_thread(pid: int, ask: Callable[[int], T]) -> T:
    """`ask(tid)` for the first thread that has not exited, and does not exit meanwhile.

    ESRCH: there is no such thread.
    """
    # Nearly always the leader, and a list of 10,000 threads takes 9 ms.  Try again if all seem
    # dead: execve(2) gives the id of the leader to the thread that calls it.  A process may do that
    # without end, so what is listed may be gone each time that we look.
    some = [pid]
    for number in range(_MOST_TRIES):
        has_vanished = False
        for tid in some:
            try:
                if not task_stat.stat(pid, tid).is_dead:
                    return ask(tid)
            except ProcessLookupError:
                has_vanished = True
        if number >= _TRIES and not has_vanished:
            break
        some = tids(pid)
    raise procfile.gone(pid)
