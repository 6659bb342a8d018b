"""How much memory, and how much of a disk, copies may take."""

import os
import threading
import weakref
from collections import deque

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.kernel.proc import system_files
from gcorefs.process import cgroups

_RESERVED_SHARE = 16
RESERVE = os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE // _RESERVED_SHARE
"""Bytes that a copy leaves to others.  It leaves the same share of the limit of a cgroup."""


class NotCopied(Exception):
    """Why the memory of a process is not copied: words for people."""


class Room:
    """How much memory copies may take: `limit` bytes, if the machine and our cgroups have it.

    What is taken is promised until it is used: only then the machine has less.  Copies that begin
    at the same time would else all find the same bytes free.
    """

    option = "copy_limit"
    """The name of the limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._promised = 0
        # Not promised any more, but not subtracted yet.  Memory can be freed at any point of the
        # program, also while the lock is held.
        self._kept: deque[int] = deque()

    def take(self, amount: int, more: int) -> None:
        """Take `amount` bytes in total, of which `more` are not taken yet.  NotCopied.

        These `more` are promised until `keep`.
        """
        if amount > self._limit:
            raise NotCopied(f"its {_mebibytes(amount)} are over {self.option}")
        with self._lock:
            while self._kept:
                self._promised -= self._kept.popleft()
            self._find(amount, self._promised + more)
            self._promised += more

    def keep(self, amount: int) -> None:
        """So much of what was promised is in use, or is not wanted any more."""
        self._kept.append(amount)

    def _find(self, amount: int, more: int) -> None:
        """NotCopied: there are not `more` bytes."""
        if more + RESERVE > system_files.available_memory():
            raise NotCopied(f"memory is short for its {_mebibytes(amount)}")
        for cgroup in cgroups.memory_limits():
            if more + cgroup.size // _RESERVED_SHARE > cgroup.left:
                limit = f"the limit of our cgroup is {_mebibytes(cgroup.size)}"
                raise NotCopied(f"memory is short for its {_mebibytes(amount)} ({limit})")

    def give_back(self, amount: int) -> None:
        """Give back `amount` bytes.  A finalizer calls this at any point of any thread."""


class Charge:
    """What one copy has taken of a room.  It is given back when `owner`, the memory or the file of
    the copy, is really freed: an abandoned read may still use that."""

    def __init__(self, room: Room, owner: object) -> None:
        self._room = room
        self._amount = 0
        self._promised = 0
        weakref.finalize(owner, self._free).atexit = False

    def raise_to(self, amount: int) -> None:
        """NotCopied: the room has not so much, and the charge stays."""
        if amount > self._amount:
            more = amount - self._amount
            self._room.take(amount, more)
            self._amount = amount
            self._promised += more

    def lower_to(self, amount: int) -> None:
        more = self._amount - amount
        if more > 0:
            self._amount = amount
            self._room.give_back(more)
            self._keep(max(self._promised - amount, 0))

    def settle(self) -> None:
        """All of it is in use."""
        self._keep(self._promised)

    def _keep(self, amount: int) -> None:
        self._promised -= amount
        self._room.keep(amount)

    def _free(self) -> None:
        self._room.give_back(self._amount)
        self.settle()


class Disk(Room):
    """How much of the file system of `directory` copies may take."""

    option = "spool_limit"

    def __init__(self, limit: int, directory: str) -> None:
        super().__init__(limit)
        self._directory = directory

    def _find(self, amount: int, more: int) -> None:
        try:
            found = os.statvfs(self._directory)
        except OSError as error:
            raise NotCopied(f"spool {self._directory}: {error.strerror}") from error
        left = found.f_bavail - found.f_blocks // _RESERVED_SHARE
        if more > left * found.f_frsize:
            raise NotCopied(f"the disk of {self._directory} is short for its {_mebibytes(amount)}")


def _mebibytes(amount: int) -> str:
    return f"{-(-amount >> 20)} MiB"
