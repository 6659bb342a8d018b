"""Memory whose file is memory too (memfd, System V, /dev/zero, tmpfs), read from its file.

A private mapping of a memfd has the pages that the process has written, and else those of the file.

A read through the process turns a hole in such a file into a page of zeros that stays.  It is
charged to the memory cgroup of the process (mm/shmem.c, shmem_fault), which may be killed for it,
or takes the last room of the tmpfs from others.  And pagemap shows only the page tables of this
process, not what another process wrote into a memfd.  So we open the mapped file itself, find its
holes and read it.

A file on a tmpfs that has a name, and holes of less than a mebibyte, is read through the process:
others may watch it by its name (inotify(7)).  One with more is opened, and a watcher gets an event,
which is the lesser evil.

A file under a lease is not opened, because our open(2) would send SIGIO to the holder of the lease.
Nor is a file that the process itself watches: it would read of our open(2)
as an event, or would have to allow it first, which it cannot while it stands still (fanotify(7)).
(For a memfd that is not asked of a process with very many descriptors.)
These files are read like any other memory, and their holes are filled.  If /proc does not show
which files are under a lease or watched, we treat all of them so.
"""

import contextlib
import errno
import os
import sys
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence, Set
from functools import cache, cached_property

from gcorefs.elfcore.columns import Column
from gcorefs.elfcore.elf import page_up
from gcorefs.elfcore.vma import Vma, VmFlag
from gcorefs.kernel.proc import leases, map_files, mountinfo, task_status, watches
from gcorefs.kernel.proc.procfile import FormatError
from gcorefs.process.quiet_open import open_unseen


