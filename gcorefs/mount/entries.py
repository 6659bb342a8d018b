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

from gcorefs.mount import control
from gcorefs.mount.buffers import LARGEST_REQUEST
from gcorefs.mount.inodes import Inode

_OWN_MODES = {
    pyfuse3.ROOT_INODE: modes.S_IFDIR | 0o555,
    control.DIRECTORY: modes.S_IFDIR | 0o555,
    control.STATUS: modes.S_IFREG | 0o444,
    control.RELEASE: modes.S_IFREG | 0o222,
    control.EXACT: modes.S_IFDIR | 0o555,
}
_CORE_MODE = modes.S_IFREG | 0o400

_BEGAN = time.time_ns()


def is_own(number: int) -> bool:
    """True for the mount itself and its control files, which stand for no process."""
    return number in _OWN_MODES


def own(number: int) -> pyfuse3.EntryAttributes:
    """A directory, or a file that shows its size to nobody before it is read, as in /proc."""
    entry = _entry(number, _OWN_MODES[number], os.geteuid(), os.getegid(), _BEGAN)
    if modes.S_ISDIR(_OWN_MODES[number]):
        entry.st_nlink = 3 if number == control.DIRECTORY else 2  # itself, and its directory
    return entry


def core(inode: Inode, uid: int, gid: int, size: int, nanoseconds: int) -> pyfuse3.EntryAttributes:
    """A process: `size` bytes, all of its times `nanoseconds` since the epoch."""
    entry = _entry(inode.number, _CORE_MODE, uid, gid, nanoseconds)
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
