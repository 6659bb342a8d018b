"""Pages that somebody else must supply, who may never answer.

If a page of a mapped file is not in the page tables, the kernel asks the server of the file, which
may hang (FUSE, network file systems) or may be gcorefs itself.  If a page is missing under
userfaultfd(2), the kernel asks its handler, which is stopped.  process_vm_readv(2) then waits, but
can be killed.  /proc/PID/mem waits too, cannot be killed, and holds the process's mmap_lock
meanwhile (mm/memory.c, __access_remote_vm: get_user_pages_remote without `locked`): the process,
after it was let go, would hang in its next mmap(2).  So every reader checks here first.

/proc/PID/pagemap shows which pages are in the page tables.  A page may be reclaimed before it is
read, but the pages of a process that has just been stopped seldom are.

Two kinds of files make a page for each that is read and missing, which nothing can reclaim: those
of a ramfs, which every user may mount in a user namespace (fs/ramfs/inode.c), and the arena of a
BPF program (kernel/bpf/arena.c, arena_vm_fault).  Neither tells its holes.  A sparse file of a user
would fill our own memory, and an arena of gibibytes that of the process.  So their missing pages
are not read.
"""

import contextlib
import functools
import os
from array import array
from bisect import bisect_right
from collections.abc import Container, Iterator, Sequence, Set

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.vma import Vma
from gcorefs.kernel.proc import map_files, mountinfo
from gcorefs.kernel.proc.procfile import FormatError
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.pagemap import Pagemap, runs_in


class MayWait(Exception):
    """A read that must not wait needs a page that `source` must supply.  `done` bytes were read."""

    def __init__(self, source: str, done: int = 0) -> None:
        super().__init__(source)
        self.source = source
        self.done = done


class NotBrought(ProcessError):
    """A page that `source` must supply, and the only way left to read it could wait for ever."""

    def __init__(self, pid: int, source: str) -> None:
        super().__init__(Reason.NOT_BROUGHT, pid, source)
        self.source = source


class PageProviders:
    """The pages of a process, through its thread `tid`, that somebody else must supply."""

    def __init__(self, tid: int, vmas: Sequence[Vma], pagemap: Pagemap) -> None:
        shmem = map_files.shmem_device()
        found = [(vma, source) for vma in vmas if (source := source_of(vma, tid, shmem))]
        # Columns, not Vma: this memory may be read by another process (worker/messages.py).
        self._starts = array("Q", [vma.start for vma, _ in found])
        self._ends = array("Q", [vma.end for vma, _ in found])
        self._sources = [source for _, source in found]
        self._devices = {vma.dev for vma, _ in found}
        self._pagemap = pagemap
        self._tid = tid
        kinds = _file_systems(tid, {vma.dev for vma, _ in found if _is_on_no_disk(vma)})
        filled = [vma for vma, _ in found if _is_filled_by_reads(vma, tid, kinds.get(vma.dev))]
        self._filled_starts = array("Q", [vma.start for vma in filled])
        self._filled_ends = array("Q", [vma.end for vma in filled])

    def first(
        self, address: int, length: int, sources: Container[str] = ()
    ) -> tuple[int, str] | None:
        """The address of the first page in this range that a source not in `sources` must supply,
        and that source: a device as maps writes it, or a handler.  None if there is none."""
        for start, end, source in self._within(address, address + length):
            if source not in sources:
                index = self._pagemap.populated(start, end - start).find(0)
                if index >= 0:
                    return max(start, (start // PAGE_SIZE + index) * PAGE_SIZE), source
        return None

    @functools.cached_property
    def disks(self) -> frozenset[str]:
        """The sources that are local file systems: their pages come, or an error comes.

        Only /proc/PID/mem needs this answer, because it cannot be killed.  A source that no mount
        shows is not one.
        """
        kinds = _file_systems(self._tid, self._devices)
        return frozenset(each for each in self._devices if _is_disk(each, kinds.get(each, b"")))

    def overlaps(self, start: int, end: int) -> bool:
        """True if somebody must supply pages between the two addresses."""
        return next(self._within(start, end), None) is not None

    def never_read(self, address: int, length: int) -> Iterator[tuple[int, int]]:
        """The parts of this range, in order, whose pages are missing and would be made for good."""
        index = bisect_right(self._filled_ends, address)
        while index < len(self._filled_ends) and self._filled_starts[index] < address + length:
            start = max(address, self._filled_starts[index])
            end = min(address + length, self._filled_ends[index])
            first = start // PAGE_SIZE * PAGE_SIZE
            missing = self._pagemap.populated(start, end - start).translate(_MISSING)
            for one, other in runs_in(missing, 0, len(missing)):
                low, high = first + one * PAGE_SIZE, first + other * PAGE_SIZE
                yield max(start, low), min(end, high)
            index += 1

    def _within(self, start: int, end: int) -> Iterator[tuple[int, int, str]]:
        index = bisect_right(self._ends, start)
        while index < len(self._ends) and self._starts[index] < end:
            yield max(start, self._starts[index]), min(end, self._ends[index]), self._sources[index]
            index += 1


def _file_systems(tid: int, devices: Set[str]) -> dict[str, bytes]:
    """Their types, as the process or we see their mounts; without those that neither does."""
    found: dict[str, bytes] = {}
    # mountinfo shows each process only the mounts below its own root.
    for each in (tid, os.getpid()):
        with contextlib.suppress(OSError, FormatError):
            found |= mountinfo.file_systems(each, devices - found.keys())
    return found


def _is_on_no_disk(vma: Vma) -> bool:
    return vma.has_file and vma.dev.startswith("00:")


def _is_filled_by_reads(vma: Vma, tid: int, kind: bytes | None) -> bool:
    if not _is_on_no_disk(vma):
        return False
    if vma.name == _BPF_MAP:
        return True
    if kind:
        return kind == b"ramfs"
    # The kernel never frees a page of a ring, and writes to it by itself.
    if vma.name == _AIO_RING and vma.dev == map_files.aio_device():
        return False
    # Its mount is hidden or gone, and to ask the file itself for its type may wait for a server.  A
    # file of a ramfs has as many blocks as pages (fs/libfs.c, simple_getattr).
    file = map_files.mapped_file(tid, vma.start, vma.end)
    return file is not None and file.allocated < file.size


_BPF_MAP = b"anon_inode:bpf-map"
_AIO_RING = b"/[aio] (deleted)"
_MISSING = b"\1" + bytes(255)
"""Translates a byte for each page: 1 if it is not populated."""


def _is_disk(device: str, kind: bytes) -> bool:
    if kind.startswith(b"fuse"):  # fuseblk has a block device, but also a server
        return False
    return kind in _LOCAL or (bool(kind) and not device.startswith("00:"))


# Local file systems that have no block device (fs/super.c, get_anon_bdev).
_LOCAL = {
    b"bcachefs", b"btrfs", b"hugetlbfs", b"overlay", b"ramfs", b"rootfs", b"tmpfs", b"zfs"
}  # fmt: skip


def source_of(vma: Vma, tid: int, shmem_device: str) -> str | None:
    """Who must supply pages of this mapping; None if nobody must."""
    kind = vma.kind
    if kind.is_supplied:
        return f"userfaultfd of {tid}"
    # Huge pages and memory without a name have no server.
    if kind.is_hugetlb or not kind.has_file or kind.dev == shmem_device:
        return None
    return kind.dev
