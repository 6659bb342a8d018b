"""One inode is one process, as long as its bytes do not change under it.

splice(2) and private mmap(2) read through the inode's page cache even where read(2) does
not, so two handles of different content on one inode would mix their bytes.  Hence:
- another process under the same pid is another inode (told by its start time);
- a stop that was let go while handles are open is never joined: its inode is retired, and
  the next look-up makes a new one, with a new number and a new stop.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from gcorefs.mount.stops import Stop
from gcorefs.process.procfs import Process

# Below 2^22 are the pids (PID_MAX_LIMIT, include/linux/threads.h); above, a serial number.
_PID_BITS = 22


@dataclass(slots=True)
class Inode:
    number: int
    process: Process
    lookups: int = 0
    """How many references the kernel holds (FUSE_FORGET)."""
    stop: Stop | None = None

    @property
    def is_retired(self) -> bool:
        """True where handles hold bytes of a stop that nobody joins any more."""
        stop = self.stop
        return stop is not None and (stop.is_over or stop.is_past) and stop.is_open


@dataclass(slots=True)
class Reference:
    """A reference that the kernel is about to be given."""

    inode: Inode
    is_kept: bool = False

    def keep(self) -> None:
        self.is_kept = True


class Inodes:
    def __init__(self) -> None:
        self._by_number: dict[int, Inode] = {}
        self._current: dict[int, Inode] = {}  # by pid
        self._serial = 0

    def __getitem__(self, number: int) -> Inode:
        """KeyError for one that the kernel has forgotten."""
        return self._by_number[number]

    def get(self, process: Process) -> Inode:
        """The inode that stands for this process now."""
        inode = self._current.get(process.pid)
        if inode is None or inode.process != process or inode.is_retired:
            self._serial += 1
            inode = Inode((self._serial << _PID_BITS) | process.pid, process)
            self._current[process.pid] = inode
        return inode

    @contextlib.contextmanager
    def held(self, process: Process) -> Iterator["Reference"]:
        """One more reference of the kernel to the inode of `process`, if it is kept.

        Counted from the start: until the reply is made nothing else may forget the inode.
        """
        reference = Reference(self.get(process))
        self.hold(reference.inode)
        try:
            yield reference
        finally:
            if not reference.is_kept:
                self.forget(reference.inode.number, 1)

    def hold(self, inode: Inode) -> None:
        """The kernel has one more reference."""
        self._by_number[inode.number] = inode
        inode.lookups += 1

    def forget(self, number: int, lookups: int) -> None:
        inode = self._by_number[number]
        inode.lookups -= lookups
        if inode.lookups <= 0:
            del self._by_number[number]
            if self._current.get(inode.process.pid) is inode:
                del self._current[inode.process.pid]
