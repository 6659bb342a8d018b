"""statx(2): the attributes of a file, with the choice whether a file server is asked."""

import ctypes
import os
import struct
from typing import NamedTuple

from gcorefs.kernel.libc import failure, sleeping

_statx = sleeping["statx"]
_statx.argtypes = (
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_uint,
    ctypes.c_void_p,
)
_AT_FDCWD = -100
_AT_SYMLINK_NOFOLLOW = 0x100
_AT_STATX_FORCE_SYNC = 0x2000
_AT_STATX_DONT_SYNC = 0x4000
# Type, mode, links, mtime, ctime, inode, size, blocks.
_STATX_WANTED = 0x1 | 0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400
_STATX_BLOCK = 512
_STATX_ATTR_DAX = 0x200000


class FileStat(NamedTuple):
    mode: int
    links: int
    size: int
    is_dax: bool
    """True if accesses bypass the page cache."""
    identity: tuple[int, int, int]
    """Major and minor number of the device, and the inode number."""
    changed: int
    """The last change of the content or of the inode, in whole seconds since the epoch.  A program
    that writes a file can set its mtime back, but not its ctime (inode(7))."""
    allocated: int
    """The bytes that the file takes on its device."""


def cached_stat(path: str | bytes, follow: bool = True) -> FileStat:
    """The attributes that the kernel has cached, without asking a file server (statx(2)).

    `follow`: follow a symbolic link at the end of the path.
    """
    return _stat(path, _AT_STATX_DONT_SYNC | (0 if follow else _AT_SYMLINK_NOFOLLOW))


def asked_stat(path: str | bytes) -> FileStat:
    """The attributes of which a file server is asked, whatever the kernel has cached."""
    return _stat(path, _AT_STATX_FORCE_SYNC)


def _stat(path: str | bytes, flags: int) -> FileStat:
    buffer = ctypes.create_string_buffer(256)
    if _statx(_AT_FDCWD, os.fsencode(path), flags, _STATX_WANTED, buffer):
        raise failure()
    # struct statx (linux/stat.h): stx_attributes at byte 8, stx_nlink at 16, stx_mode at 28,
    # stx_ino at 32, stx_size at 40, stx_blocks at 48, stx_ctime at 96, stx_mtime at 112,
    # stx_dev_major at 136.
    (attributes, links, mode, inode, size, blocks, ctime, mtime, major, minor) = struct.unpack_from(
        "<8xQI8xH2xQQQ40xq8xq16xII", buffer
    )
    is_dax = bool(attributes & _STATX_ATTR_DAX)
    identity = major, minor, inode
    return FileStat(mode, links, size, is_dax, identity, max(ctime, mtime), blocks * _STATX_BLOCK)
