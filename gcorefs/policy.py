"""How a core is taken: the options that shape one core, together and frozen.

The command line and the mount fill in the same Policy, and the note of the core names it.
"""

import os
from dataclasses import dataclass
from typing import Literal

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.option import option

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

_QUARTER_OF_THE_MACHINE = os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE // 4 >> 20


@dataclass(frozen=True, slots=True)
class Policy:
    stop_timeout: float = option(
        1.0, "SECONDS",
        "How long a thread may take to stop before the core goes on without its registers.  "
        "Time in which it gets no CPU does not count, within bounds.",
    )  # fmt: skip
    unresponsive: Unresponsive = option(
        "partial", "WORD",
        "What the core has of such a thread: its system call, zeros, nothing; or no core.",
    )  # fmt: skip
    memory: MemoryRule = option(
        "filter", "WORD",
        "What coredump_filter takes and what no file shows any more, or the kernel's choice.",
    )  # fmt: skip
    xstate: XState = option(
        "standard", "WORD",
        "Vector registers in a layout that every gdb knows, or in the processor's own.",
    )  # fmt: skip
    hold: Hold = option(
        "stop", "WORD",
        "Let the process go when its core is read, or when its memory is copied.",
    )  # fmt: skip
    copy_limit: int = option(
        max(1, _QUARTER_OF_THE_MACHINE), "MIB",
        "How much memory a copy may take.  Default: a quarter of the machine's.",
    )  # fmt: skip

    def facts(self) -> dict[str, str | float]:
        """What the note says of it, by the names of the options.

        How the process was held is said by whoever holds it: a copy may come to nothing.
        """
        return {
            "unresponsive": self.unresponsive,
            "stop_timeout": self.stop_timeout,
            "memory": self.memory,
            "xstate": self.xstate,
        }


DEFAULT = Policy()
