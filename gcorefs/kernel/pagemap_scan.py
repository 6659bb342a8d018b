"""PAGEMAP_SCAN of ioctl(2), since Linux 6.7: runs of pages that have given properties
(Documentation/admin-guide/mm/pagemap.rst)."""

import errno
import fcntl
import struct
from array import array

from gcorefs.elfcore.columns import Column

# include/uapi/linux/fs.h: struct pm_scan_arg, struct page_region, _IOWR('f', 16, ...).
_SCAN_ARGUMENT = struct.Struct("<12Q")
_PAGEMAP_SCAN = 3 << 30 | _SCAN_ARGUMENT.size << 16 | ord("f") << 8 | 16
FILE = 1 << 2
"""A page of a file, or of shared memory."""
PRESENT = 1 << 3
SWAPPED = 1 << 4
PFNZERO = 1 << 5
"""The kernel's zero page."""
HUGE = 1 << 6
SOFT_DIRTY = 1 << 7
"""Written since the marks were cleared, or in a mapping that is newer (soft_dirty.py)."""
GUARD = 1 << 8
"""Since Linux 6.15."""
_REGIONS_AT_ONCE = 4096
_WORDS_OF_REGION = 3


def scan(
    pagemap: int, start: int, end: int, all_of: int = 0, any_of: int = 0, none_of: int = 0
) -> tuple[Column, Column] | None:
    """Starts and ends of the runs of pages that have the given category bits, in order.

    `pagemap`: a descriptor of /proc/PID/pagemap.  None if this kernel does not support it.
    """
    try:
        return _scan(pagemap, start, end, all_of, any_of, none_of)
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL):
            raise
        return None


def _scan(
    pagemap: int, start: int, end: int, all_of: int, any_of: int, none_of: int
) -> tuple[Column, Column]:
    regions = array("Q", bytes(8 * _WORDS_OF_REGION * _REGIONS_AT_ONCE))
    vector, _ = regions.buffer_info()
    starts, ends = array("Q"), array("Q")
    while True:
        argument = bytearray(
            _SCAN_ARGUMENT.pack(
                _SCAN_ARGUMENT.size,
                0,  # flags
                start,
                end,
                0,  # walk_end: the kernel's answer
                vector,
                _REGIONS_AT_ONCE,
                0,  # max_pages: no limit
                none_of,  # category_inverted
                none_of | all_of,  # category_mask
                any_of,  # category_anyof_mask
                0,  # return_mask: only runs, no categories
            )
        )
        count = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, argument)
        words = regions[: count * _WORDS_OF_REGION]
        join_runs(starts, ends, words[::_WORDS_OF_REGION], words[1::_WORDS_OF_REGION])
        if count < _REGIONS_AT_ONCE:
            return starts, ends
        # Do not use walk_end: after the first 512 regions of a call it may be out of date
        # (fs/proc/task_mmu.c, do_pagemap_scan).
        start = ends[-1]


def join_runs(starts: Column, ends: Column, more_starts: Column, more_ends: Column) -> None:
    """Append runs.  If the last run touches the first new one, both become one run."""
    if ends and more_starts and ends[-1] == more_starts[0]:
        ends.pop()
        more_starts = more_starts[1:]
    starts.extend(more_starts)
    ends.extend(more_ends)
