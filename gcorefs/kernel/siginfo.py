"""siginfo_t, for ptrace(2) and waitid(2)."""

import ctypes


class Siginfo(ctypes.Structure):
    """siginfo_t as waitid(2) fills it (include/uapi/asm-generic/siginfo.h, _sigchld)."""

    _fields_ = (
        ("signo", ctypes.c_int),
        ("errno", ctypes.c_int),
        ("code", ctypes.c_int),
        ("_", ctypes.c_int),
        ("pid", ctypes.c_int),
        ("uid", ctypes.c_uint),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 100),
    )
