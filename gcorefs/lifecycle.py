"""The life of one stop: its phases, and every step from one to the next that there is.

Several threads move a stop on: whoever takes it, the tracer that sees the process die, whoever
lets it go.  The table decides which of two that come at one time was first, and the other one
is told that it came too late.
"""

import enum
import threading


class Phase(enum.Enum):
    NEW = "new"
    """Nothing was asked of the process."""
    STOPPING = "stopping"
    """Its threads are being stopped and recorded, one after the other."""
    HELD = "held"
    """Every thread is recorded.  The process stands still, and its memory can be read."""
    DIED = "died"
    """It was killed while it was held.  What was made of the headers can be read."""
    COPIED = "copied"
    """Its memory is copied, and it runs on."""
    PAST = "past"
    """The same, and it has become another program: nobody joins any more."""
    LET_GO = "let go"
    """Its threads run on, or are about to."""
    ENDED = "ended"
    """None of them is traced any more, but those that are late."""


NEXT: dict[Phase, frozenset[Phase]] = {
    Phase.NEW: frozenset({Phase.STOPPING, Phase.LET_GO}),
    Phase.STOPPING: frozenset({Phase.HELD, Phase.DIED, Phase.LET_GO}),
    Phase.HELD: frozenset({Phase.COPIED, Phase.DIED, Phase.LET_GO}),
    # A copy that was whole before the process died is as good as any.
    Phase.DIED: frozenset({Phase.COPIED, Phase.LET_GO}),
    Phase.COPIED: frozenset({Phase.PAST, Phase.LET_GO}),
    Phase.PAST: frozenset({Phase.LET_GO}),
    Phase.LET_GO: frozenset({Phase.ENDED}),
    Phase.ENDED: frozenset(),
}
"""What may follow each phase."""


class Lifecycle:
    """The phase of one stop, for all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._passed = [Phase.NEW]

    @property
    def phase(self) -> Phase:
        return self._passed[-1]

    def has_been(self, phase: Phase) -> bool:
        """True in that phase and ever after."""
        return phase in self._passed

    def advance(self, phase: Phase) -> bool:
        """Go on to `phase`.  False, with nothing changed, where it may not follow: somebody else
        has moved the stop on meanwhile."""
        with self._lock:
            if phase not in NEXT[self.phase]:
                return False
            self._passed.append(phase)
            return True

    @property
    def stands_still(self) -> bool:
        """True where what is read of the process now is of the stop."""
        return self.phase in (Phase.STOPPING, Phase.HELD)

    @property
    def is_dead(self) -> bool:
        """True where the process died before its memory was copied."""
        return self.has_been(Phase.DIED) and not self.has_been(Phase.COPIED)

    @property
    def is_let_go(self) -> bool:
        """True where nobody is to have any memory of it from here on."""
        return self.has_been(Phase.LET_GO)

    @property
    def is_joinable(self) -> bool:
        """True where a further core, or a further handle, may join."""
        return self.phase in (Phase.NEW, Phase.STOPPING, Phase.HELD, Phase.COPIED)
