"""What the stops of a mount take from: workers, threads for blocking work, and their buffers."""

from gcorefs.mount.buffers import Buffers
from gcorefs.mount.crew import Crew
from gcorefs.mount.errands import Errands
from gcorefs.mount.limits import Limiters, Limits
from gcorefs.mount.listing import Questions
from gcorefs.mount.windows import Windows

# Threads that copy processes for one user at one time, and threads that wait for one file server.
# An abandoned call keeps its thread until it ends, so it takes threads only from its own user, or
# from calls that would wait for the same server.
_MOST_TAKES = 50
_MOST_WAITS = 8


class Pools:
    def __init__(self, limits: Limits, crew: Crew) -> None:
        self.crew = crew
        self.takes = Limiters(_MOST_TAKES)
        self.closes = Limiters(_MOST_TAKES)
        self.buffers = Buffers()
        self.windows = Windows(limits.read_ahead, self.buffers)
        self.errands = Errands()
        self.questions = Questions()
        self.waits = Limiters(_MOST_WAITS)