class Shmem:
    """The mappings of such files in a process, through its thread `tid`."""

    def __init__(
        self,
        tid: int,
        vmas: Sequence[Vma],
        takes_files: Callable[[], bool] = lambda: True,
        asks_at_once: bool = True,
    ) -> None:
        """`takes_files`: the core may have shared mappings of files that have a name.  It is called
        once at most.

        `asks_at_once`: it is asked now who would notice that a file is opened, and not only when
        one is to be opened.  A core of stacks seldom opens one, and the question takes 5 us for
        each descriptor of the process.
        """
        self.why_unknown = ""
        """Why the holes are not known; empty if they are known, or if there is no such memory."""
        self._tid = tid
        device = map_files.shmem_device()
        files = _TmpfsFiles(tid, {vma.dev for vma in vmas if vma.has_file} - {device}, takes_files)
        found = [vma for vma in vmas if _has_no_name(vma, device) or files.are_to_be_opened(vma)]
        self._vmas = found
        self._starts = [vma.start for vma in found]
        if asks_at_once:
            _ = self._noticed

    @cached_property
    def _noticed(self) -> frozenset[int]:
        """The starts of the mappings of which somebody would notice that we open the file."""
        vmas = [vma for vma in self._vmas if _can_be_opened(vma)]
        all_of_them = frozenset(vma.start for vma in vmas)
        if not vmas:
            return all_of_them
        # Only if there are any: the first reader of /proc/locks waits some 10 ms for all processors
        # (fs/locks.c, locks_start; percpu_down_write), and the process stands still.
        leased = leases.leases(self._tid, {vma.name for vma in vmas})
        if leased is None:
            self.why_unknown = "/proc/locks does not show which files are under a lease"
            return all_of_them
        watched: Set[int] | None = frozenset()
        has_names = any(vma.dev != map_files.shmem_device() for vma in vmas)
        if has_names or not _has_many_descriptors(self._tid):
            watched = watches.watched_inodes(self._tid)
        if watched is None:
            self.why_unknown = f"/proc/{self._tid}/fd does not show which files it watches"
            return all_of_them
        return frozenset(
            vma.start
            for vma in vmas
            if vma.inode in watched or vma.dev in leased.get(vma.inode, ())
        )

    def overlaps(self, start: int, end: int) -> bool:
        """True if such memory may lie between the two addresses."""
        index = bisect_right(self._starts, start)
        before = index and self._vmas[index - 1].end > start
        return bool(before) or (index < len(self._starts) and self._starts[index] < end)

    def is_private(self, address: int) -> bool:
        """True if the pages that the process has at `address` may differ from those of the file."""
        vma = self._vma(address)
        return vma is not None and VmFlag.MAYSHARE not in vma.vm_flags

    def has_no_pages(self, vma: Vma) -> bool:
        """True if the file of a mapping is known to have no page."""
        file = map_files.mapped_file(self._tid, vma.start, vma.end)
        return file is not None and not file.allocated

    def read_into(self, address: int, buffer: memoryview) -> int:
        """Fill `buffer` from the file that is mapped at `address`.

        Returns the number of bytes: fewer at the end of the file, 0 if there is no such file or
        the kernel does not show it to us.
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
        """Starts and ends of the mapped parts of the holes in the file, in order."""
        starts, ends = array("Q"), array("Q")
        if self._vma(vma.start) is not vma:
            return starts, ends
        base = vma.start - vma.offset
        with self._opened(vma) as fd:
            # Behind the end of the file there is nothing, not even zeros.
            end = min(vma.offset + vma.size, page_up(os.fstat(fd).st_size)) if fd >= 0 else 0
            at = vma.offset
            while at < end:
                data = min(end, _next_data(fd, at))
                if data > at:
                    starts.append(base + at)
                    ends.append(base + data)
                # The end of the file counts as a hole.  But all of the last page is mapped, and the
                # process can write behind the end (mmap(2)).
                at = page_up(os.lseek(fd, data, os.SEEK_HOLE)) if data < end else end
        return starts, ends

    @contextlib.contextmanager
    def _opened(self, vma: Vma) -> Iterator[int]:
        # Open it for each use: a process may map thousands of files.  A process that runs may have
        # mapped another file there, or called execve(2), or its pid may be another's.
        try:
            path = map_files.map_file(self._tid, vma.start, vma.end)
            fd = open_unseen(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            yield -1
            return
        try:
            yield fd if map_files.is_file_of(fd, vma.dev, vma.inode) else -1
        finally:
            os.close(fd)

    def _vma(self, address: int) -> Vma | None:
        index = bisect_right(self._starts, address) - 1
        if index < 0 or address >= self._vmas[index].end:
            return None
        vma = self._vmas[index]
        return None if vma.start in self._noticed else vma


def _next_data(fd: int, offset: int) -> int:
    """The offset of the next data in the file; far behind the end if there is none."""
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return sys.maxsize


class _TmpfsFiles:
    """Which mapped files lie on a tmpfs, and are read from there."""

    def __init__(self, tid: int, devices: Set[str], takes_shared: Callable[[], bool]) -> None:
        """`devices`: those of all mapped files."""
        self._tid = tid
        self._takes_shared = cache(takes_shared)
        kinds: dict[str, bytes] = {}
        with contextlib.suppress(OSError, FormatError):
            # A file system without a device of its own has major number 0, as many do.
            kinds = mountinfo.file_systems(tid, [each for each in devices if each[:3] == "00:"])
        self._devices = {device for device, kind in kinds.items() if kind == b"tmpfs"}

    def are_to_be_opened(self, vma: Vma) -> bool:
        if vma.dev not in self._devices or VmFlag.UFFD_MISSING in vma.vm_flags:
            return False
        file = map_files.mapped_file(self._tid, vma.start, vma.end)
        if file is None or not file.links:
            return file is not None
        if file.size - file.allocated < _MANY:
            return False
        return VmFlag.MAYSHARE not in vma.vm_flags or self._takes_shared()


_MANY = 1 << 20
"""Bytes of holes.  A linker may leave some in a program."""

_NO_FILES = (b"/SYSV", b"/dev/zero", b"/anon_hugepage", b"[anon_shmem")


_MANY_DESCRIPTORS = 1024


def _has_many_descriptors(tid: int) -> bool:
    """True if it would take long to look at all of them: 10 us each, and the process stands still.
    Then a file without a name, which hardly anybody watches, is opened without this look."""
    with contextlib.suppress(OSError, KeyError, ValueError):
        return int(task_status.status(tid)["FDSize"]) > _MANY_DESCRIPTORS
    return False


def _can_be_opened(vma: Vma) -> bool:
    """Not if no program has a descriptor of its file: System V, and /dev/zero.  Such a file is
    neither watched nor under a lease."""
    return not vma.name.startswith(_NO_FILES)


def _has_no_name(vma: Vma, device: str) -> bool:
    kind = vma.kind
    if kind.is_hugetlb:
        # A mapping of a file that is open for reading only has VM_MAYSHARE without VM_SHARED
        # (mm/mmap.c, do_mmap), and the same holes.
        found = VmFlag.MAYSHARE in kind.vm_flags and kind.dev in map_files.huge_devices()
    else:
        found = kind.dev == device
    return found and VmFlag.UFFD_MISSING not in kind.vm_flags
