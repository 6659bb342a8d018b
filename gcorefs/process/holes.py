"""Pages that were never touched, and how the bytes are had without touching them.

Reading is not free for the process that is read: an untouched page of anonymous memory gets
page tables, a hole in a memfd or tmpfs file becomes a page of zeros that stays.

Private anonymous memory: /proc/PID/pagemap tells for each page whether it is present or
swapped out (Documentation/admin-guide/mm/pagemap.rst); one that is neither is zeros.

Shared memory without a name (memfd, System V, /dev/zero): pagemap tells of this process's
page tables only, and what another process wrote into a memfd is not in them.  But the mapped
file can be opened and read, which leaves holes and page tables as they are.  Not so a file on
a tmpfs, which others may watch by its name (inotify(7)), nor one under a lease, whose holder
would be sent SIGIO for our open(2); these are read as any memory is, and holes are filled in.

Mappings under userfaultfd(2) are not asked about: what a missing page of theirs holds, its
handler knows.  Nor are private mappings of files: an untouched page of these is the file's.
"""

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from gcorefs.elfcore.elf import PAGE_SIZE
from gcorefs.elfcore.vma import Vma
from gcorefs.process import procfs
from gcorefs.process.procfs import Pagemap


class Holes:
    """The untouched pages of a process that stands still, seen through its thread `tid`."""

    def __init__(self, tid: int, vmas: Sequence[Vma], pagemap: Pagemap) -> None:
        self._tid = tid
        device = procfs.shmem_device()
        found = [vma for vma in vmas if _may_have_holes(vma, device)]
        if any("sh" in vma.vm_flags for vma in found):
            # Only then: the first to read /proc/locks waits some 10 ms for all processors
            # (fs/locks.c, locks_start; percpu_down_write), and here a process stands still.
            leased = procfs.leased_inodes()
            found = [vma for vma in found if "sh" not in vma.vm_flags or vma.inode not in leased]
        self._vmas = found
        self._starts = [vma.start for vma in self._vmas]
        self._pagemap = pagemap

    def populated(self, address: int, length: int) -> Iterator[tuple[int, int]]:
        """Address and length of each piece, in order, that may hold anything but zeros."""
        vma = self._vma(address)
        if vma is None or "sh" in vma.vm_flags:
            yield address, length
            return
        first = address // PAGE_SIZE
        count = -(-(address + length) // PAGE_SIZE) - first
        flags = self._pagemap.populated(address, length)
        if len(flags) < count:  # the address space is gone: whoever reads will be told
            yield address, length
            return
        end = 0
        while (start := flags.find(b"\1", end)) >= 0:
            end = flags.find(b"\0", start)
            if end < 0:
                end = count
            begin = max(address, (first + start) * PAGE_SIZE)
            yield begin, min(address + length, (first + end) * PAGE_SIZE) - begin

    def read_file(self, address: int, buffer: memoryview) -> int:
        """Fill `buffer` from the file of shared memory that is mapped at `address`.

        Returns how many bytes it had: fewer at the end of the file, none where there is no
        such file or it is not shown to us.
        """
        vma = self._vma(address)
        if vma is None or "sh" not in vma.vm_flags:
            return 0
        # Opened for each read: a process may map thousands of files.
        path = procfs.map_file(self._tid, vma.start, vma.end)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return 0
        try:
            done = 0
            offset = vma.offset + address - vma.start
            while count := os.preadv(fd, [buffer[done:]], offset + done):
                done += count
            return done
        finally:
            os.close(fd)

    def _vma(self, address: int) -> Vma | None:
        index = bisect_right(self._starts, address) - 1
        if index < 0 or address >= self._vmas[index].end:
            return None
        return self._vmas[index]


def _may_have_holes(vma: Vma, shmem_device: str) -> bool:
    if "um" in vma.vm_flags or "ht" in vma.vm_flags or vma.is_special:
        return False
    if "sh" in vma.vm_flags:
        return vma.dev == shmem_device
    return not vma.has_file
