"""wait4(2) and waitid(2): the wait status of a tracee.

Each function raises OSError with the errno of the call.
"""

import ctypes
import os
import threading

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
    """Buffers for short answers of the kernel, made once for each calling thread."""

    def __init__(self) -> None:
        self.siginfo = Siginfo()
        self.to_siginfo = ctypes.byref(self.siginfo)
        self.status = ctypes.c_int()
        self.to_status = ctypes.byref(self.status)


_answers = _Answers()


def poll_status(tid: int) -> int | None:
    """The wait status of one tracee of the calling thread, or None while it has none.

    Reaps a dead tracee.  ECHILD: no longer our tracee.  It waits for one tid because a wait for
    any child (-1) walks all of them each time: 10,000 threads took 2.3 s instead of 9 ms.

    A signal-delivery-stop is only peeked at, and reported again until the thread is resumed.  The
    kernel keeps the signal in the status that a wait takes away (kernel/exit.c,
    wait_task_stopped): if we died after that, the signal would be lost.
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
    """True if any tracee of the calling thread has a wait status, or if no tracee is left.  Walks
    all of them once."""
    answers = _answers
    return bool(_waitid(_P_ALL, 0, answers.to_siginfo, _PEEK) < 0 or answers.siginfo.pid)


_waitid_sleeping = sleeping["waitid"]
_AWAIT = _PEEK & ~os.WNOHANG


def await_status() -> None:
    """Sleep until a tracee of the calling thread has a wait status.

    Returns at once if one has it or if no tracee is left, and early after
    `ring` (bell.py).  The kernel wakes
    a thread only for its own tracees (kernel/exit.c, child_wait_callback).
    """
    _waitid_sleeping(_P_ALL, 0, _answers.to_siginfo, _AWAIT)
