"""Tells every process that maps a page that a thread has ended, however it ended.

The thread holds a robust mutex in the page (pthread_mutexattr_setrobust(3)).  When a thread ends,
also by SIGKILL, the kernel marks the lock word of each robust mutex that the thread holds
(kernel/futex/core.c, exit_robust_list).  That is a part of exit_mm, and do_exit (kernel/exit.c)
calls exit_mm before exit_notify, which lets the tracees of the thread go (exit_ptrace).  So nobody
sees a tracee run before the mark.
"""

import ctypes
import os

from gcorefs.kernel.libc import quick

SIZE = 64
"""Bytes: at least sizeof(pthread_mutex_t) of every machine."""

_PROCESS_SHARED = _ROBUST = 1
_OWNER_DIED = 0x40000000  # include/uapi/linux/futex.h, FUTEX_OWNER_DIED
_LOCK_WORD = slice(0, 4)  # pthread_mutex_t.__data.__lock of the GNU C library (struct_mutex.h)

_calls = {
    name: quick[f"pthread_{name}"]
    for name in (
        "mutexattr_init",
        "mutexattr_setpshared",
        "mutexattr_setrobust",
        "mutex_init",
        "mutex_lock",
        "mutex_unlock",
    )
}


def lock(page: memoryview) -> None:
    """Make a mutex at the beginning of `page`, and have the calling thread hold it.

    `unlock` it before the page is unmapped: the C library keeps a list through it.
    """
    kind = ctypes.create_string_buffer(SIZE)
    _call("mutexattr_init", kind)
    _call("mutexattr_setpshared", kind, _PROCESS_SHARED)
    _call("mutexattr_setrobust", kind, _ROBUST)
    _call("mutex_init", _address(page), kind)
    _call("mutex_lock", _address(page))


def unlock(page: memoryview) -> None:
    """Release it again, in the thread that holds it."""
    _call("mutex_unlock", _address(page))


def has_owner_died(page: memoryview) -> bool:
    """True if the thread ended while it held the mutex."""
    word = int.from_bytes(page[_LOCK_WORD], "little")
    return bool(word & _OWNER_DIED)


def _address(page: memoryview) -> ctypes.c_void_p:
    return ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(page)))


def _call(name: str, *arguments: object) -> None:
    error = _calls[name](*arguments)
    if error:
        raise OSError(error, os.strerror(error))
