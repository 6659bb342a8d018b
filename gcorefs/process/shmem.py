"""Shared memory without a name (memfd, System V, /dev/zero), read by way of its file.

Read through the process, a hole in such a file becomes a page of zeros that stays.  And
pagemap tells of this process's page tables only: what another process wrote into a memfd is
not in them.  But the mapped file can be opened, and asked and read as it is.

Not so a file on a tmpfs, which others may watch by its name (inotify(7)), nor one under a
lease, whose holder would be sent SIGIO for our open(2).  These are read as any memory is, and
holes are filled in.  So is all of it where /proc/locks is not to be read, for then nobody knows
which files are under a lease.
"""

import contextlib
import errno
import os
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from gcorefs.elfcore.elf import page_up
from gcorefs.elfcore.segments import Column
from gcorefs.elfcore.vma import HUGE_PAGES, Vma, VmFlag
from gcorefs.kernel.proc import map_files, system_files


class Shmem:
    """The mappings of such files of a process, seen through its thread `tid`."""

    def __init__(self, tid: int, vmas: Sequence[Vma]) -> None:
        self.why_unknown = ""
        """Why its holes are not known, empty where they are, or where there is no such memory."""
        self._tid = tid
        device = map_files.shmem_device()
        found = [vma for vma in vmas if _is_shared_memory(vma, device)]
        if found:
            # Only then: the first to read /proc/locks waits some 10 ms for all processors
            # (fs/locks.c, locks_start; percpu_down_write), and here a process stands still.
            leased = system_files.leased_inodes()
            if leased is None:
                self.why_unknown = "/proc/locks does not tell what is under a lease"
                found = []
            else:
                found = [vma for vma in found if vma.inode not in leased]
        self._vmas = found
        self._starts = [vma.start for vma in found]

    def overlaps(self, start: int, end: int) -> bool:
        """True where any of it lies between the two addresses."""
        index = bisect_right(self._starts, start)
        before = index and self._vmas[index - 1].end > start
        return bool(before) or (index < len(self._starts) and self._starts[index] < end)

    def read_into(self, address: int, buffer: memoryview) -> int:
        """Fill `buffer` from the file that is mapped at `address`.

        Returns how many bytes it had: fewer at the end of the file, none where there is no
        such file or it is not shown to us.
        """
        vma = self._vma(address)
        if vma is None:
            return 0
        with self._opened(vma) as fd:
            done = 0
            offset = vma.offset + address - vma.start
            while fd >= 0 and (count := os.preadv(fd, [buffer[done:]], offset + done)):
                done += count
            return done

    def holes(self, vma: Vma) -> tuple[Column, Column]:
        """Starts and ends of what is mapped of each hole in the file, in order."""
        starts, ends = array("Q"), array("Q")
        if self._vma(vma.start) is not vma:
            return starts, ends
        base = vma.start - vma.offset
        with self._opened(vma) as fd:
            # Past its end there are no zeros, but nothing.
            end = min(vma.offset + vma.size, page_up(os.fstat(fd).st_size)) if fd >= 0 else 0
            at = vma.offset
            while at < end:
                data = min(end, _next_data(fd, at))
                if data > at:
                    starts.append(base + at)
                    ends.append(base + data)
                at = os.lseek(fd, data, os.SEEK_HOLE) if data < end else end
        return starts, ends

    @contextlib.contextmanager
    def _opened(self, vma: Vma) -> Iterator[int]:
        # Opened for each use: a process may map thousands of files.
        try:
            path = map_files.map_file(self._tid, vma.start, vma.end)
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            yield -1
            return
        try:
            yield fd
        finally:
            os.close(fd)

    def _vma(self, address: int) -> Vma | None:
        index = bisect_right(self._starts, address) - 1
        if index < 0 or address >= self._vmas[index].end:
            return None
        return self._vmas[index]


def _next_data(fd: int, offset: int) -> int:
    """Where the next bytes are that were written, far behind the end where there are none."""
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return sys.maxsize


def _is_shared_memory(vma: Vma, device: str) -> bool:
    # One of a file that is open for reading only has VM_MAYSHARE without VM_SHARED (mm/mmap.c,
    # do_mmap), and the same holes.
    if VmFlag.MAYSHARE not in vma.vm_flags or VmFlag.UFFD_MISSING in vma.vm_flags:
        return False
    return vma.name == HUGE_PAGES if vma.kind.is_hugetlb else vma.dev == device
