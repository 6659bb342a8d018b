"""Attributes of every file, as stat(2) shows them.

Nothing is remembered by the kernel: the size changes when a process is opened, and the
process may go.  All are of generation 0, for a number is never used again (inodes.py): an
entry of another generation would end the file for those who have it open (fs/fuse/dir.c,
fuse_stale_inode), and a listing knows no more of a process than its pid.
"""

import os
import stat as modes
import time

import pyfuse3
from pyfuse3 import InodeT, ModeT

from gcorefs.mount.buffers import LARGEST_REQUEST

_CORE_MODE = modes.S_IFREG | 0o400

_BEGAN = time.time_ns()


def own(number: int, mode: int, links: int) -> pyfuse3.EntryAttributes:
    """A directory, or a file that shows its size to nobody before it is read, as in /proc."""
    entry = _entry(number, mode, os.geteuid(), os.getegid(), _BEGAN)
    entry.st_nlink = links
    return entry


def core(number: int, uid: int, gid: int, size: int, nanoseconds: int) -> pyfuse3.EntryAttributes:
    """A process: `size` bytes, all of its times `nanoseconds` since the epoch."""
    entry = _entry(number, _CORE_MODE, uid, gid, nanoseconds)
    entry.st_size = size
    entry.st_blksize = LARGEST_REQUEST  # so that cp and cat read so much at a time
    entry.st_blocks = -(-size // 512)
    return entry


def listed() -> pyfuse3.EntryAttributes:
    """A process that is listed, for one number after the other.

    readdir(3) has name, type and number; the rest has expired before anybody sees it.
    """
    return _entry(0, _CORE_MODE, 0, 0, 0)


def _entry(number: int, mode: int, uid: int, gid: int, nanoseconds: int) -> pyfuse3.EntryAttributes:
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = InodeT(number)
    entry.st_mode = ModeT(mode)
    entry.st_nlink = 1
    entry.st_uid, entry.st_gid = uid, gid
    entry.st_atime_ns = entry.st_ctime_ns = entry.st_mtime_ns = nanoseconds
    entry.attr_timeout = entry.entry_timeout = 0
    return entry
