"""Opens a file of a process so that nobody sees it, or does not open it.

An open(2) for reading breaks a lease for writing: its holder gets SIGIO, which kills a process that
does not expect it (fcntl(2), F_SETLEASE).  An open of a device or a FIFO may have other effects.
"""

import os
import stat
from collections.abc import Container

from gcorefs.errors import GcorefsError
from gcorefs.kernel import statx

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class NotOpenedError(GcorefsError):
    """An open may have an effect.  The text says which."""


class NotRegularError(NotOpenedError):
    def __init__(self) -> None:
        super().__init__("it is no regular file")


class UnderLeaseError(NotOpenedError):
    def __init__(self) -> None:
        super().__init__("somebody holds a lease on it, which an open would break (fcntl(2))")


def open_regular(path: str | bytes, leased: Container[int]) -> int:
    """A descriptor of a regular file.

    `leased`: inodes under a lease (system_files.py).  NotOpenedError, OSError.
    """
    found = statx.cached_stat(path)
    if not stat.S_ISREG(found.mode):
        raise NotRegularError
    if found.identity[2] in leased:
        raise UnderLeaseError
    fd = open_unseen(path, _FLAGS)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)  # another file has taken its name
    raise NotRegularError


def open_unseen(path: str | bytes, flags: int) -> int:
    """A descriptor that leaves the access time of the file as it is, which fstat(2) shows, if we
    may have such a one: as its owner, or with CAP_FOWNER (open(2), O_NOATIME).  OSError."""
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError:
        return os.open(path, flags)
