"""Credentials of one thread: setgroups(2), setresuid(2), setresgid(2), capset(2).

libc's wrappers change every thread of the process (nptl(7)), so these go to the kernel directly.
"""

import ctypes
from collections.abc import Sequence

from gcorefs.arch import HOST
from gcorefs.kernel.libc import failure, quick

_syscall = quick["syscall"]
_syscall.restype = ctypes.c_long
_SYS_SETRESUID = HOST.call("setresuid")
_SYS_SETGROUPS = HOST.call("setgroups")
_SYS_SETRESGID = HOST.call("setresgid")
_SYS_CAPSET = HOST.call("capset")
_CAPABILITY_VERSION_3 = 0x20080522
_UNCHANGED = 0xFFFFFFFF


def _raw(number: int, *arguments: object) -> None:
    if _syscall(ctypes.c_long(number), *arguments) < 0:
        raise failure()


def set_thread_groups(groups: Sequence[int]) -> None:
    """Set the supplementary groups of this thread.  EPERM."""
    array = (ctypes.c_uint32 * len(groups))(*groups)
    _raw(_SYS_SETGROUPS, ctypes.c_long(len(groups)), array)


def set_thread_effective_ids(uid: int, gid: int) -> None:
    """Set the effective and file-system ids of this thread; real and saved ids stay.  EPERM."""
    unchanged = ctypes.c_uint32(_UNCHANGED)
    _raw(_SYS_SETRESGID, unchanged, ctypes.c_uint32(gid), unchanged)
    _raw(_SYS_SETRESUID, unchanged, ctypes.c_uint32(uid), unchanged)


def set_thread_capabilities(effective: int) -> None:
    """Set the effective and permitted capabilities of this thread, and clear the inheritable
    ones.  EPERM."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    low, high = effective & 0xFFFFFFFF, effective >> 32
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    _raw(_SYS_CAPSET, header, data)
