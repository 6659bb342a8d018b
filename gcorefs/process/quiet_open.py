"""Opens a file of a process so that nobody sees it, or does not open it.

An open(2) for reading breaks a lease for writing: its holder gets SIGIO, which kills a process that
does not expect it (fcntl(2), F_SETLEASE).  An open of a device or a FIFO may have other effects.
"""

import os
import stat
from collections.abc import Container

from gcorefs.errors import GcorefsError
from gcorefs.kernel import statx
from gcorefs.kernel.proc import mountinfo
from gcorefs.kernel.proc.leases import Leases
from gcorefs.kernel.proc.procfile import FormatError

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class NotOpenedError(GcorefsError):
    """An open may have an effect.  The text says which."""


class NotRegularError(NotOpenedError):
    def __init__(self) -> None:
        super().__init__("it is no regular file")


class UnderLeaseError(NotOpenedError):
    def __init__(self) -> None:
        super().__init__("somebody holds a lease on it, which an open would break (fcntl(2))")


def open_regular(path: str | bytes, leases: Leases, tid: int) -> int:
    """A descriptor of a regular file that process `tid` has.  NotOpenedError, OSError."""
    found = statx.cached_stat(path)
    if not stat.S_ISREG(found.mode):
        raise NotRegularError
    devices = leases.get(found.identity[2])
    if devices is not None and _may_be_on(path, devices, tid):
        raise UnderLeaseError
    fd = open_unseen(path, _FLAGS)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)  # another file has taken its name
    raise NotRegularError


def _may_be_on(path: str | bytes, devices: Container[str], tid: int) -> bool:
    """True unless the file is known to be on no such device.  Anybody may have a file with this
    inode number under a lease, on a device of theirs.

    Asked of its mount: for btrfs stat(2) shows another device than /proc/locks.  A lease below an
    overlay is on the device of the file there.
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        mount = mountinfo.mount_of(fd, tid)
    except FormatError:
        return True
    finally:
        os.close(fd)
    return mount is None or mount.kind == b"overlay" or mount.device_name in devices


def open_unseen(path: str | bytes, flags: int) -> int:
    """A descriptor that leaves the access time of the file as it is, which fstat(2) shows, if we
    may have such a one: as its owner, or with CAP_FOWNER (open(2), O_NOATIME).  OSError."""
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError:
        return os.open(path, flags)
