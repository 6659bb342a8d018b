"""The bell: a signal that only interrupts a system call in which a thread of ours sleeps.

It uses tgkill(2), signal(7), timer_create(2).
"""

import ctypes
import os
import threading
import time
from signal import SIG_UNBLOCK, SIGSTKFLT, pthread_sigmask

from gcorefs.arch import HOST
from gcorefs.kernel.libc import failure, quick

_BELL = int(SIGSTKFLT)
"""No program and no kernel uses this signal (signal(7)).  The Python interface runs in programs
that have uses for all others, SIGURG too: Go's runtime, and file servers that take urgent data.
A signal of real time would not do: its sender can be over a limit (RLIMIT_SIGPENDING)."""
_tgkill = quick["tgkill"]
_syscall = quick["syscall"]
_signal = quick["signal"]
_signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
_signal.restype = ctypes.c_void_p


def _hang_bell() -> None:
    """Make the signal interrupt a sleeping call.

    Only a signal with a handler interrupts a wait.  abs(3) is a handler that does nothing.  Python
    has no handler for it, because that would wake its main thread each time.  execve(2) resets it,
    and so may a program that sets all signals.
    """
    _signal(_BELL, ctypes.cast(quick["abs"], ctypes.c_void_p))
    quick["siginterrupt"](_BELL, 1)


def hear_bell() -> None:
    """Let `ring` wake the calling thread, whatever signals were blocked when it started."""
    pthread_sigmask(SIG_UNBLOCK, {_BELL})


def ring(tid: int) -> None:
    """Wake one of our threads from a call.  A thread that is only about to sleep there misses it:
    repeat until it has reacted."""
    _hang_bell()
    _tgkill(os.getpid(), tid, _BELL)


class _Event(ctypes.Structure):
    """struct sigevent (include/uapi/asm-generic/siginfo.h)."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("number", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("tid", ctypes.c_int),
        ("padding", ctypes.c_byte * 44),
    )


class _Times(ctypes.Structure):
    """struct itimerspec (include/uapi/linux/time.h)."""

    _fields_ = (("interval", ctypes.c_long * 2), ("first", ctypes.c_long * 2))


_SIGEV_THREAD_ID = 4
_TIMER_CREATE = HOST.call("timer_create")
_TIMER_SETTIME = HOST.call("timer_settime")


class RepeatedRing:
    """Rings for the thread that makes this, again and again, while it is on."""

    def __init__(self, seconds: float) -> None:
        """`seconds`: until the first ring, and between two; less than one.  EAGAIN, ENOMEM."""
        _hang_bell()
        hear_bell()
        event = _Event(None, _BELL, _SIGEV_THREAD_ID, threading.get_native_id())
        self._number = ctypes.c_int()
        if _syscall(
            _TIMER_CREATE, time.CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self._number)
        ):
            raise failure()
        times = (ctypes.c_long * 2)(0, int(seconds * 1e9))
        self._on, self._off = _Times(times, times), _Times()
        self._to_on, self._to_off = ctypes.byref(self._on), ctypes.byref(self._off)

    def turn_on(self) -> None:
        _syscall(_TIMER_SETTIME, self._number, 0, self._to_on, None)

    def turn_off(self) -> None:
        _syscall(_TIMER_SETTIME, self._number, 0, self._to_off, None)
