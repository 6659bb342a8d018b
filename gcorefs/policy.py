"""How a core is taken: the options that shape one core, together and frozen.

The command line and the mount fill in the same Policy, and the note of the core names it.
"""

from dataclasses import dataclass
from typing import Literal

Hold = Literal["stop", "copy"]
"""How long a process stands still: for as long as it is read, or until its memory is copied."""

Unresponsive = Literal["partial", "zero", "omit", "fail"]
"""What becomes of a thread that does not stop: its registers are what /proc/TID/syscall tells
of its system call, or zeros; the core leaves it out; or there is no core at all (EBUSY)."""

MemoryRule = Literal["filter", "kernel"]
"""Which memory the core has: what coredump_filter takes and what no file shows any more
(elfcore/filter.py), or what the kernel's own dumper takes and no byte more."""

XState = Literal["standard", "raw"]
"""The layout of NT_X86_XSTATE: one that every gdb knows, or the processor's own."""


@dataclass(frozen=True, slots=True)
class Policy:
    stop_timeout: float = 1.0
    """Seconds that a thread may take to stop before the core goes on without its registers."""
    unresponsive: Unresponsive = "partial"
    memory: MemoryRule = "filter"
    xstate: XState = "standard"

    def facts(self) -> dict[str, str | float]:
        """What the note says of it, by the names of the options."""
        return {
            "unresponsive": self.unresponsive,
            "stop_timeout": self.stop_timeout,
            "memory": self.memory,
            "xstate": self.xstate,
        }


DEFAULT = Policy()
