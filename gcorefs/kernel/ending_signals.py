"""The signals that end a process by default (signal(7)).

Not here: the signals of a fault of one's own (SIGSEGV and the like), SIGPIPE and SIGXFSZ, which
Python ignores, SIGSTKFLT, which wakes threads of ours (bell.py), and SIGKILL.
"""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType

ENDING = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM,
    signal.SIGTERM, signal.SIGXCPU, signal.SIGVTALRM, signal.SIGPROF,
    signal.SIGPOLL, signal.SIGPWR, *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
)  # fmt: skip


def not_ignored() -> list[int]:
    """Of these, the signals that this process does not ignore.

    A process inherits what its parent ignores, from nohup(1) or from a shell that starts a job in
    the background (POSIX, 2.11), and is expected to go on ignoring it.
    """
    return [each for each in ENDING if signal.getsignal(each) is not signal.SIG_IGN]


def ignore_all() -> None:
    """Of the bell, this takes only the default action away: each ring gives it a handler."""
    for each in (*ENDING, signal.SIGSTKFLT):
        signal.signal(each, signal.SIG_IGN)


@dataclass(frozen=True)
class Remembered:
    """Signals whose time has not come: they end nothing, and are kept."""

    numbers: Sequence[int]
    """The signals that are remembered."""
    come: list[int]
    """Those that have come, in order."""


def remember() -> Remembered:
    """From now on, remember the signals that would end this process, and ignore the bell until the
    first ring, or RepeatedRing.  Only the main thread may call this."""
    found = Remembered(not_ignored(), [])

    def keep(number: int, _: FrameType | None) -> None:
        found.come.append(number)

    for each in found.numbers:
        signal.signal(each, keep)
    signal.signal(signal.SIGSTKFLT, signal.SIG_IGN)
    return found
