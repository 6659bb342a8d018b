"""Bytes out of a process that stands still.

process_vm_readv(2) is the quick way, and stops short at a page that it cannot have.  Such a
page is tried once more through /proc/PID/mem, which also reads what is mapped PROT_NONE
(FOLL_FORCE in fs/proc/base.c, mem_rw).  What neither can read ([vvar], [vsyscall], pages
past the end of a mapped file) is zeros here, as it is a hole in the kernel's own cores, and
is counted.

Through /proc/PID/mem no page is read that somebody has to bring (absent.py): such a page is
had the quick way or not at all.
"""

import errno
import os
from array import array
from collections.abc import Callable, Container

from gcorefs.elfcore.elf import PAGE_SIZE
from gcorefs.elfcore.segments import Column
from gcorefs.process import procfile, syscalls
from gcorefs.process.absent import Absent, MayWait
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.lost import Lost
from gcorefs.process.pagemap import Pagemap
from gcorefs.process.shared import Shared


class Memory:
    """The memory of one process, read through one of its threads while that is held."""

    def __init__(self, pid: int, tid: int, check: Callable[[], None], lost: Lost) -> None:
        """`check` is asked after every read, and raises where it came too late to be true.

        Into `lost` go the pages that could not be had and are zeros.
        """
        self.lost = lost
        self._pid = pid
        self._tid = tid
        self._check = check
        self.only_pinned = False
        """Some thread did not stop, and may yet call execve(2).  process_vm_readv(2) would
        then read the new program, under our credentials; the open mem file still means the
        old one, and has nothing any more (fs/proc/base.c, mem_rw)."""
        self.shared: Shared | None = None
        self.absent: Absent | None = None
        """Both are asked before every read, once the mappings are known."""
        self.pagemap: Pagemap | None = None
        self._mem = procfile.open_file(f"{pid}/task/{tid}/mem")

    def read_into(
        self, address: int, buffer: memoryview, sources: Container[str] | None = None
    ) -> None:
        """Fill `buffer` (writable, bytes) from `address`.  EIO: died or let go.

        MayWait, once all before is done, at a page that others than `sources` have to bring
        (None: wait for anybody).
        """
        if sources is not None and self.absent is not None:
            first = self.absent.first(address, len(buffer), sources)
            if first is not None:
                done = first[0] - address
                if done:
                    self.read_into(address, buffer[:done])
                raise MayWait(first[1], done)
        done = self.shared.read_into(address, buffer) if self.shared is not None else 0
        self._read_all(address + done, buffer[done:])
        self._check()

    def read_at_once(self, address: int, buffer: memoryview) -> bool:
        """Fill `buffer` from `address`, if every page is there and nothing has to be waited for.

        False: it was not filled, and the other ways are to be gone.  EIO: died or let go.
        """
        end = address + len(buffer)
        if self.pagemap is None or not self._is_simple(address, end):
            return False
        try:
            if not self.pagemap.is_present(address, len(buffer)):
                return False
            count = syscalls.read_memory(self._tid, address, buffer)
        except OSError:  # they will meet it again
            return False
        self._check()
        return count == len(buffer)

    def read_ranges(
        self,
        addresses: Column,
        lengths: Column,
        buffer: memoryview,
        sources: Container[str] | None = None,
    ) -> None:
        """Fill `buffer` from ranges of memory, which ascend, one after the other.

        As read_into, but in as few calls as it takes.
        """
        if self._is_simple(addresses[0], addresses[-1] + lengths[-1]):
            self._read_vectors(*_in_pieces(addresses, lengths), buffer)
            self._check()
            return
        done = 0
        for address, length in zip(addresses, lengths, strict=True):
            try:
                self.read_into(address, buffer[done : done + length], sources)
            except MayWait as wait:
                raise MayWait(wait.source, done + wait.done) from None
            done += length

    def _is_simple(self, start: int, end: int) -> bool:
        """True where all that is between is read the quick way and waits for nobody."""
        return not (
            self.only_pinned
            or (self.shared is not None and self.shared.overlaps(start, end))
            or (self.absent is not None and self.absent.overlaps(start, end))
        )

    def _read_vectors(self, addresses: Column, lengths: Column, buffer: memoryview) -> None:
        for first in range(0, len(addresses), _RANGES_AT_ONCE):
            some = slice(first, first + _RANGES_AT_ONCE)
            total = sum(lengths[some])
            count = self._read_vector(addresses[some], lengths[some], buffer[:total])
            if count < total:
                self._read_rest(addresses[some], lengths[some], buffer[:total], count)
            buffer = buffer[total:]

    def _read_vector(self, addresses: Column, lengths: Column, buffer: memoryview) -> int:
        vector = array("Q", bytes(2 * addresses.itemsize * len(addresses)))
        vector[::2] = addresses
        vector[1::2] = lengths
        try:
            return syscalls.read_memory_vector(self._tid, vector, buffer)
        except OSError as error:
            return self._nothing(error)

    def _read_rest(
        self, addresses: Column, lengths: Column, buffer: memoryview, count: int
    ) -> None:
        """What is behind the first `count` bytes, in which a page could not be had."""
        done = 0
        for address, length in zip(addresses, lengths, strict=True):
            if done + length > count:
                skipped = max(0, count - done)
                self._read_all(address + skipped, buffer[done + skipped : done + length])
            done += length

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
            return self._nothing(error)

    def _nothing(self, error: OSError) -> int:
        """process_vm_readv(2) had no byte, for a page that is to be tried once more: 0."""
        if error.errno == errno.ESRCH:
            raise ProcessError(Reason.DIED, self._pid) from error
        if error.errno == errno.EPERM:  # a security module, or Yama by now (ptrace_scope 3)
            raise ProcessError(Reason.NOT_SHOWN, self._pid, f"process_vm_readv: {error.strerror}")
        if error.errno != errno.EFAULT:
            raise error
        return 0

    def check_pinned(self) -> None:
        """Raise where the process has another program by now than when this was opened.  EIO."""
        try:
            os.pread(self._mem, 1, _NOWHERE)
        except OSError:  # nothing is there, in an address space that still is
            return
        raise ProcessError(Reason.DIED, self._pid, "or called execve")

    def read_bytes(self, address: int, length: int, sources: Container[str] | None = None) -> bytes:
        buffer = bytearray(length)
        self.read_into(address, memoryview(buffer), sources)
        return bytes(buffer)

    def _read_forced(self, address: int, buffer: memoryview) -> int:
        """What /proc/PID/mem has from `address` on, or one page of zeros where it has none."""
        buffer = buffer[:_FORCED_AT_ONCE]
        if self._has_to_be_brought(address, len(buffer)):
            if self.only_pinned:
                # Brings them in; what it read may be another program's, and is not looked at.
                self._read_quickly(address, buffer)
            buffer = buffer[: PAGE_SIZE - address % PAGE_SIZE]
        # pread(2) takes no offset in the upper half; only [vsyscall] is there.
        if address < _UPPER_HALF and not self._has_to_be_brought(address, len(buffer)):
            try:
                count = os.preadv(self._mem, [buffer], address)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
            else:
                if count == 0:  # fs/proc/base.c, mem_rw: the address space is gone
                    raise ProcessError(Reason.DIED, self._pid)
                return count
        length = min(len(buffer), PAGE_SIZE - address % PAGE_SIZE)
        clear(buffer[:length])
        self.lose(address)
        return length

    def lose(self, address: int) -> None:
        """Count the page at `address` as one that could not be had."""
        self.lost.add(address)

    def _has_to_be_brought(self, address: int, length: int) -> bool:
        return self.absent is not None and self.absent.first(address, length) is not None

    def __del__(self) -> None:
        # Not a close() that somebody calls: a reader in another thread may be in the middle
        # of a pread, and the number of a closed file is soon another file's.
        if hasattr(self, "_mem"):
            os.close(self._mem)


