"""What a source of registers gives for each thread."""

from collections.abc import Iterable
from dataclasses import dataclass

from gcorefs.elfcore.provenance import How
from gcorefs.elfcore.registers import Registers

_UNKNOWN = Registers()


@dataclass(slots=True)
class ThreadRecord:
    """What is recorded of one thread.  Treat it as immutable."""

    tid: int
    how: How = How.ZERO
    """How its registers were had.  ZERO: they are not known."""
    registers: Registers = _UNKNOWN
    blocked: int = 0
    """Signals that it blocks: bit n - 1 for signal n."""
    pending: int = 0
    """Signals pending for this thread alone."""
    signal: int = 0
    """The job control signal in whose group-stop the thread stands; 0 if none.

    Its number is all that is left of it: what PTRACE_GETSIGINFO has in such a stop is the
    stop's own, si_code the event and si_pid the thread itself (kernel/signal.c,
    ptrace_do_notify), and says nothing of who sent it.
    """
    is_starved: bool = False
    """It did not stop because it got no CPU."""


def in_reading_order(records: Iterable[ThreadRecord], leader: int) -> list[ThreadRecord]:
    """The threads that are recorded exactly, then all others; the leader first in its part.

    Readers begin with the first thread: gdb and lldb select it, drgn takes it for the one that
    crashed.  A thread with a few registers only is no place to begin.
    """
    return sorted(records, key=lambda each: (not each.how.is_exact, each.tid != leader, each.tid))
