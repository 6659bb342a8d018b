"""Memory that is read ahead into: who has how much of it.

Each user has so much, and all users together.  Users who read at the same time share the latter in
equal parts, and the files of one user that user's part: the more of them, the smaller the windows.
A window is never smaller than the largest request.  A file that finds no room for one is read
without reading ahead.  So reading ahead is never a reason to refuse anything.
"""

import mmap
from collections import Counter
from typing import Protocol

import trio

from gcorefs.mount.buffers import LARGEST_REQUEST, Buffers
from gcorefs.mount.limits import Budget

WINDOW = 4 << 20
"""Bytes, where few files are read."""

WINDOWS = 3
"""For each file: one that is served, one that is full and one that is being filled."""

_IDLE = 5.0
"""A file that was not read for this many seconds keeps no window for as long again."""


class Reader(Protocol):
    """Whoever reads one file ahead."""

    @property
    def uid(self) -> int:
        """On whose account."""

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
        """Count `reader` among those that share.  Again: nothing."""
        if reader not in self._readers:
            self._readers[reader] = None
            self._of_user[reader.uid] += 1
            self._is_wanted.set()

    def leave(self, reader: Reader) -> None:
        """It wants no window for now."""
        if reader in self._readers:
            del self._readers[reader]
            self._of_user[reader.uid] -= 1
            if not self._of_user[reader.uid]:
                del self._of_user[reader.uid]

    def take(self, reader: Reader) -> mmap.mmap | None:
        """A window for `reader`, one that has entered; None where there is no room for one, or
        no memory."""
        uid, users = reader.uid, len(self._of_user)
        part = self._budget.share(uid, users) // self._of_user[uid] // WINDOWS
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
        """Nobody writes into it any more."""
        self._budget.give_back(reader.uid, len(window))
        self._buffers.give_back(window)

    def tidy(self) -> None:
        """Take their windows from those who have not read since the last call."""
        for reader in [*self._readers]:
            reader.tidy()

    async def run(self) -> None:
        """Do so again and again, as long as anybody has windows."""
        while True:
            await self._is_wanted.wait()
            await trio.sleep(_IDLE)
            self.tidy()
            if not self._readers:
                self._is_wanted = trio.Event()
