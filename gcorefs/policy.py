"""How a core is taken: all options that shape one core, in a frozen Policy.

The command line and the mount fill in the same Policy, and the note of the core records it.
"""

import os
from dataclasses import dataclass
from typing import Literal, Self

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.memory_choice import MemoryChoice
from gcorefs.elfcore.memory_rules import memory_rule
from gcorefs.elfcore.patterns import canonical as canonical_patterns
from gcorefs.elfcore.patterns import patterns
from gcorefs.option import option, options_of
from gcorefs.profiles import settings

StopWhom = Literal["all", "gentle", "each", "none"]
"""Whom a stop stops: every thread; those that run, while those that sleep in a system call are left
asleep; each thread for itself, and lets it go at once; or nobody, and the core has what can be seen
from outside while the process runs."""

Hold = Literal["stop", "copy", "precopy", "fork", "none"]
"""How long a process stands still: until its core is read; until its memory is copied; until the
memory is copied that it has written since most was copied ahead; until it has forked a child that
keeps its memory; or until its threads are recorded, and memory is read while it runs."""

Unresponsive = Literal["partial", "zero", "omit", "fail"]
"""How the core records a thread that does not stop: with the registers of its system call, from
/proc/TID/syscall; with zeros; not at all; or there is no core (EBUSY)."""

Bpf = Literal["auto", "off"]
"""Where mappings come from: BPF where it can be had, or smaps (sources/bpf_choice.py)."""

XState = Literal["standard", "raw"]
"""The layout of NT_X86_XSTATE: a layout that every gdb knows, or the processor's own."""


def _canonical_memory(text: str) -> str:
    """The name of a rule that chooses memory (elfcore/memory_rules.py).  RuleError."""
    return str(memory_rule(text))


def _canonical_directory(text: str) -> str:
    """The absolute path of a directory; empty: none.  ValueError."""
    if text and not text.startswith("/"):
        raise ValueError("the absolute paths of directories")
    return text and os.path.normpath(text)


_MOST_MEBIBYTES = 1_000_000_000
_QUARTER_OF_THE_MACHINE = os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE // 4 >> 20


@dataclass(frozen=True, slots=True)
class Policy:
    stop: StopWhom = option(
        "all", "WORD",
        "Stop every thread; gentle: leave those asleep that sleep in a system call; each: stop one "
        "thread at a time; none: stop nobody.",
    )  # fmt: skip
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
    referenced: int = option(
        0, "KIB",
        "memory=stacks: so much of the memory at each address in a register or on a stack; 0: none "
        "of it.",
        least=0,
    )  # fmt: skip
    include: str = option(
        "", "PATTERNS",
        "Mappings that the core has in any case, by name (libfoo*, anon:name), or addresses "
        "(7f00000-7f20000), with + between them.",
        canonical=canonical_patterns,
    )  # fmt: skip
    exclude: str = option(
        "", "PATTERNS",
        "Mappings, or addresses, that the core does not have, whatever else takes them.",
        canonical=canonical_patterns,
    )  # fmt: skip
    largest: int = option(
        0, "MIB", "Leave out each mapping that is larger than this; 0: none.", least=0
    )
    xstate: XState = option(
        "standard", "WORD",
        "Vector registers in a layout that every gdb knows, or in the processor's own.",
    )  # fmt: skip
    hold: Hold = option(
        "stop", "WORD",
        "Let the process go when its core is read, when its memory is copied, or, with none, when "
        "its threads are recorded.  precopy: copy memory while it runs, and in the stop only what "
        "it wrote meanwhile.  fork: make it fork a child that keeps its memory.",
    )  # fmt: skip
    precopy_rounds: int = option(
        4, "N", "hold=precopy: how often memory is copied ahead at most, each time after a "
        "short stop.",
    )  # fmt: skip
    precopy_time: float = option(60.0, "SECONDS", "hold=precopy: when to begin no further round.")
    copy_limit: int = option(
        max(1, _QUARTER_OF_THE_MACHINE), "MIB",
        "How much memory a copy may take.  Default: a quarter of the machine's.",
    )  # fmt: skip
    spool: str = option(
        "", "DIR",
        "Keep copies in files without a name in this directory, not in memory.",
        canonical=_canonical_directory,
    )  # fmt: skip
    spool_limit: int = option(
        _MOST_MEBIBYTES, "MIB", "How much of its disk copies may take; a sixteenth is left in any "
        "case.",
    )  # fmt: skip
    bpf: Bpf = option(
        "auto", "WORD",
        "Ask BPF for the mappings, if it can be had, or smaps, which takes longer.",
    )  # fmt: skip

    def __post_init__(self) -> None:
        """OptionError."""
        for name, each in options_of(type(self)).items():
            each.check(getattr(self, name))

    @property
    def is_read_live(self) -> bool:
        """Memory is read while the process runs."""
        return self.hold == "none" or (self.hold == "stop" and self.stop in ("each", "none"))

    @property
    def is_held_open(self) -> bool:
        """The process stands still as long as its core is open."""
        return self.hold == "stop" and not self.is_read_live

    @property
    def leaves_asleep(self) -> bool:
        """Registers of threads that sleep are read without a stop."""
        return self.stop in ("gentle", "none")

    @property
    def choice(self) -> MemoryChoice:
        """How the memory of a core is chosen."""
        return MemoryChoice(
            memory_rule(self.memory),
            patterns(self.include),
            patterns(self.exclude),
            self.largest << 20,
        )

    @classmethod
    def of(cls, text: str) -> Self:
        """The policy that a text names: "@threads", "memory=none,hold=copy".  OptionError."""
        return cls(**settings(text, options_of(cls)))

    def facts(self) -> dict[str, str | float]:
        """The facts for the note, by the names of the options.

        The holder adds how the process was held, because a copy may fail.
        """
        return {
            "stop": self.stop,
            "unresponsive": self.unresponsive,
            "stop_timeout": self.stop_timeout,
            "memory": self.memory,
            **{name: value for name, value in self._choosing() if value},
            "xstate": self.xstate,
        }

    def _choosing(self) -> list[tuple[str, str | int]]:
        """Further options that choose memory, each empty or 0 if it has no effect."""
        has_stacks = memory_rule(self.memory).has_stacks
        return [
            ("stack_limit", self.stack_limit if has_stacks else 0),
            ("referenced", self.referenced if has_stacks else 0),
            ("include", self.include),
            ("exclude", self.exclude),
            ("largest", self.largest),
        ]


DEFAULT = Policy()
