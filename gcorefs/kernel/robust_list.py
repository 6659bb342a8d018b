"""get_robust_list(2): distinguishes a thread of a program from a worker of the kernel."""

import ctypes
import threading

from gcorefs.arch import HOST
from gcorefs.kernel.libc import sleeping

_SYS_GET_ROBUST_LIST = HOST.call("get_robust_list")
_get_robust_list = sleeping["syscall"]


class _Answers(threading.local):
    """Buffers for the kernel's answer, made once for each calling thread."""

    def __init__(self) -> None:
        self.head, self.length = ctypes.c_void_p(), ctypes.c_size_t()
        self.to_head, self.to_length = ctypes.byref(self.head), ctypes.byref(self.length)


_answers = _Answers()


def has_robust_list(tid: int) -> bool:
    """True if a thread has registered a list of robust locks, as libc does for each thread.

    A worker of the kernel never has one (get_robust_list(2)).  False also if we may not know.
    Sleeps while the process is in execve(2) (exec_update_lock).
    """
    answers = _answers
    result = _get_robust_list(_SYS_GET_ROBUST_LIST, tid, answers.to_head, answers.to_length)
    return result == 0 and answers.head.value is not None
