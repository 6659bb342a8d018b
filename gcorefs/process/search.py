"""The processes that have a name, a program, a control group, an ancestor.

Kernel threads, processes without a living thread, and the process that asks are never found.  Of a
process whose files /proc refuses, nothing can be known, and it is not found either.
"""

import errno
import os
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from gcorefs.kernel import statx
from gcorefs.kernel.proc import procfile, task_stat, tasks
from gcorefs.kernel.proc.membership import parse_groups
from gcorefs.kernel.proc.task_stat import Process, Stat
from gcorefs.process import group_names
from gcorefs.process.bounded_questions import AT_WORK, ask_each

Wanted = Callable[[int, Stat], bool]
"""True if process PID, which has this stat, is meant.  OSError: it is gone, or not shown."""

_DELETED = b" (deleted)"  # fs/d_path.c


class Found(NamedTuple):
    processes: list[Process]
    """In the order of their pids."""
    silent: list[int]
    """Processes of which /proc did not tell, or not in time, whether they are meant."""


def search(wanted: Wanted) -> Found:
    """Every process that is meant."""
    pids = sorted(set(tasks.user_pids()) - {os.getpid()})
    answers = ask_each(
        [(f"process {pid}", partial(_ask, pid, wanted)) for pid in pids],
        otherwise=lambda number: pids[number],
        at_work=AT_WORK,
    )
    return Found(
        [each for each in answers if isinstance(each, Process)],
        [each for each in answers if isinstance(each, int)],
    )


def _ask(pid: int, wanted: Wanted, may_wait: bool) -> Process | int | None:
    """The process if it is meant; its pid if that cannot be known."""
    if not may_wait:
        return pid
    try:
        stat = task_stat.stat(pid)
        if not wanted(pid, stat):
            return None
        if stat.is_dead:  # a leader that has ended, before another thread
            tasks.ask_live_thread(pid, lambda tid: tid)
    except OSError as error:
        if error.errno in _UNKNOWN:
            return None
        if error.errno in _OURS:
            raise
        return pid  # its program is on a file system that fails: others are still found
    return Process(pid, stat.start_time)


_UNKNOWN = (errno.ESRCH, errno.ENOENT, errno.ENODATA, errno.EACCES, errno.EPERM)
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def named(name: str) -> Wanted:
    """The whole name: of the process (comm, as pgrep -x compares it), or the last part of its first
    argument or of the path of its program, as pidof(1) compares them."""
    wanted = os.fsencode(name)

    def is_meant(pid: int, stat: Stat) -> bool:
        return stat.comm == wanted or wanted in (_base(each(pid)) for each in _PATHS)

    return is_meant


def _first_argument(pid: int) -> bytes:
    return procfile.read_beginning(f"{pid}/cmdline").partition(b"\0")[0]


def _program(pid: int) -> bytes:
    try:
        return _path(pid)
    except PermissionError:  # another user's; the other names count
        return b""


def _path(pid: int) -> bytes:
    """The path of its program; empty if it is longer than a page (proc_pid_exe(5)): it is none that
    anybody can ask for."""
    try:
        return os.readlink(f"/proc/{pid}/exe".encode()).removesuffix(_DELETED)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return b""
        raise


_PATHS = (_first_argument, _program)


def _base(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]


def running(path: str) -> Wanted:
    """The program at a path: the file that is there now, or one that had the path and is deleted.

    The path of a process is that in its own mount namespace.
    """
    texts = {os.fsencode(each) for each in (os.path.abspath(path), os.path.realpath(path))}
    try:
        identity = statx.cached_stat(path).identity
    except OSError:
        identity = None

    def is_meant(pid: int, stat: Stat) -> bool:
        if _path(pid) in texts:
            return True
        return identity is not None and statx.cached_stat(f"/proc/{pid}/exe").identity == identity

    return is_meant


def in_group(question: group_names.Question) -> Wanted:
    """The processes in a control group."""
    return lambda pid, stat: question(parse_groups(procfile.read(f"{pid}/cgroup")))


def tree(pid: int) -> Found:
    """A process and all its descendants, as they are now; `pid` alone if it has none.  ESRCH.

    A process whose parent has ended is a child of another one, and no descendant any more.
    """
    task_stat.stat(pid)
    parents: dict[int, int] = {}

    def is_noted(each: int, stat: Stat) -> bool:
        parents[each] = stat.ppid
        return True

    found = search(is_noted)
    family = {pid}
    while more := {each for each, parent in parents.items() if parent in family} - family:
        family |= more
    return Found([each for each in found.processes if each.pid in family], found.silent)
