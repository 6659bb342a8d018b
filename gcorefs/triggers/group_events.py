"""How often a control group of version 2 was above memory.high, or would have been above
memory.max: memory.events.local (Documentation/admin-guide/cgroup-v2.rst).

The kernel wakes whoever polls such a file (mm/memcontrol.c, memcg_memory_event), so nothing that
happens between two looks is missed.  A group above may have the limit: then the event is counted
there, and each of its members waits for memory.
"""

import contextlib
import errno
import os

from gcorefs.kernel.proc import procfile
from gcorefs.process.cgroups import memory_event_files

_LONGEST = 4096


class GroupEvents:
    """One count of the groups of a process, its own and all above it."""

    def __init__(self, pid: int, word: str) -> None:
        """`word`: memory.high or memory.max.  OSError: the groups count nothing of the kind."""
        self._pid = pid
        self._word = word
        self._counters: list[Counter] = []
        self._groups = b""
        self._open()

    def _open(self) -> None:
        self._groups = _groups_of(self._pid)
        paths = memory_event_files(self._pid)
        if not paths:
            why = "the process is in no control group of version 2 that controls memory"
            raise OSError(errno.ENOTSUP, f"{self._word}: {why}")
        key = self._word.partition(".")[2]
        counters = []
        for path in paths:
            with contextlib.suppress(OSError):  # removed meanwhile
                counters.append(Counter(path, key))
        self.close()
        self._counters = counters

    def look(self, now: float) -> str:
        if _groups_of(self._pid) != self._groups:
            self.close()  # what happens to the groups that it has left is nothing to it
            with contextlib.suppress(OSError):  # it is on its way out, or nothing counts there
                self._open()
            return ""
        grown = [each for each in self._counters if each.has_grown()]
        if not grown:
            return ""
        folder = os.path.dirname(grown[0].path)
        return f"{self._word} of {folder} was met"

    def files(self) -> list[int]:
        return [each.file for each in self._counters if each.is_there]

    def close(self) -> None:
        for each in self._counters:
            each.close()
        self._counters = []


def _groups_of(pid: int) -> bytes:
    """ESRCH."""
    return procfile.read(f"{pid}/cgroup")


class Counter:
    """One line of a file of a control group: a word and a number."""

    def __init__(self, path: str, key: str) -> None:
        """OSError."""
        self.path = path
        self.is_there = True
        self._key = key.encode()
        self.file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._count = self._read()
        except BaseException:
            self.close()
            raise

    def has_grown(self) -> bool:
        """True if the number is larger than at the last question.  Poll waits for the next event
        only after this read (fs/kernfs/file.c, kernfs_generic_poll)."""
        try:
            count = self._read()
        except OSError:  # ENODEV: the group was removed
            self.is_there = False
            return False
        before, self._count = self._count, count
        return count > before

    def _read(self) -> int:
        found = dict(line.split(b" ", 1) for line in os.pread(self.file, _LONGEST, 0).splitlines())
        return int(found.get(self._key, b"0"))

    def close(self) -> None:
        os.close(self.file)
