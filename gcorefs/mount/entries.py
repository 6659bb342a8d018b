"""The attributes of every file, as stat(2) shows them.

The kernel keeps none of them (attr_timeout and entry_timeout are 0), because the size changes when
a process is opened, and the process may exit.

All have generation 0, because no number is used twice (inodes.py).  An entry with another
generation would make the inode bad for everybody who has the file open (fs/fuse/dir.c,
fuse_stale_inode), and a listing, which knows only the pid, could not tell the generation.
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
    """A directory or file of the mount itself.  Its size is 0 until it is read, as in /proc."""
    entry = _entry(number, mode, os.geteuid(), os.getegid(), _BEGAN)
    entry.st_nlink = links
    return entry


def core(number: int, uid: int, gid: int, size: int, nanoseconds: int) -> pyfuse3.EntryAttributes:
    """The file of a process: `size` bytes, with all times `nanoseconds` since the epoch."""
    entry = _entry(number, _CORE_MODE, uid, gid, nanoseconds)
    entry.st_size = size
    entry.st_blksize = LARGEST_REQUEST  # cp and cat read as much at a time
    entry.st_blocks = -(-size // 512)
    return entry


def listed() -> pyfuse3.EntryAttributes:
    """The file of a process in a listing.  The caller sets the number.

    readdir(3) shows only name, type and number.  All other attributes expire at once.
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
