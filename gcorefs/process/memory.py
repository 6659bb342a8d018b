"""Bytes out of a process that stands still.

process_vm_readv(2) is the quick way, and stops short at a page that it cannot have.  Such a
page is tried once more through /proc/PID/mem, which also reads what is mapped PROT_NONE
(FOLL_FORCE in fs/proc/base.c, mem_rw).  What neither can read ([vvar], [vsyscall], pages
past the end of a mapped file) is zeros here, as it is a hole in the kernel's own cores, and
is counted.
"""

import errno
import os
from collections.abc import Callable

from gcorefs.elfcore.elf import PAGE_SIZE
from gcorefs.process import syscalls
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.holes import Holes


class Memory:
    """The memory of one process, read through one of its threads while that is held."""

    def __init__(self, pid: int, tid: int, check: Callable[[], None], unreadable: set[int]) -> None:
        """`check` is asked after every read, and raises where it came too late to be true.

        Into `unreadable` go the addresses of pages that could not be had and are zeros.
        """
        self._unreadable = unreadable
        self._pid = pid
        self._tid = tid
        self._check = check
        self.only_pinned = False
        """Some thread did not stop, and may yet call execve(2).  process_vm_readv(2) would
        then read the new program, under our credentials; the open mem file still means the
        old one, and has nothing any more (fs/proc/base.c, mem_rw)."""
        self.holes: Holes | None = None
        """Asked before every read, once the mappings are known."""
        self._mem = os.open(f"/proc/{pid}/task/{tid}/mem", os.O_RDONLY | os.O_CLOEXEC)

    def read_into(self, address: int, buffer: memoryview) -> None:
        """Fill `buffer` (writable, bytes) from `address`.  EIO: died or let go."""
        if self.holes is None:
            self._read_all(address, buffer)
        else:
            done = self.holes.read_file(address, buffer)
            for start, length in self.holes.populated(address + done, len(buffer) - done):
                _clear(buffer[done : start - address])
                done = start - address + length
                self._read_all(start, buffer[start - address : done])
            _clear(buffer[done:])
        self._check()

    def _read_all(self, address: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            if not self.only_pinned:
                done += self._read_quickly(address + done, buffer[done:])
            if done < len(buffer):
                done += self._read_forced(address + done, buffer[done:])

    def _read_quickly(self, address: int, buffer: memoryview) -> int:
        try:
            return syscalls.read_memory(self._tid, address, buffer)
        except OSError as error:
            if error.errno == errno.ESRCH:
                raise ProcessError(Reason.DIED, self._pid) from error
            if error.errno != errno.EFAULT:
                raise
            return 0

    def check_pinned(self, address: int) -> None:
        """Raise where the process has another program by now than when this was opened.  EIO."""
        try:
            byte = os.pread(self._mem, 1, address)
        except OSError:  # a page that cannot be read is there all the same
            return
        if not byte:
            raise ProcessError(Reason.DIED, self._pid, "or called execve")

    def read_bytes(self, address: int, length: int) -> bytes:
        buffer = bytearray(length)
        self.read_into(address, memoryview(buffer))
        return bytes(buffer)

    def _read_forced(self, address: int, buffer: memoryview) -> int:
        """What /proc/PID/mem has from `address` on, or one page of zeros where it has none."""
        if address < _UPPER_HALF:  # pread(2) takes no higher offset; only [vsyscall] is there
            try:
                count = os.preadv(self._mem, [buffer[:_FORCED_AT_ONCE]], address)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
            else:
                if count == 0:  # fs/proc/base.c, mem_rw: the address space is gone
                    raise ProcessError(Reason.DIED, self._pid)
                return count
        length = min(len(buffer), PAGE_SIZE - address % PAGE_SIZE)
        _clear(buffer[:length])
        self._unreadable.add(address - address % PAGE_SIZE)
        return length

    def __del__(self) -> None:
        # Not a close() that somebody calls: a reader in another thread may be in the middle
        # of a pread, and the number of a closed file is soon another file's.
        if hasattr(self, "_mem"):
            os.close(self._mem)


def _clear(buffer: memoryview) -> None:
    for start in range(0, len(buffer), len(_ZEROS)):
        piece = buffer[start : start + len(_ZEROS)]
        piece[:] = _ZEROS[: len(piece)]


_ZEROS = memoryview(bytes(64 << 10))
_UPPER_HALF = 1 << 63
# Enough that a large PROT_NONE mapping costs few calls, little enough that the quick way is
# soon tried again.
_FORCED_AT_ONCE = 16 * PAGE_SIZE
