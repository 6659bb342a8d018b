"""/proc/PID/mem, opened once and kept (proc(5), fs/proc/base.c).

The open file stays connected to the address space at the open, whatever the process executes later,
and needs no permission after the open.
"""

import errno
import os

from gcorefs.arch import HOST
from gcorefs.kernel.open_file import OpenFile
from gcorefs.kernel.proc import procfile
from gcorefs.process.errors import ProcessError, Reason

_UPPER_HALF = 1 << 63


class MemFile:
    """The memory of process `pid`, opened through its thread `tid`."""

    def __init__(self, pid: int, tid: int) -> None:
        """ESRCH, and the other errors of procfile.py."""
        self.pid = pid
        self.tid = tid
        self._file = OpenFile(procfile.open_file(f"{pid}/task/{tid}/mem"))

    def read(self, address: int, buffer: memoryview) -> int:
        """Read from `address`; fewer bytes before a page that cannot be read, 0 at such a page.

        If somebody must supply a page, the read waits uninterruptibly and holds mmap_lock.
        ProcessError DIED: the address space is gone.
        """
        # pread(2) takes no offset in the upper half, where only [vsyscall] lies.
        if address >= _UPPER_HALF:
            return 0
        try:
            count = os.preadv(self._file.number, [buffer], address)
        except OSError as error:
            if error.errno == errno.EIO:
                return 0
            if error.errno in (errno.EPERM, errno.EACCES):  # a security module
                raise ProcessError(Reason.NOT_SHOWN, self.pid, f"mem: {error.strerror}") from error
            raise
        if count == 0:
            raise ProcessError(Reason.DIED, self.pid)
        return count

    def check(self) -> None:
        """EIO if the process has another program now than when this was opened."""
        try:
            # This gives EIO, or 0 bytes without an error if the address space is gone
            # (fs/proc/base.c, mem_rw).
            os.pread(self._file.number, 1, HOST.nowhere)
        except OSError:  # nothing is mapped there, but the address space still exists
            return
        raise ProcessError(Reason.DIED, self.pid)
