"""Who goes first, where several stops want the interpreter at once: the one that began last.

Python runs one thread at a time.  To lay out 70,000 mappings takes it a fifth of a second; a
small process that is stopped meanwhile needs it for 2 ms, fifty times a little, and would wait
as often.  So what takes long gives way, between two pieces of it, to what has just begun.

Nobody is kept waiting for ever: what is new is new for a moment, and nobody waits for longer in
all than for half of the time since it began.
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

_NEW = 0.01
"""Seconds in which a small process is ready, beside others too."""

_NEXT = 0.001
"""Seconds in which what follows begins where something has ended: an open after a look-up."""

_STUCK = 1.0
"""Seconds after which nobody can be said to be at work: /proc may never answer."""


class Turn:
    """One piece of work, it may be of several threads."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.waited = 0.0


class Line:
    """Those that want the same interpreter."""

    def __init__(self) -> None:
        self._mine = threading.local()
        self._change = threading.Condition()
        self._under_way: dict[Turn, None] = {}  # in the order in which they began
        self._ended = 0.0  # when the last one did

    @contextlib.contextmanager
    def begun(self) -> Iterator[Turn]:
        """Work of this thread, to which other work gives way as long as it is new."""
        turn = Turn()
        with self._change:
            self._under_way[turn] = None
        try:
            with self.part_of(turn):
                yield turn
        finally:
            with self._change:
                del self._under_way[turn]
                self._ended = time.monotonic()
                self._change.notify_all()

    @property
    def is_idle(self) -> bool:
        """True where nobody is at work, but for what may not end at all."""
        long_ago = time.monotonic() - _STUCK
        return all(turn.began < long_ago for turn in self._under_way.copy())

    @property
    def mine(self) -> Turn | None:
        """What this thread works at, None where it waits for nobody."""
        return getattr(self._mine, "turn", None)

    @contextlib.contextmanager
    def part_of(self, turn: Turn | None) -> Iterator[None]:
        """This thread does a part of that work."""
        before, self._mine.turn = self.mine, turn
        try:
            yield
        finally:
            self._mine.turn = before

    def give_way(self) -> None:
        """Wait for work that is newer than that of this thread, for a moment."""
        turn = self.mine
        if turn is None or self._seconds_to_wait(turn) <= 0:  # nearly always
            return
        with self._change:
            while (seconds := self._seconds_to_wait(turn)) > 0:
                begin = time.monotonic()
                self._change.wait(seconds)
                turn.waited += time.monotonic() - begin

    def _seconds_to_wait(self, turn: Turn) -> float:
        now = time.monotonic()
        if now < turn.began + _NEW:
            return 0.0
        until = self._ended + _NEXT
        newest = next(reversed(self._under_way.copy()), turn)
        if newest.began > turn.began:
            until = max(until, newest.began + _NEW)
        worked = now - turn.began - turn.waited
        return min(until - now, worked - turn.waited)

    def paced(self, items: Sequence[T], piece: int = 500) -> Iterator[T]:
        """The same items, with a moment for others after so many."""
        for start in range(0, len(items), piece):
            self.give_way()
            yield from items[start : start + piece]


LINE = Line()
"""Of all stops of this process."""
