"""wait4(2) and waitid(2): what became of a tracee, and waking a thread of ours that waits for it.

tgkill(2) and signal(7) for the latter.  Each function raises OSError with the errno of the call.
"""

import ctypes
import functools
import os
import threading
from signal import SIG_UNBLOCK, SIGURG, pthread_sigmask

from gcorefs.kernel.libc import failure, quick, sleeping
from gcorefs.kernel.siginfo import Siginfo

# include/uapi/linux/wait.h
WNOTHREAD = 0x20000000
WALL = 0x40000000
_wait4 = quick["wait4"]
_waitid = quick["waitid"]
_PEEK = os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT | WALL | WNOTHREAD
_TAKE = os.WNOHANG | WALL | WNOTHREAD
_P_ALL, _P_PID = int(os.P_ALL), int(os.P_PID)


class _Answers(threading.local):
    """What the kernel writes its short answers to, made once for each thread that asks."""

    def __init__(self) -> None:
        self.siginfo = Siginfo()
        self.to_siginfo = ctypes.byref(self.siginfo)
        self.status = ctypes.c_int()
        self.to_status = ctypes.byref(self.status)


_answers = _Answers()


def poll_status(tid: int) -> int | None:
    """The wait status of one tracee of the calling thread, None while it has none.

    Reaps the dead.  ECHILD: no longer ours.  Asked by tid because waiting for any child
    (-1) walks all of them each time: 10,000 threads took 2.3 s against 9 ms.

    A thread that stands with a signal in hand is only looked at, and says the same again
    until it is resumed: the kernel keeps the signal in the very status that waiting takes
    away (kernel/exit.c, wait_task_stopped), so that if we died next, the signal was lost.
    """
    answers = _answers
    info = answers.siginfo
    if _waitid(_P_PID, tid, answers.to_siginfo, _PEEK) < 0:
        raise failure()
    if info.pid == 0:
        return None
    if info.code == os.CLD_TRAPPED and not info.status >> 8:  # no event
        return int(info.status << 8 | 0x7F)
    result = _wait4(tid, answers.to_status, _TAKE, None)
    if result < 0:
        raise failure()
    return answers.status.value if result else None


def has_status() -> bool:
    """True where any tracee of the calling thread has a wait status to be taken, or none is
    left.  One walk over all of them."""
    answers = _answers
    return bool(_waitid(_P_ALL, 0, answers.to_siginfo, _PEEK) < 0 or answers.siginfo.pid)


_waitid_sleeping = sleeping["waitid"]
_AWAIT = _PEEK & ~os.WNOHANG


def await_status() -> None:
    """Sleep until a tracee of the calling thread has a wait status to be taken.

    Returns at once where one has it, or none is left, and early after `ring`.  The kernel wakes
    the thread for its own tracees only (kernel/exit.c, child_wait_callback).
    """
    _waitid_sleeping(_P_ALL, 0, _answers.to_siginfo, _AWAIT)


_BELL = int(SIGURG)
"""Ignored by default, so one that comes at a wrong time does nothing."""
_tgkill = quick["tgkill"]
_signal = quick["signal"]
_signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
_signal.restype = ctypes.c_void_p


@functools.cache
def hang_bell() -> None:
    """Have `ring` interrupt what a thread sleeps in.

    Only a signal with a handler interrupts a wait, and abs(3) is one that does nothing.  Python
    is not told, or its main thread would have to wake for each.  execve(2) takes it away.
    """
    _signal(_BELL, ctypes.cast(quick["abs"], ctypes.c_void_p))
    quick["siginterrupt"](_BELL, 1)


def hear_bell() -> None:
    """The calling thread is one that `ring` wakes, whatever signals it was started with blocked."""
    pthread_sigmask(SIG_UNBLOCK, {_BELL})


def ring(tid: int) -> None:
    """Wake a thread of ours from `await_status`.  One that is just about to sleep there does
    not hear it: repeat until it has done what it is woken for."""
    _tgkill(os.getpid(), tid, _BELL)
