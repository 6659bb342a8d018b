"""The life of one stop: its phases, and every permitted transition.

Several threads advance a stop: the thread that takes it, the tracer that sees the process die,
the thread that lets it go.  If two of them come at the same time, the table decides which was
first, and `advance` tells the other that it came too late.
"""

import enum
import threading


class Phase(enum.Enum):
    NEW = "new"
    """Nothing has been done to the process."""
    STOPPING = "stopping"
    """The tracer stops and records its threads, one after the other."""
    HELD = "held"
    """Every thread is recorded.  The process stands still, and its memory can be read."""
    DIED = "died"
    """The process died during the stop.  The finished part of the headers can be read."""
    COPIED = "copied"
    """Its memory is copied, or is read as it is, and the process runs on."""
    PAST = "past"
    """COPIED, and the process has become another program: nobody joins any more."""
    LET_GO = "let go"
    """Its threads run on, or are about to."""
    ENDED = "ended"
    """No thread is traced any more, except late threads."""


NEXT: dict[Phase, frozenset[Phase]] = {
    Phase.NEW: frozenset({Phase.STOPPING, Phase.LET_GO}),
    Phase.STOPPING: frozenset({Phase.HELD, Phase.DIED, Phase.LET_GO}),
    Phase.HELD: frozenset({Phase.COPIED, Phase.DIED, Phase.LET_GO}),
    # A copy that was complete before the process died stays valid.
    Phase.DIED: frozenset({Phase.COPIED, Phase.LET_GO}),
    Phase.COPIED: frozenset({Phase.PAST, Phase.LET_GO}),
    Phase.PAST: frozenset({Phase.LET_GO}),
    Phase.LET_GO: frozenset({Phase.ENDED}),
    Phase.ENDED: frozenset(),
}
"""The phases that may follow each phase."""


class Lifecycle:
    """The phase of one stop, for all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._passed = [Phase.NEW]

    @property
    def phase(self) -> Phase:
        return self._passed[-1]

    def has_been(self, phase: Phase) -> bool:
        """True in that phase and in all later phases."""
        return phase in self._passed

    def advance(self, phase: Phase) -> bool:
        """Go on to `phase`.  False, and no change, if it may not follow: another thread has
        advanced the stop meanwhile."""
        with self._lock:
            if phase not in NEXT[self.phase]:
                return False
            self._passed.append(phase)
            return True

    @property
    def stands_still(self) -> bool:
        """True if a read of the process now gives its state at the stop."""
        return self.phase in (Phase.STOPPING, Phase.HELD)

    @property
    def is_dead(self) -> bool:
        """True if the process died before its memory was copied."""
        return self.has_been(Phase.DIED) and not self.has_been(Phase.COPIED)

    @property
    def is_let_go(self) -> bool:
        """True if nobody may read memory of the process from now on."""
        return self.has_been(Phase.LET_GO)
