"""The holder whose memory is in a child that the process has forked (hold=fork).

The process stands still for as long as fork(2) takes, and is let go at once.  From then on the
kernel copies each page before one of the two writes to it.  What such a child does not have for
itself is copied in the stop.  A process that cannot be forked is copied as a whole (copied.py).
"""

from array import array
from collections.abc import Mapping
from itertools import accumulate

from gcorefs.elfcore.columns import differences
from gcorefs.elfcore.layout import Layout
from gcorefs.hold.copied import Content, HoldCopy, NewStore, memory_of
from gcorefs.hold.copy import take_ranges
from gcorefs.hold.image import FileImage
from gcorefs.hold.store import Place, Store
from gcorefs.process.child_memory import ChildMemory, NotForked
from gcorefs.process.memory import Memory
from gcorefs.process.ranges import Ranges, clear, divide
from gcorefs.process.runs import Runs, without
from gcorefs.process.unreadable_pages import UnreadablePages


class HoldFork(HoldCopy):
    def __init__(self, new_store: NewStore) -> None:
        """`new_store`: for the memory that the child does not have for itself."""
        super().__init__(new_store, is_small=True)
        self.not_forked = ""
        """Why there is no child; empty otherwise."""
        self._memory: Memory | None = None
        self._child: ChildMemory | None = None

    def look(self, memory: Memory) -> None:
        self._memory = memory

    def fit(self, size: int) -> None:
        """Fork, so that the note can say how the process is held."""
        memory, self._memory = self._memory, None
        if memory is None or self._empty is None:  # there is no room for a copy, or it is dropped
            return
        self.not_forked = memory.ways.forkable.why_not
        if not self.not_forked:
            try:
                self._child = memory.fork()
            except NotForked as error:
                self.not_forked = str(error)
        if self.not_forked:
            super().fit(size)

    def facts(self) -> Mapping[str, str]:
        if self.not_copied:
            return {"hold": "fork", "held": "stop", "held_why": self.not_copied}
        if self.not_forked:
            return {"hold": "fork", "held": "copy", "held_why": self.not_forked}
        return {"hold": "fork", "held": "fork"}

    def _copy(self, store: Store, layout: Layout, memory: Memory) -> Content:
        if self._child is None:
            return super()._copy(store, layout, memory)
        copied = _one_after_another(without(memory_of(layout).runs, memory.ways.forkable.runs))
        if len(copied):
            store.fit(copied.places[-1] + copied.lengths[-1])
            take_ranges(store, copied, memory)
        return _InChild(layout, self._child, store, copied, memory.unreadable_pages)

    def close(self) -> None:
        super().close()
        child, self._child = self._child, None
        if child is not None:
            child.end()


def _one_after_another(runs: Runs) -> Ranges:
    """Runs with a place for each, one behind the other."""
    starts, ends = runs
    lengths = differences(ends, starts)
    return Ranges(starts, lengths, array("Q", [*accumulate(lengths, initial=0)][:-1]))


class _InChild:
    """The memory of a core: a part of it is copied, and the rest is in the child."""

    def __init__(
        self,
        layout: Layout,
        child: ChildMemory,
        store: Store,
        copied: Ranges,
        lost: UnreadablePages,
    ) -> None:
        self._layout = layout
        self._child = child
        self._store = store
        # By address: what is in no part of it is in the child.
        self._copied = FileImage(copied.addresses, copied.lengths, copied.places)
        self._lost = lost

    def view(self, offset: int, length: int) -> memoryview | None:
        del offset, length
        return None

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """EIO: the child is gone, or the disk failed."""
        at = self._layout.memory_offset + offset
        ranges, zeros = divide(*self._layout.memory(at, len(buffer)))
        for place, length in zeros:
            clear(buffer[place : place + length])
        for address, length, place in ranges:
            done = place
            for stored, count in self._copied.pieces(address, length):
                part = buffer[done : done + count]
                if stored is None:
                    self._child.read(address + done - place, part, self._lost)
                else:
                    self._store.read_into(stored, part)
                done += count

    def place(self, offset: int, length: int) -> Place:
        return Place(None, offset, length)
