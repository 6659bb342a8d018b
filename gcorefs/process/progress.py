"""How far a stop is, for readers in other threads and in other processes.

The tracer writes here before it acts: `is_dead` before it reaps a thread, `is_over` before it lets
one go.  A reader of memory looks here after the read.  If both flags are still False then, the
bytes are of the stop.
"""

import time

SIZE = 128
"""Bytes of a page that a Progress uses."""

_DEAD, _OVER = 64, 65
_TIMES = slice(72, 88)
_WOKEN = slice(88, 96)
_STOPPED_AT, _RELEASED_AT = range(2)


class Progress:
    """The progress of one stop.  One thread writes, all others read."""

    def __init__(self, page: memoryview | None = None) -> None:
        """`page`: SIZE bytes that were zeros when the stop began."""
        self._page = (memoryview(bytearray(SIZE)) if page is None else page)[:SIZE]
        self._times = self._page[_TIMES].cast("d")
        self._woken = self._page[_WOKEN].cast("Q")

    def own(self) -> None:
        """Make the calling thread the tracer."""

    def disown(self) -> None:
        """The tracer is about to end."""

    @property
    def is_tracer_gone(self) -> bool:
        """True if the tracer ended without a word: the kernel then lets the process go."""
        return False

    @property
    def is_dead(self) -> bool:
        """True if the process died while it was held."""
        return bool(self._page[_DEAD])

    def die(self) -> None:
        self._page[_DEAD] = 1

    @property
    def is_over(self) -> bool:
        """True if threads are being let go, or have been."""
        return bool(self._page[_OVER])

    def end(self) -> None:
        self._page[_OVER] = 1

    @property
    def woken(self) -> int:
        """How many threads that were left asleep have run during the hold (stop=gentle)."""
        return int(self._woken[0])

    @woken.setter
    def woken(self, count: int) -> None:
        self._woken[0] = count

    @property
    def stopped_at(self) -> float:
        """time.monotonic() of the first interrupt: from then on the process stood still."""
        return self._times[_STOPPED_AT]

    @stopped_at.setter
    def stopped_at(self, seconds: float) -> None:
        self._times[_STOPPED_AT] = seconds

    @property
    def released_at(self) -> float:
        """time.monotonic() when the last thread that had stopped was let go; 0.0 before."""
        return self._times[_RELEASED_AT]

    @released_at.setter
    def released_at(self, seconds: float) -> None:
        self._times[_RELEASED_AT] = seconds

    @property
    def stopped_seconds(self) -> float:
        """How long the process stood still, until its release or until now."""
        if not self.stopped_at:
            return 0.0
        return (self.released_at or time.monotonic()) - self.stopped_at
