"""The files behind mappings: what the kernel has of each, and whether anybody still finds it.

All of it may wait for a file's server, and is asked where that is allowed for (patience.py).
"""

import errno
import stat
from collections.abc import Container

from gcorefs.elfcore.vma import Vma
from gcorefs.kernel import statx
from gcorefs.kernel.proc import map_files, mountinfo
from gcorefs.kernel.statx import FileStat

_CLOCK_SLACK = 1
"""Seconds by which a file system's clock may run ahead."""

FileKey = tuple[str, int, bytes]
"""One mapped file, as maps tells it from others."""


def file_key(vma: Vma) -> FileKey:
    # With the name: subvolumes of btrfs have one device and each the same inode numbers.
    return vma.dev, vma.inode, vma.name


class MappedFiles:
    """What a process has mapped, seen through its thread `tid`.  Each file is asked for once."""

    def __init__(self, tid: int) -> None:
        self.tid = tid
        self._known: dict[FileKey, FileStat | None] = {}

    def __getitem__(self, vma: Vma) -> FileStat | None:
        """The file of a mapping; None where the kernel does not show it (map_files.mapped_file)."""
        key = file_key(vma)
        if key not in self._known:
            self._known[key] = map_files.mapped_file(self.tid, vma.start, vma.end)
        return self._known[key]


class LostFiles:
    """Which mapped files nobody finds any more as they were mapped."""

    def __init__(self, files: MappedFiles, started: float, code: Container[FileKey]) -> None:
        """`started`: when the process did, in seconds since the epoch.  `code`: the files of
        which something is mapped for execution."""
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

    def _is_lost(self, vma: Vma) -> bool:
        mapped = self._files[vma]
        if mapped is not None:
            if not stat.S_ISREG(mapped.mode):
                return False
            if mapped.links == 0:
                return True
        try:
            found = self._by_path(vma, mapped)
        except OSError:  # the asking fails: the name is too long, or the folder not for us
            return False
        if found is None:
            # A core below a mount of ours is another file with each stop, and no code of anybody's.
            return mountinfo.file_system(self._files.tid, vma.dev) != b"fuse.gcorefs"
        # Of data that others write (a database's, a log) nothing is lost: the file has it.  Code
        # that was changed in place is on its way to be replaced, and debuggers trust it no more.
        return file_key(vma) in self._code and found.modified > self._started + _CLOCK_SLACK

    def _by_path(self, vma: Vma, mapped: FileStat | None) -> FileStat | None:
        """The mapped file, if its path leads to it."""
        tid = self._files.tid
        path = map_files.mapped_path(tid, vma.start, vma.end, vma.name)
        # maps shows a path from our root, where there is a way (fs/d_path.c, d_path); of a
        # process in a container it is one from the container's.
        for root in (b"", b"/proc/%d/root" % tid):
            try:
                found = statx.cached_stat(root + path, follow=False)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                    raise
                continue
            # Where the file itself is not shown: maps has the device of the file system below an
            # overlay, or of a whole btrfs, and stat another; the inode is the same.
            if (found.identity == mapped.identity) if mapped else found.identity[2] == vma.inode:
                return found
        return None
