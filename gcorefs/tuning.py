"""Time-outs and sizes that are no options, because one value fits every user.

Tests change them: a time-out of ten seconds is more than a test needs.  A program does that by
`use`, before it begins anything; processes that it forks have the same values.  gcorefs itself
never does that: it reads no environment variable and has no option for it, so no user has other
values.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from gcorefs.steps import Step


def _go_on(step: Step, pid: int) -> None:
    """What gcorefs does at each step of a stop: nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """All of them, with the values that gcorefs has."""

    take_timeout: float = 20.0
    """Seconds beyond stop_timeout that a caller waits for a stop, or for a core of it.  /proc may
    never answer if a thread that does not stop holds a lock of the process."""

    read_timeout: float = 10.0
    """Seconds that a caller waits for one read.  A page that userfaultfd(2) must supply never comes
    while its handler is stopped."""

    output_timeout: float = 60.0
    """Seconds for which a command lets a process stand still while its output takes nothing."""

    estimate_timeout: float = 2.0
    """Seconds that a look through the mappings may take, for the estimate of a size.  A process
    that changes its mappings makes it wait."""

    guess_for: float = 60.0
    """Seconds for which the sizes of all processes of a user are guesses, after the size of one was
    not known in time.  For mkdir(2) and the like the kernel locks the mount until a look-up is
    answered (mount/directories.py): a user with many such processes would keep all others out."""

    last_look: float = 0.5
    """Seconds that all wait at the end for threads that were interrupted and have not stopped.
    Then the OS thread of the tracer waits alone, and only for those that process/late.py names."""

    many_tables: int = 1024
    """KiB of page tables from which on it is asked how full they are."""

    long_walk: int = 8192
    """KiB of page tables for which smaps takes as long as it takes to load the program for BPF:
    40 to 60 ms."""

    many_threads: int = 100
    """With this many threads or more, their CPU times are read after the header is made."""

    most_waiting: int = 64
    """Workers that may wait for something after the stops of one user."""

    most_names: int = 50_000
    """Names below all policies but the last that a user has at one time.  Each takes 1.2 KB, for as
    long as the kernel remembers it."""

    overdue: float = 5.0
    """Seconds past max_stop after which a process that is still held should long have been let go:
    the watchdog is not told any more."""

    copy_piece: int = 16 << 20
    """Bytes that one thread copies, or makes room for, at a time."""

    copy_timeout: float = 10.0
    """Seconds in which a thread must copy a piece."""

    most_status: int = 64 << 20
    """Characters of a status file that are read.  A thousand stops take less than one MiB."""

    reach: Callable[[Step, int], None] = field(default=_go_on, repr=False)
    """Called at each step of a stop, with the pid of the process.  It may block, or raise
    MemoryError, as everything may that allocates."""


_in_use = [Tuning()]


def now() -> Tuning:
    """The values of this process."""
    return _in_use[0]


def use(tuning: Tuning) -> None:
    """Give this process other values."""
    _in_use[0] = tuning
