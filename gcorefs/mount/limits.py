"""What one user may have of the mount, and what all users may have together.

A user who opens everything, or opens and never reads, uses up only their own share.  Root has a
share like every user.  The limits for all users together do not hold for root, so that an
administrator can always get in.
"""

import contextlib
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass

import trio

from gcorefs.hold.room import Disk, NotCopied, Room
from gcorefs.mount import subordinate
from gcorefs.mount.errors import RequestError, RequestReason
from gcorefs.mount.options import Options
from gcorefs.mount.pid_lists import PidLists

_USER_REQUESTS = 256
_REQUESTS = 9_000
"""Requests that may wait at one time, each in a task.  If all are taken, further requests stay
unread (server.py), and block all requests behind them.  So one user may not have all of them, and
not so many that the last answer comes too late (questions.py, LOOK_TIMEOUT)."""

THREADS_OF_A_USER = 100
"""Threads that ask one user's questions about processes at one time.  As many estimate sizes, half
as many make other calls that block, and half as many end stops."""

_MEBIBYTE = 1 << 20
_ROOT = 0


class Budget:
    """An amount of one thing for each user, and an amount for all users together."""

    def __init__(
        self,
        each: int,
        total: int,
        each_over: RequestReason,
        total_over: RequestReason,
        owner: Callable[[int], int] = int,
    ) -> None:
        """`owner`: the user who is charged for a uid; by default, that uid."""
        self.owner = owner
        self._each, self._total = each, total
        self._each_over, self._total_over = each_over, total_over
        self._used: Counter[int] = Counter()
        self._sum = 0

    def take(self, uid: int, pid: int, amount: int = 1) -> None:
        """RequestError if it is too much.  `pid`: the process that needs it."""
        owner = self.owner(uid)
        if self._used[owner] + amount > self._each:
            raise RequestError(self._each_over, pid, f"uid {uid}")
        if self._sum + amount > self._total and owner != _ROOT:
            raise RequestError(self._total_over, pid, f"uid {uid}")
        self._used[owner] += amount
        self._sum += amount

    def used(self, uid: int) -> int:
        """What the user has who is charged for `uid`."""
        return self._used[self.owner(uid)]

    def left(self, uid: int, users: int = 1) -> int:
        """The most that `take` would give to `uid` now, if `users` users divide the total amount
        equally."""
        owner = self.owner(uid)
        left = self.share(uid, users) - self._used[owner]
        return left if owner == _ROOT else min(left, self._total - self._sum)

    def share(self, uid: int, users: int) -> int:
        """The share of `uid`, if `users` users divide the total amount equally."""
        return self._each if self.owner(uid) == _ROOT else min(self._each, self._total // users)

    def give_back(self, uid: int, amount: int = 1) -> None:
        owner = self.owner(uid)
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
    """The memory that copies take, charged to the first opener: `each` bytes for a user, and twice
    that for all users but root together.  A process whose copy has no room is held instead
    (hold/)."""

    def __init__(self, whole: Room, each: int, owner: Callable[[int], int] = int) -> None:
        """`whole`: what the machine has.  `owner`: as for a Budget."""
        self.whole = whole
        self._owner = owner
        self.each = each
        self._lock = threading.Lock()
        self._used: Counter[int] = Counter()
        # Freed, but not subtracted yet.  Memory can be freed at any point of the program, also
        # while the lock is held.
        self._freed: deque[tuple[int, int]] = deque()

    def room(self, uid: int) -> Room:
        return _UsersRoom(self, uid)

    def take(self, uid: int, amount: int) -> bool:
        """False if that is too much."""
        owner = self._owner(uid)
        with self._lock:
            while self._freed:
                former, freed = self._freed.popleft()
                self._used[former] -= freed
            if self._used[owner] + amount > self.each:
                return False
            if self._used.total() + amount > 2 * self.each and owner != _ROOT:
                return False
            self._used[owner] += amount
            return True

    def give_back(self, uid: int, amount: int) -> None:
        self._freed.append((self._owner(uid), amount))


class _UsersRoom(Room):
    def __init__(self, copies: Copies, uid: int) -> None:
        super().__init__(copies.each)
        self._copies = copies
        self._uid = uid

    def take(self, amount: int, more: int) -> None:
        whole = self._copies.whole
        whole.take(amount, more)
        if not self._copies.take(self._uid, more):
            whole.keep(more)
            raise NotCopied(f"uid {self._uid} has not enough of its {whole.option} left")

    def keep(self, amount: int) -> None:
        self._copies.whole.keep(amount)

    def give_back(self, amount: int) -> None:
        self._copies.give_back(self._uid, amount)


class Limiters:
    """A number of threads for each key: a process, a file server.

    A thread that was abandoned keeps its place until it ends (trio.to_thread.run_sync).  So a
    process or server that does not answer blocks no more threads than this.
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
        """Forget limiters that nobody uses or waits for.  A limiter's last thread may end later."""
        idle = [
            key
            for key, limiter in self._by_key.items()
            if key not in self._inside and not limiter.borrowed_tokens
        ]
        for key in idle:
            del self._by_key[key]


class UserLimiters:
    """A number of threads for each user."""

    def __init__(self, each: int, owner: Callable[[int], int] = int) -> None:
        """`owner`: as for a Budget."""
        self._limiters = Limiters(each)
        self._owner = owner

    def of(self, uid: int) -> contextlib.AbstractContextManager[trio.CapacityLimiter]:
        return self._limiters.of(self._owner(uid))


class Limits:
    """The budgets of one mount.  A subordinate uid is charged to its owner.

    That is so also after an opener was judged: outside of the user namespace in which the owner is
    many users, a set-uid file of one of these makes the owner that user.
    """

    def __init__(self, options: Options, threads: int = THREADS_OF_A_USER) -> None:
        """`threads`: as THREADS_OF_A_USER, for a machine that affords no more."""
        self.threads = threads
        self.owner = owner = subordinate.of_this_host().owner
        """The user who is charged for a uid."""
        self.files = Budget(
            options.user_files,
            options.max_files,
            RequestReason.USER_FILES,
            RequestReason.ALL_FILES,
            owner,
        )
        """Open cores, charged to their openers."""
        self.others = Budget(
            options.user_files,
            sys.maxsize,
            RequestReason.USER_FILES,
            RequestReason.ALL_FILES,
            owner,
        )
        """Open directories and control files."""
        self.stops = Budget(
            options.user_stops,
            options.max_stops,
            RequestReason.USER_STOPS,
            RequestReason.ALL_STOPS,
            owner,
        )
        """Stops that are under way or still have an open file, charged to the first opener."""
        self.memory = Budget(
            options.user_memory * _MEBIBYTE,
            options.max_memory * _MEBIBYTE,
            RequestReason.USER_MEMORY,
            RequestReason.ALL_MEMORY,
            owner,
        )
        """Bytes of memory that the headers of these take."""
        self.read_ahead = Budget(
            options.user_read_ahead * _MEBIBYTE,
            options.max_read_ahead * _MEBIBYTE,
            RequestReason.USER_MEMORY,
            RequestReason.ALL_MEMORY,
            owner,
        )
        """Bytes of memory for reading ahead, charged to the opener.  A file without room is not
        read ahead (windows.py)."""
        memory, disk = options.copy_limit * _MEBIBYTE, options.spool_limit * _MEBIBYTE
        self.copies = Copies(Room(memory), memory, owner)
        self.spools = Copies(Disk(disk, options.spool), disk, owner)
        """The same for the disk of the spool."""
        self.pid_lists = PidLists(owner)
        """The lists that open directories are read from."""
        self.requests = Budget(
            _USER_REQUESTS,
            _REQUESTS,
            RequestReason.USER_REQUESTS,
            RequestReason.ALL_REQUESTS,
            owner,
        )
