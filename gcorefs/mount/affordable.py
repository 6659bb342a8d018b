"""How many stops this machine can afford at one time."""

import dataclasses
import os
import resource

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.mount.log import logger
from gcorefs.mount.options import Options

_DESCRIPTORS_PER_STOP = 4  # mem, pagemap, the socket of its worker, and one for a question to /proc
_DESCRIPTORS_BESIDE = 256

_MEMORY_PER_STOP = 7 << 20
"""Bytes of a worker for a small process (worker/zygote.py says why)."""
_SHARE_OF_MEMORY = 4
"""All workers together may have a quarter of the machine's memory."""


def affordable(options: Options) -> Options:
    """The options, with no more stops than the file descriptors and the memory allow.

    This raises the soft limit of file descriptors to the hard limit.  The soft limit protects only
    programs that use select(2) (getrlimit(2)).
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    by_files = _no_more(options, (hard - _DESCRIPTORS_BESIDE) // _DESCRIPTORS_PER_STOP)
    if by_files is not options:
        counts = by_files.user_stops, by_files.max_stops
        logger.warning("user_stops=%d, max_stops=%d: RLIMIT_NOFILE is %d", *counts, hard)
    memory = os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE // _SHARE_OF_MEMORY
    by_memory = _no_more(by_files, memory // _MEMORY_PER_STOP)
    if by_memory is not by_files:
        counts = by_memory.user_stops, by_memory.max_stops
        logger.debug("user_stops=%d, max_stops=%d: there is no memory for more", *counts)
    return by_memory


def _no_more(options: Options, stops: int) -> Options:
    """The options with `stops` stops at most.  A quarter of these is for root, in addition to those
    of all other users."""
    stops = max(4, stops)
    if stops >= options.max_stops + options.user_stops:
        return options
    each = min(options.user_stops, stops // 4)
    total = min(options.max_stops, stops - each)
    return dataclasses.replace(options, user_stops=each, max_stops=total)
