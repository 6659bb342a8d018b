"""How a core is taken: all options that shape one core, in a frozen Policy.

The command line and the mount fill in the same Policy, and the note of the core records it.
"""

import os
from dataclasses import dataclass
from typing import Literal, Self

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.memory_rules import memory_rule
from gcorefs.option import option, options_of
from gcorefs.profiles import settings

Hold = Literal["stop", "copy"]
"""How long a process stands still: until its core is read, or until its memory is copied."""

Unresponsive = Literal["partial", "zero", "omit", "fail"]
"""How the core records a thread that does not stop: with the registers of its system call, from
/proc/TID/syscall; with zeros; not at all; or there is no core (EBUSY)."""

XState = Literal["standard", "raw"]
"""The layout of NT_X86_XSTATE: a layout that every gdb knows, or the processor's own."""


def _canonical_memory(text: str) -> str:
    """The name of a rule that chooses memory (elfcore/memory_rules.py).  RuleError."""
    return str(memory_rule(text))


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
    memory: str = option(
        "filter", "RULE",
        "filter: the memory that coredump_filter selects, and bytes that no file holds any more; "
        "kernel: the kernel's choice; 0x33: as filter, with this mask; all; text: code in files; "
        "stacks: what a backtrace of every thread needs; none; A+text: what A takes, and code in "
        "files.",
        canonical=_canonical_memory,
    )  # fmt: skip
    stack_limit: int = option(
        1024, "KIB", "memory=stacks: how much of the stacks of one thread the core has at most."
    )
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

    def __post_init__(self) -> None:
        """RuleError: `memory` is no rule.  mypy checks the other words, but not this one."""
        memory_rule(self.memory)

    @classmethod
    def of(cls, text: str) -> Self:
        """The policy that a text names: "@threads", "memory=none,hold=copy".  OptionError."""
        return cls(**settings(text, options_of(cls)))

    def facts(self) -> dict[str, str | float]:
        """The facts for the note, by the names of the options.

        The holder adds how the process was held, because a copy may fail.
        """
        return {
            "unresponsive": self.unresponsive,
            "stop_timeout": self.stop_timeout,
            "memory": self.memory,
            **({"stack_limit": self.stack_limit} if "stacks" in self.memory else {}),
            "xstate": self.xstate,
        }


DEFAULT = Policy()
