"""/proc/PID/mem, opened once and kept (proc(5), fs/proc/base.c).

It stays a way into the address space that it was opened for, whatever the process executes
later, and needs no permission after the open.
"""

import errno
import os

from gcorefs.kernel.open_file import OpenFile
from gcorefs.kernel.proc import procfile
from gcorefs.process.errors import ProcessError, Reason

_UPPER_HALF = 1 << 63
# The first address that no process can map, with four or five levels of page tables
# (arch/x86/include/asm/page_64.h, TASK_SIZE_MAX).  mem_rw (fs/proc/base.c) says EIO there, and
# reads nothing without an error where the address space is gone.
_NOWHERE = 1 << 56


class MemFile:
    """Of the process `pid`, opened through its thread `tid`."""

    def __init__(self, pid: int, tid: int) -> None:
        """ESRCH, and whatever else procfile.py has."""
        self.pid = pid
        self.tid = tid
        self._file = OpenFile(procfile.open_file(f"{pid}/task/{tid}/mem"))

    def read(self, address: int, buffer: memoryview) -> int:
        """Bytes from `address` on, fewer before a page that cannot be read, 0 at such a page.

        Waits uninterruptibly, and holds mmap_lock, where a page has to be brought.
        ProcessError DIED: the address space is gone.
        """
        # pread(2) takes no offset in the upper half; only [vsyscall] is there.
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
        """Raise where the process has another program by now than when this was opened.  EIO."""
        try:
            os.pread(self._file.number, 1, _NOWHERE)
        except OSError:  # nothing is there, in an address space that still is
            return
        raise ProcessError(Reason.DIED, self.pid, "or called execve")
