"""The signals that end a process by default (signal(7)).

Not here: the signals of a fault of one's own (SIGSEGV and the like), SIGPIPE and SIGXFSZ, which
Python ignores, SIGSTKFLT, which wakes threads of ours (bell.py), and SIGKILL.
"""

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType

ENDING = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM,
    signal.SIGTERM, signal.SIGXCPU, signal.SIGVTALRM, signal.SIGPROF,
    signal.SIGPOLL, signal.SIGPWR, *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
)  # fmt: skip


def handle(handler: Callable[[int, FrameType | None], None]) -> list[int]:
    """Have each of these signals come to `handler`, but for those that this process ignores.

    A process inherits what its parent ignores, from nohup(1) or from a shell that starts a job in
    the background (POSIX, 2.11), and is expected to go on ignoring it.  It also inherits what its
    parent blocks, for example to take signals by sigwait(3).  Nobody means that: nothing but
    SIGKILL would end us, and a process that we hold would stand still.
    """
    handled = [each for each in ENDING if signal.getsignal(each) is not signal.SIG_IGN]
    for each in handled:
        signal.signal(each, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, handled)
    return handled


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
    come: list[int] = []

    def keep(number: int, _: FrameType | None) -> None:
        come.append(number)

    handled = handle(keep)
    signal.signal(signal.SIGSTKFLT, signal.SIG_IGN)
    return Remembered(handled, come)
