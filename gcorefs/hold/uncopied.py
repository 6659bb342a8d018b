"""Holders without a copy: the process is held, or its memory is read while it runs."""

from collections.abc import Callable, Iterator, Mapping

from gcorefs.elfcore.layout import Layout
from gcorefs.hold.store import Place
from gcorefs.policy import Hold
from gcorefs.process.memory import Memory


class WithoutMemory:
    """A holder that has no memory, and so needs no room."""

    def prepare(self, pid: int) -> None:
        pass

    def pauses(self, pid: int) -> Iterator[Callable[[Memory], None]]:
        return iter(())

    def look(self, memory: Memory) -> None:
        pass

    def fit(self, size: int) -> None:
        pass

    def view(self, offset: int, length: int) -> memoryview | None:
        return None

    def read_into(self, offset: int, buffer: memoryview) -> bool:
        return False

    def place(self, offset: int, length: int) -> Place:
        return Place(None, offset, length)


class HoldProcess(WithoutMemory):
    """The process stands still until its core is read (hold=stop)."""

    not_copied = ""
    is_copy = is_filled = was_filled = False

    def facts(self) -> Mapping[str, str]:
        return {"hold": "stop"}

    def fill(self, layout: Layout, memory: Memory, finish: Callable[[], None]) -> None:
        pass

    def give_up(self, why: str) -> None:
        pass

    def drop(self) -> None:
        pass

    def close(self) -> None:
        pass


class HoldNothing(WithoutMemory):
    """The process runs on as soon as it is recorded, or was not stopped at all, and its memory is
    read while it runs."""

    is_copy = True
    not_copied = ""

    def __init__(self, hold: Hold) -> None:
        """`hold`: what the policy says, for the note."""
        self.was_filled = False
        self._hold = hold
        self._is_dropped = False

    @property
    def is_filled(self) -> bool:
        return self.was_filled and not self._is_dropped

    def facts(self) -> Mapping[str, str]:
        return {"hold": self._hold}

    def fill(self, layout: Layout, memory: Memory, finish: Callable[[], None]) -> None:
        del layout, memory
        finish()
        self.was_filled = True

    def give_up(self, why: str) -> None:
        self.not_copied = why

    def drop(self) -> None:
        self._is_dropped = True

    def close(self) -> None:
        self.drop()
