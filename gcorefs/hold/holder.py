"""What a stop asks of a holder: how the memory of a core outlives the stop.

A holder belongs to one core.  `prepare` runs before the stop, so that slow work does not make the
stop longer.  Then the stop makes the `pauses` that the holder wants.  `fit` runs when the size is
known, because the note says how the process is held.  `fill` runs when the core exists.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from gcorefs.elfcore.layout import Layout
from gcorefs.hold.store import Place
from gcorefs.process.memory import Memory


class Holder(Protocol):
    not_copied: str
    """Why the process is held although the policy wants a copy; empty otherwise."""

    @property
    def is_copy(self) -> bool:
        """True if the core is to outlive the stop."""

    @property
    def is_filled(self) -> bool:
        """True while the core needs no stop: the holder has all memory of it, or nobody wants that
        of the stop."""

    @property
    def was_filled(self) -> bool:
        """True if that is so, or was so."""

    def prepare(self, pid: int) -> None:
        """Prepare for the memory of a process that still runs.  ESRCH."""

    def pauses(self, pid: int) -> Iterator[Callable[[Memory], None]]:
        """What is to be done in short stops before the stop itself, one call in each.

        The process runs while the iterator is advanced, and that may take long: it copies memory
        ahead.  The memory that is passed to a call can be read until the end of the pause.
        """

    def look(self, memory: Memory) -> None:
        """The process stands still, and its core is about to be made.  Begin, in another thread,
        what `fill` needs of the process."""

    def fit(self, size: int) -> None:
        """Adapt to a core with `size` bytes of memory."""

    def facts(self) -> Mapping[str, str]:
        """The facts for the note: how the process should be held, and how it is held."""

    def fill(self, layout: Layout, memory: Memory, finish: Callable[[], None]) -> None:
        """Take all memory of a core, and `finish` its header.

        If the memory cannot be read at once, `not_copied` says why.  ProcessError: the process
        died or was let go.
        """

    def view(self, offset: int, length: int) -> memoryview | None:
        """Bytes of memory if the holder has them.  `offset` counts from the start of the memory."""

    def read_into(self, offset: int, buffer: memoryview) -> bool:
        """Fill `buffer` with such bytes.  False: the holder does not have them."""

    def place(self, offset: int, length: int) -> Place:
        """The file that has the bytes at `offset`, if one has; as many of them as lie together."""

    def give_up(self, why: str) -> None:
        """Hold the process instead, and free the room for the copy."""

    def drop(self) -> None:
        """Allow no more reads.  `close` frees the memory later."""

    def close(self) -> None:
        """Free everything.  This may take long."""
