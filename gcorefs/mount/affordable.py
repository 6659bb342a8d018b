"""How many stops this machine, or this container, can afford at one time."""

import dataclasses
import os
import resource

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.mount.limits import THREADS_OF_A_USER
from gcorefs.mount.log import logger
from gcorefs.mount.options import Options
from gcorefs.process import cgroups

_DESCRIPTORS_PER_STOP = 4  # mem, pagemap, the socket of its worker, and one for a question to /proc
_DESCRIPTORS_BESIDE = 256

_TASKS_PER_STOP = 3  # its worker, a thread there, and one that reads ahead
_TASKS_BESIDE = 48  # those of the server, and its questions to /proc

_MEMORY_PER_STOP = 7 << 20
"""Bytes of a worker for a small process (worker/zygote.py says why)."""
_SHARE_OF_MEMORY = 4
"""All workers together may have a quarter of the memory, all headers another one, and all that is
read ahead half of one."""


def affordable(options: Options) -> Options:
    """The options, with no more stops than the file descriptors, the tasks and the memory allow.

    This raises the soft limit of file descriptors to the hard limit.  The soft limit protects only
    programs that use select(2) (getrlimit(2)).
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    by_files = _no_more_stops(options, (hard - _DESCRIPTORS_BESIDE) // _DESCRIPTORS_PER_STOP)
    if by_files is not options:
        counts = by_files.user_stops, by_files.max_stops
        logger.warning("user_stops=%d, max_stops=%d: RLIMIT_NOFILE is %d", *counts, hard)
    return _by_tasks(_by_memory(by_files))


def _by_tasks(options: Options) -> Options:
    limits = cgroups.task_limits()
    if not limits:
        return options
    least = min(limits, key=lambda limit: limit.left)
    found = _no_more_stops(options, (least.left - _TASKS_BESIDE) // _TASKS_PER_STOP)
    if found is not options:
        counts = found.user_stops, found.max_stops
        text = "user_stops=%d, max_stops=%d: our control group may have %d tasks (pids.max)"
        logger.warning(text, *counts, least.size)
    return found


def threads_of_a_user() -> int:
    """How many threads may ask one user's questions (limits.py, THREADS_OF_A_USER).

    All threads of one user together, if each of them waits for a process that never answers, take a
    quarter of the tasks that are left.
    """
    lefts = [limit.left for limit in cgroups.task_limits()]
    return max(2, min([THREADS_OF_A_USER, *(left // (4 * 3) for left in lefts)]))


def _by_memory(options: Options) -> Options:
    machine = os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE
    limits = [limit.size for limit in cgroups.memory_limits()]
    share = min([machine, *limits]) // _SHARE_OF_MEMORY
    found = _no_more_stops(options, share // _MEMORY_PER_STOP)
    found = _no_more(found, _MEMORY, share >> 20, parts=2)
    found = _no_more(found, _READ_AHEAD, share // 2 >> 20, parts=2)
    if min([machine, *limits]) < machine and found.copy_limit > max(
        1, share // 2 >> 20
    ):  # all users have twice that
        found = dataclasses.replace(found, copy_limit=max(1, share // 2 >> 20))
    if found is not options:
        names = [*_STOPS, *_MEMORY, *_READ_AHEAD]
        shown = ", ".join(f"{name}={getattr(found, name)}" for name in names)
        logger.debug("%s: there is no memory for more", shown)
    return found


_STOPS = "user_stops", "max_stops"
_MEMORY = "user_memory", "max_memory"
_READ_AHEAD = "user_read_ahead", "max_read_ahead"


def _no_more_stops(options: Options, stops: int) -> Options:
    return _no_more(options, _STOPS, max(4, stops), parts=4)


def _no_more(options: Options, names: tuple[str, str], most: int, parts: int) -> Options:
    """The options with `most` of something at most.  Of so many parts of it one is for root, in
    addition to what all other users have."""
    each, total = (getattr(options, name) for name in names)
    if most >= total + each:
        return options
    each = min(each, max(1, most // parts))
    total = min(total, max(1, most - each))
    return dataclasses.replace(options, **dict(zip(names, (each, total), strict=True)))
