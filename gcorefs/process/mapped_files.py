"""The files behind mappings: their properties, and whether a path still leads to them.

Every call may wait for the server of a file, so callers use bounded_questions.py.
"""

import errno
import stat
from collections.abc import Container
from functools import cached_property

from gcorefs.elfcore.vma import Vma
from gcorefs.kernel import statx
from gcorefs.kernel.proc import map_files, mountinfo
from gcorefs.kernel.statx import FileStat

_CLOCK_SLACK = 1
"""Seconds that the clock of a file system may be ahead."""

FileKey = tuple[str, int, bytes]
"""Device, inode number and name: the identity of a mapped file in maps."""


def file_key(vma: Vma) -> FileKey:
    # The name too: in maps, subvolumes of btrfs share one device and repeat inode numbers.
    return vma.dev, vma.inode, vma.name


class MappedFiles:
    """The mapped files of a process, through its thread `tid`.  Each file is asked once."""

    def __init__(self, tid: int) -> None:
        self.tid = tid
        self._known: dict[FileKey, FileStat | None] = {}

    def __contains__(self, vma: Vma) -> bool:
        """True if the file of a mapping was asked already."""
        return file_key(vma) in self._known

    def __getitem__(self, vma: Vma) -> FileStat | None:
        """The file of a mapping; None if the kernel does not show it (map_files.mapped_file)."""
        key = file_key(vma)
        if key not in self._known:
            self._known[key] = map_files.mapped_file(self.tid, vma.start, vma.end)
        return self._known[key]


def is_changed(changed: float, started: float) -> bool:
    """True if a file was changed after its process started.  Both in seconds since the epoch."""
    return changed > started + _CLOCK_SLACK


class LostFiles:
    """The mapped files that no path leads to any more as they were mapped."""

    def __init__(self, files: MappedFiles, started: float, code: Container[FileKey]) -> None:
        """`started`: when the process started, in seconds since the epoch.  `code`: the files with
        an executable mapping."""
        self._files = files
        self._started = started
        self._code = code
        self._known: dict[FileKey, bool] = {}

    def __contains__(self, vma: Vma) -> bool:
        key = file_key(vma)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._is_lost(vma)
        return found

    @cached_property
    def _ours(self) -> set[str]:
        """The devices of our mounts that the process sees.  ESRCH, FormatError."""
        return mountinfo.devices_of(self._files.tid, b"fuse.gcorefs")

    def _is_lost(self, vma: Vma) -> bool:
        mapped = self._files[vma]
        if mapped is not None:
            if not stat.S_ISREG(mapped.mode):
                return False
            if mapped.links == 0:
                return True
        try:
            found = self._by_path(vma, mapped)
        except OSError:  # unknown: the name is too long, or we may not search the directory
            return False
        if found is None:
            # A core below our mount is another file at each stop, and never code.
            return vma.dev not in self._ours
        # Data that a process writes (a database, a log) is not lost: the file has it.  Code that
        # changed in place is being replaced, and debuggers do not trust it any more.  And where an
        # overlay has copied it up, the file has other bytes than the mapping.
        return file_key(vma) in self._code and is_changed(found.changed, self._started)

    def _by_path(self, vma: Vma, mapped: FileStat | None) -> FileStat | None:
        """The mapped file, if its path leads to it."""
        tid = self._files.tid
        path = map_files.mapped_path(tid, vma.start, vma.end, vma.name)
        # maps shows a path from our root if there is one (fs/d_path.c, d_path); for a process in a
        # container, it is a path from the root of the container.
        for root in (b"", b"/proc/%d/root" % tid):
            try:
                found = statx.cached_stat(root + path, follow=False)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                    raise
                continue
            # If the file itself is not shown, compare inodes alone: maps has the device of the file
            # system below an overlay, or of a whole btrfs, and stat(2) has another device.
            if (found.identity == mapped.identity) if mapped else found.identity[2] == vma.inode:
                return found
        return None
