"""The threads in which the blocking work of a mount is done, and their buffers: one set a mount."""

from gcorefs.mount.buffers import Buffers
from gcorefs.mount.crew import Crew
from gcorefs.mount.errands import Errands
from gcorefs.mount.limits import Limiters, Limits
from gcorefs.mount.listing import Questions
from gcorefs.mount.windows import Windows

# Threads that stop processes for one user at one time, and that wait for one server of mapped
# files.  A call that was given up keeps its thread until it ends, and so takes only from its
# own user, or from those that would wait for the same server.
_MOST_TAKES = 50
_MOST_WAITS = 8


class Workers:
    def __init__(self, limits: Limits, crew: Crew) -> None:
        self.crew = crew
        self.takes = Limiters(_MOST_TAKES)
        self.closes = Limiters(_MOST_TAKES)
        self.buffers = Buffers()
        self.windows = Windows(limits.read_ahead, self.buffers)
        self.errands = Errands()
        self.questions = Questions()
        self.waits = Limiters(_MOST_WAITS)
