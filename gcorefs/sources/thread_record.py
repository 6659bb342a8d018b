"""The record of a thread, which a source of registers gives."""

from collections.abc import Iterable
from dataclasses import dataclass

from gcorefs.arch.machine import RegisterKind
from gcorefs.elfcore.provenance import How
from gcorefs.elfcore.registers import Registers

_UNKNOWN = Registers()


@dataclass(slots=True)
class ThreadRecord:
    """The facts about one thread.  Treat it as immutable."""

    tid: int
    how: How = How.ZERO
    """How its registers were had.  ZERO: they are not known, because it did not stop."""
    registers: Registers = _UNKNOWN
    blocked: int = 0
    """The signals that it blocks: bit n - 1 for signal n."""
    pending: int = 0
    """Signals that are pending for this thread alone."""
    signal: int = 0
    """The job control signal in whose group-stop the thread stands; 0 if none.

    Only its number is left: in such a stop PTRACE_GETSIGINFO describes the stop itself, with the
    event as si_code and the thread itself as si_pid (kernel/signal.c, ptrace_do_notify), and does
    not say who sent the signal.
    """
    is_starved: bool = False
    """It did not stop because it got no CPU."""


def kept_xstates(records: Iterable[ThreadRecord]) -> int:
    """How many of them have the kernel's own XSAVE area too."""
    return sum(RegisterKind.KERNEL_XSTATE in each.registers for each in records)


def in_reading_order(records: Iterable[ThreadRecord], leader: int) -> list[ThreadRecord]:
    """The threads that are recorded exactly, then all others; the leader first in its part.

    Readers begin with the first thread: gdb and lldb select it, drgn takes it for the one that
    crashed.  So a thread with only a few registers must not come first.
    """
    return sorted(records, key=lambda each: (not each.how.is_exact, each.tid != leader, each.tid))
