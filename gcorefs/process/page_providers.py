"""Pages that somebody else has to bring, who may never answer.

A page of a mapped file that is not in the page tables is asked of the file's server, which
may hang (FUSE, network file systems) or be ourselves; a missing page under userfaultfd(2) is
asked of its handler, which is stopped.  process_vm_readv(2) then waits, and can be killed
meanwhile.  /proc/PID/mem waits too, but cannot be killed, and holds the process's mmap_lock
as long (mm/memory.c, __access_remote_vm: get_user_pages_remote without `locked`): the
process, let go, would hang in its next mmap(2).  So whoever reads asks here first.

/proc/PID/pagemap tells what is in the page tables.  What is there may be reclaimed before it
is read; the pages of a process that has just been stopped seldom are.
"""

import contextlib
import functools
import os
from array import array
from bisect import bisect_right
from collections.abc import Container, Iterator, Sequence

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.vma import Vma, VmFlag
from gcorefs.kernel.proc import map_files, mountinfo
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.pagemap import Pagemap


class MayWait(Exception):
    """What was to be read without waiting has to be brought by `source`, but for `done` bytes."""

    def __init__(self, source: str, done: int = 0) -> None:
        super().__init__(source)
        self.source = source
        self.done = done


class NotBrought(ProcessError):
    """What was to be read has to be brought by `source`, and the only way left to read it could
    wait for that without an end."""

    def __init__(self, pid: int, source: str) -> None:
        super().__init__(Reason.NOT_BROUGHT, pid, source)
        self.source = source


class PageProviders:
    """The pages of a process, seen through its thread `tid`, that somebody has to bring."""

    def __init__(self, tid: int, vmas: Sequence[Vma], pagemap: Pagemap) -> None:
        shmem = map_files.shmem_device()
        found = [(vma, source) for vma in vmas if (source := source_of(vma, tid, shmem))]
        # Columns, and no Vma: another process may read this memory (worker/messages.py).
        self._starts = array("Q", [vma.start for vma, _ in found])
        self._ends = array("Q", [vma.end for vma, _ in found])
        self._sources = [source for _, source in found]
        self._devices = {vma.dev for vma, _ in found}
        self._pagemap = pagemap
        self._tid = tid

    def first(
        self, address: int, length: int, sources: Container[str] = ()
    ) -> tuple[int, str] | None:
        """Where in this range the first page begins that others than `sources` have to bring,
        and who: a device as maps writes it, or a handler.  None where there is no such page."""
        for start, end, source in self._within(address, address + length):
            if source not in sources:
                index = self._pagemap.populated(start, end - start).find(0)
                if index >= 0:
                    return max(start, (start // PAGE_SIZE + index) * PAGE_SIZE), source
        return None

    @functools.cached_property
    def disks(self) -> frozenset[str]:
        """Sources that are file systems of this machine's own: a page of theirs comes, or an error.

        Asked only where /proc/PID/mem has to wait for it.  One that nobody shows mounted is none.
        """
        found: set[str] = set()
        # Each process is shown only what is mounted below its own root.
        for tid in (self._tid, os.getpid()):
            with contextlib.suppress(OSError):
                found |= {
                    each
                    for each in self._devices
                    if _is_disk(each, mountinfo.file_system(tid, each))
                }
        return frozenset(found)

    def overlaps(self, start: int, end: int) -> bool:
        """True where anything between the two addresses is somebody's to bring."""
        return next(self._within(start, end), None) is not None

    def _within(self, start: int, end: int) -> Iterator[tuple[int, int, str]]:
        index = bisect_right(self._ends, start)
        while index < len(self._ends) and self._starts[index] < end:
            yield max(start, self._starts[index]), min(end, self._ends[index]), self._sources[index]
            index += 1


def _is_disk(device: str, kind: bytes) -> bool:
    if kind.startswith(b"fuse"):  # fuseblk has a device, and yet a server
        return False
    return kind in _LOCAL or (bool(kind) and not device.startswith("00:"))


# Those that have no block device of their own to be told by (fs/super.c, get_anon_bdev).
_LOCAL = {
    b"bcachefs", b"btrfs", b"hugetlbfs", b"overlay", b"ramfs", b"rootfs", b"tmpfs", b"zfs"
}  # fmt: skip


def source_of(vma: Vma, tid: int, shmem_device: str) -> str | None:
    """Who has to bring pages of this mapping, None where nobody else has to."""
    if vma.vm_flags & (VmFlag.UFFD_MISSING | VmFlag.UFFD_MINOR):
        return f"userfaultfd of {tid}"
    # Huge pages have no server, nor has memory without a name.
    if vma.kind.is_hugetlb or not vma.has_file or vma.dev == shmem_device:
        return None
    return vma.dev
