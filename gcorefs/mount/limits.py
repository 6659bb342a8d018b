"""What one user may have of the mount, and what all may have together.

One who opens everything, or opens and never reads, uses up his own share and nobody else's.
Root has a share like everybody's, and what is kept for it: it is not held to what all may
have together, so that whoever is called to the machine gets in.
"""

import contextlib
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass

import trio

from gcorefs.mount import subordinate
from gcorefs.mount.errors import RequestError, RequestReason
from gcorefs.mount.options import Options
from gcorefs.process.copy import NotCopied, Room

_USER_REQUESTS = 256
_REQUESTS = 9_000
"""Requests that wait at one time, each a task.  A request that finds none free waits unread
(server.py), and with it all that come behind it; so a user may not have them all.  Nor so
many that the last one's answer comes too late (listing.py, LOOK_TIMEOUT)."""

_MEBIBYTE = 1 << 20
_ROOT = 0


class Budget:
    """So much of one thing for each user, so much for all."""

    def __init__(
        self,
        each: int,
        total: int,
        each_over: RequestReason,
        total_over: RequestReason,
        owner: Callable[[int], int] = int,
    ) -> None:
        """`owner`: the user on whose account a uid is, by default itself."""
        self._owner = owner
        self._each, self._total = each, total
        self._each_over, self._total_over = each_over, total_over
        self._used: Counter[int] = Counter()
        self._sum = 0

    def take(self, uid: int, pid: int, amount: int = 1) -> None:
        """RequestError where that is too much; `pid` is the process that it is wanted for."""
        owner = self._owner(uid)
        if self._used[owner] + amount > self._each:
            raise RequestError(self._each_over, pid, f"uid {uid}")
        if self._sum + amount > self._total and owner != _ROOT:
            raise RequestError(self._total_over, pid, f"uid {uid}")
        self._used[owner] += amount
        self._sum += amount

    def left(self, uid: int, users: int = 1) -> int:
        """The most that `take` would give to `uid` now, where what all may have is divided among so
        many users."""
        owner = self._owner(uid)
        left = self.share(uid, users) - self._used[owner]
        return left if owner == _ROOT else min(left, self._total - self._sum)

    def share(self, uid: int, users: int) -> int:
        """What `uid` may have, where what all may have is divided among so many users."""
        return self._each if self._owner(uid) == _ROOT else min(self._each, self._total // users)

    def give_back(self, uid: int, amount: int = 1) -> None:
        owner = self._owner(uid)
        self._used[owner] -= amount
        if not self._used[owner]:
            del self._used[owner]
        self._sum -= amount

    @contextlib.contextmanager
    def kept(self, uid: int, pid: int) -> Iterator["Kept"]:
        """Taken until it is given back, unless what follows fails."""
        self.take(uid, pid)
        try:
            yield Kept(self, uid)
        except BaseException:
            self.give_back(uid)
            raise

    @contextlib.contextmanager
    def lent(self, uid: int, pid: int) -> Iterator[None]:
        self.take(uid, pid)
        try:
            yield
        finally:
            self.give_back(uid)


@dataclass(frozen=True, slots=True)
class Kept:
    """One of a budget, for as long as a file is open."""

    budget: Budget
    uid: int

    def give_back(self) -> None:
        self.budget.give_back(self.uid)


class Copies:
    """Memory that copies take, by who was the first to open: `each` bytes for a user, twice that
    for all but root together.  Whose do not fit are held instead (snapshot.py)."""

    def __init__(self, each: int) -> None:
        self.each = each
        self._lock = threading.Lock()
        self._used: Counter[int] = Counter()
        # What was freed, and is not taken off yet: memory is freed in the middle of anything,
        # of what the lock is held for as well.
        self._freed: deque[tuple[int, int]] = deque()

    def room(self, uid: int) -> Room:
        return _UsersRoom(self, uid)

    def take(self, uid: int, amount: int) -> bool:
        """False where that is too much."""
        with self._lock:
            while self._freed:
                owner, freed = self._freed.popleft()
                self._used[owner] -= freed
            if self._used[uid] + amount > self.each:
                return False
            if self._used.total() + amount > 2 * self.each and uid != _ROOT:
                return False
            self._used[uid] += amount
            return True

    def give_back(self, uid: int, amount: int) -> None:
        self._freed.append((uid, amount))


class _UsersRoom(Room):
    def __init__(self, copies: Copies, uid: int) -> None:
        super().__init__(copies.each)
        self._copies = copies
        self._uid = uid

    def take(self, amount: int, more: int) -> None:
        super().take(amount, more)
        if not self._copies.take(self._uid, more):
            raise NotCopied(f"uid {self._uid} has too little left of copy_limit")

    def give_back(self, amount: int) -> None:
        self._copies.give_back(self._uid, amount)


class Limiters:
    """So many threads for each key: a user, a process, a server of files.

    A thread that was given up holds its place until it ends (trio.to_thread.run_sync), so
    what does not answer can have no more of them than these.
    """

    def __init__(self, each: int) -> None:
        self._each = each
        self._by_key: dict[Hashable, trio.CapacityLimiter] = {}
        self._inside: Counter[Hashable] = Counter()

    @contextlib.contextmanager
    def of(self, key: Hashable) -> Iterator[trio.CapacityLimiter]:
        limiter = self._by_key.setdefault(key, trio.CapacityLimiter(self._each))
        self._inside[key] += 1
        try:
            yield limiter
        finally:
            self._inside[key] -= 1
            if not self._inside[key]:
                del self._inside[key]
                self._forget_idle()

    def _forget_idle(self) -> None:
        """Those that nobody uses or waits for; not only ours, whose last thread may end later."""
        idle = [
            key
            for key, limiter in self._by_key.items()
            if key not in self._inside and not limiter.borrowed_tokens
        ]
        for key in idle:
            del self._by_key[key]


class Both:
    """Two limiters that a thread needs a place of, as trio.to_thread.run_sync wants them."""

    def __init__(self, first: trio.CapacityLimiter, second: trio.CapacityLimiter) -> None:
        self._first, self._second = first, second

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        await self._first.acquire_on_behalf_of(borrower)
        try:
            await self._second.acquire_on_behalf_of(borrower)
        except BaseException:
            self._first.release_on_behalf_of(borrower)
            raise

    def release_on_behalf_of(self, borrower: object) -> None:
        self._second.release_on_behalf_of(borrower)
        self._first.release_on_behalf_of(borrower)


class Limits:
    """The budgets of one mount.  Subordinate uids are on their owner's account in those that are
    asked before an opener is judged; afterwards nobody has any (access.identify)."""

    def __init__(self, options: Options) -> None:
        owner = subordinate.of_this_host().owner
        self.files = Budget(
            options.user_files,
            options.max_files,
            RequestReason.USER_FILES,
            RequestReason.ALL_FILES,
            owner,
        )
        """Open cores, by who opened them."""
        self.others = Budget(
            options.user_files,
            sys.maxsize,
            RequestReason.USER_FILES,
            RequestReason.ALL_FILES,
            owner,
        )
        """Open directories and control files."""
        self.stops = Budget(
            options.user_stops, options.max_stops, RequestReason.USER_STOPS, RequestReason.ALL_STOPS
        )
        """Stops that are under way or have a file open still, by who was the first to open."""
        self.memory = Budget(
            options.user_memory * _MEBIBYTE,
            options.max_memory * _MEBIBYTE,
            RequestReason.USER_MEMORY,
            RequestReason.ALL_MEMORY,
        )
        """Bytes that the headers of these take here."""
        self.read_ahead = Budget(
            options.user_read_ahead * _MEBIBYTE,
            options.max_read_ahead * _MEBIBYTE,
            RequestReason.USER_MEMORY,
            RequestReason.ALL_MEMORY,
        )
        """Bytes that are read ahead into, by who opened; what does not fit is not read ahead
        (windows.py)."""
        self.copies = Copies(options.copy_limit * _MEBIBYTE)
        self.requests = Budget(
            _USER_REQUESTS,
            _REQUESTS,
            RequestReason.USER_REQUESTS,
            RequestReason.ALL_REQUESTS,
            owner,
        )