def _in_pieces(addresses: Column, lengths: Column) -> tuple[Column, Column]:
    """The same ranges, none of them long.

    The kernel copies a range of up to 4 MiB in one go (mm/process_vm_access.c,
    process_vm_rw_single_vec), and only where it looks up pages does it let others run that
    wait for this processor (mm/gup.c, __get_user_pages): the reader, and the event loop.
    """
    if max(lengths) <= _PIECE:
        return addresses, lengths
    starts, sizes = array("Q"), array("Q")
    for address, length in zip(addresses, lengths, strict=True):
        pieces = range(address, address + length, _PIECE)
        starts.extend(pieces)
        sizes.extend(array("Q", [_PIECE]) * len(pieces))
        sizes[-1] = address + length - pieces[-1]
    return starts, sizes


def clear(buffer: memoryview) -> None:
    """Make it zeros."""
    for start in range(0, len(buffer), len(_ZEROS)):
        piece = buffer[start : start + len(_ZEROS)]
        piece[:] = _ZEROS[: len(piece)]


_ZEROS = memoryview(bytes(64 << 10))
_UPPER_HALF = 1 << 63
# The first address that no process can map, with four or five levels of page tables
# (arch/x86/include/asm/page_64.h, TASK_SIZE_MAX).  mem_rw (fs/proc/base.c) says EIO there, and
# reads nothing without an error where the address space is gone.
_NOWHERE = 1 << 56
# Enough that a large PROT_NONE mapping costs few calls, little enough that the quick way is
# soon tried again.
_FORCED_AT_ONCE = 16 * PAGE_SIZE
_PIECE = 256 << 10
_RANGES_AT_ONCE = 1024  # include/uapi/linux/uio.h, UIO_MAXIOV
