"""The memory for reading ahead, and who has how much of it.

There is an amount for each user, and an amount for all users together.  Users who read at the same
time share the latter in equal parts, and the files of one user share that user's part: the more
files, the smaller the windows.  A window is never smaller than the largest request.  A file without
room for one is read without reading ahead.  So reading ahead is never a reason to refuse anything.
"""

import mmap
from collections import Counter
from typing import Protocol

import trio

from gcorefs.mount.buffers import LARGEST_REQUEST, Buffers
from gcorefs.mount.limits import Budget

WINDOW = 4 << 20
"""Bytes of a window while few files are read."""

WINDOWS = 3
"""For each file: one that is served, one that is full and one that is being filled."""

_IDLE = 5.0
"""A file that was not read for this many seconds gives its windows back within as long again."""


class Reader(Protocol):
    """The reading ahead of one file."""

    @property
    def uid(self) -> int:
        """The user who is charged."""

    def tidy(self) -> None:
        """Give all windows back if nobody has read since the last call."""


class Windows:
    """The windows of one mount, in the event loop."""

    def __init__(self, budget: Budget, buffers: Buffers) -> None:
        self._budget = budget
        self._buffers = buffers
        self._readers: dict[Reader, None] = {}
        self._of_user: Counter[int] = Counter()
        self._is_wanted = trio.Event()

    def enter(self, reader: Reader) -> None:
        """Count `reader` among those that share.  A second call does nothing."""
        if reader not in self._readers:
            self._readers[reader] = None
            self._of_user[self._budget.owner(reader.uid)] += 1
            self._is_wanted.set()

    def leave(self, reader: Reader) -> None:
        """The reader wants no window for now."""
        if reader in self._readers:
            del self._readers[reader]
            user = self._budget.owner(reader.uid)
            self._of_user[user] -= 1
            if not self._of_user[user]:
                del self._of_user[user]

    def take(self, reader: Reader) -> mmap.mmap | None:
        """A window for `reader`, which has entered; None if there is no room or no memory for
        one."""
        uid, users = reader.uid, len(self._of_user)
        part = self._budget.share(uid, users) // self._of_user[self._budget.owner(uid)] // WINDOWS
        left = self._budget.left(uid, users)
        most = min(left, max(part, LARGEST_REQUEST))
        if most < LARGEST_REQUEST:
            return None
        size = WINDOW
        while size > most:
            size //= 2
        try:
            window = self._buffers.take(size)
        except OSError:  # ENOMEM
            return None
        self._budget.take(uid, 0, size)
        return window

    def give_back(self, reader: Reader, window: mmap.mmap) -> None:
        """Take back a window into which nobody writes any more."""
        self._budget.give_back(reader.uid, len(window))
        self._buffers.give_back(window)

    def tidy(self) -> None:
        """Take the windows from readers that have not read since the last call."""
        for reader in [*self._readers]:
            reader.tidy()

    async def run(self) -> None:
        """Call `tidy` again and again, as long as any reader has windows, and then free their
        memory: a mount may not be read again for days."""
        while True:
            await self._is_wanted.wait()
            await trio.sleep(_IDLE)
            self.tidy()
            if not self._readers:
                self._buffers.free()
                self._is_wanted = trio.Event()
