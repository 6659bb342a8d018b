"""Whether seccomp(2) judges the system calls of a thread."""

import ctypes
import errno
import os
import re

from gcorefs.kernel.libc import quick, sleeping

_SECCOMP = re.compile(rb"\nSeccomp:\t(\d)")  # proc(5): 1 is strict mode, 2 a filter
_open = sleeping["open"]
_read = sleeping["read"]
_read.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
_read.restype = ctypes.c_ssize_t
_close = quick["close"]


def has_seccomp(tid: int) -> bool:
    """True if a filter judges the system calls of this thread, or if it may only read and write
    (strict mode).  Either may kill it for a call that it does not make itself.  ESRCH.

    This reads /proc/TID/status, which takes no lock of the process.  PTRACE_SECCOMP_GET_FILTER
    refuses a tracer that has a filter itself (kernel/seccomp.c, seccomp_get_filter), as a service
    has.
    """
    buffer = ctypes.create_string_buffer(8192)
    fd = _open(f"/proc/{tid}/status".encode(), os.O_RDONLY | os.O_CLOEXEC)
    if fd < 0:
        number = ctypes.get_errno()
        if number in (errno.ENOENT, errno.ESRCH):
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH), str(tid))
        return True  # not known: to assume it hurts nobody
    text = b""
    try:
        # In pieces: the groups come before this line, and there may be tens of thousands.
        while (count := _read(fd, buffer, len(buffer))) > 0:
            text += ctypes.string_at(buffer, count)
            if _SECCOMP.search(text):  # another read would give nothing more that we need
                break
    finally:
        _close(fd)
    found = _SECCOMP.search(text)
    return count < 0 or (found is not None and found[1] != b"0")
