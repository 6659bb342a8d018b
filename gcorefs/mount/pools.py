"""What the stops of a mount take from: workers, threads for blocking work, and their buffers."""

from collections.abc import Callable
from typing import TypeVar

from gcorefs.mount.buffers import Buffers
from gcorefs.mount.crew import Crew
from gcorefs.mount.errands import Errands
from gcorefs.mount.in_thread import in_thread
from gcorefs.mount.limits import Limiters, Limits, UserLimiters
from gcorefs.mount.questions import Questions
from gcorefs.mount.windows import Windows

T = TypeVar("T")

# An abandoned call keeps its thread until it ends, so it takes threads only from its own user, or
# from calls that would wait for the same file server.
_MOST_WAITS = 8


class Pools:
    def __init__(self, limits: Limits, crew: Crew) -> None:
        self.crew = crew
        self.owner = limits.owner
        """The user who is charged for a uid."""
        blocking = max(1, limits.threads // 2)
        self._of_users = UserLimiters(blocking, limits.owner)
        self.closes = UserLimiters(blocking, limits.owner)
        self.buffers = Buffers()
        self.windows = Windows(limits.read_ahead, self.buffers)
        self.errands = Errands()
        self.questions = Questions(limits.owner, limits.threads)
        self.waits = Limiters(_MOST_WAITS)

    async def block(self, pid: int, uid: int, call: Callable[[], T]) -> T:
        """The result of a blocking call about process `pid`, in a thread of the user `uid`."""
        with self._of_users.of(uid) as limiter:
            return await in_thread(pid, limiter, call)
