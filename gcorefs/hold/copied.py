"""The holder that copies all memory while the process stands still (hold=copy)."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from gcorefs import tuning
from gcorefs.elfcore.layout import Layout
from gcorefs.hold.copy import take_ranges
from gcorefs.hold.room import NotCopied
from gcorefs.hold.store import Place, Store
from gcorefs.kernel.proc import task_status, tasks
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.memory import Memory
from gcorefs.process.ranges import Ranges, divide
from gcorefs.process.runs import nothing
from gcorefs.steps import Step

# Added to the populated bytes: the file holds small holes too (segments.py).
_SLACK_SHARE = 64
_SLACK_AT_LEAST = 1 << 20


NewStore = Callable[[], Store]
"""NotCopied."""


class Content(Protocol):
    """The memory of a core.  Offsets count from the start of the memory."""

    def view(self, offset: int, length: int) -> memoryview | None:
        """These bytes, if they lie in one piece."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`.  EIO: the disk failed."""

    def place(self, offset: int, length: int) -> Place:
        """Where the bytes at `offset` are: as many of them as lie together."""


class HoldCopy:
    """The memory is copied into ours, and the process runs on (hold=copy)."""

    is_copy = True

    def __init__(self, new_store: NewStore, is_small: bool = False) -> None:
        """`new_store`: makes the store for the copy.  `is_small`: it will hardly take any room."""
        self.not_copied = ""
        self.was_filled = False
        self._new_store = new_store
        self._is_small = is_small
        self._lock = threading.Lock()
        self._is_dropped = False
        self._empty: Store | None = None  # room that is not filled yet
        self._full: Content | None = None
        self._past: Content | None = None  # dropped; `close` frees it

    @property
    def is_filled(self) -> bool:
        return self._full is not None

    def prepare(self, pid: int) -> None:
        """Make room for about as much memory as the core will have."""
        reach = tuning.now().reach
        reach(Step.MAKING_ROOM, pid)
        try:
            store = self._new_store()
        except NotCopied as error:
            self.not_copied = str(error)
            return
        with self._lock:
            if self.not_copied:  # it took too long, and the process is held instead
                return
            self._empty = store
        status = tasks.ask_live_thread(pid, lambda tid: task_status.status(pid, tid))
        if not self._is_small:
            kinds = ("RssAnon", "RssShmem", "VmSwap")  # a core has few pages of files
            populated = sum(int(status.get(kind, b"0").split()[0]) for kind in kinds) * 1024
            with contextlib.suppress(NotCopied):
                store.prepare(populated + populated // _SLACK_SHARE + _SLACK_AT_LEAST)
        reach(Step.ROOM_MADE, pid)

    def look(self, memory: Memory) -> None:
        pass

    def fit(self, size: int) -> None:
        store = self._empty
        if store is None:  # there is none, or it is dropped
            return
        try:
            store.fit(size)
        except NotCopied as error:
            self.give_up(str(error))
            store.discard()

    def pauses(self, pid: int) -> Iterator[Callable[[Memory], None]]:
        return iter(())

    def facts(self) -> Mapping[str, str]:
        if self.not_copied:
            return {"hold": "copy", "held": "stop", "held_why": self.not_copied}
        return {"hold": "copy", "held": "copy"}

    def give_up(self, why: str) -> None:
        with self._lock:
            self.not_copied = why
            # Whoever uses it last frees it.  This may be the event loop, and a disk may not answer.
            self._empty = None

    def fill(self, layout: Layout, memory: Memory, finish: Callable[[], None]) -> None:
        store = self._take_empty()
        if store is None:
            return
        reach = tuning.now().reach
        try:
            reach(Step.COPYING, memory.pid)
            content = self._copy(store, layout, memory)
            store.settle()
            reach(Step.FILLED, memory.pid)
            finish()
        except BaseException as error:
            store.discard()
            if isinstance(error, NotCopied) or _is_no_end(error):
                self.not_copied = str(error)
                return
            raise
        with self._lock:
            if not self._is_dropped:
                self._full = content
                self.was_filled = True

    def _copy(self, store: Store, layout: Layout, memory: Memory) -> Content:
        """Take all memory of a core.  NotCopied, ProcessError."""
        take_ranges(store, memory_of(layout), memory)
        return store

    def _take_empty(self) -> Store | None:
        """The room that is not filled yet.  From now on it belongs to the caller."""
        with self._lock:
            copy, self._empty = self._empty, None
            return copy

    def view(self, offset: int, length: int) -> memoryview | None:
        full = self._full  # read it once: another thread may drop it
        return None if full is None else full.view(offset, length)

    def read_into(self, offset: int, buffer: memoryview) -> bool:
        full = self._full
        if full is not None:
            full.read_into(offset, buffer)
        return full is not None

    def place(self, offset: int, length: int) -> Place:
        full = self._full
        return Place(None, 0, length) if full is None else full.place(offset, length)

    def drop(self) -> None:
        with self._lock:
            self._is_dropped = True
            # Do not free it here: that takes long, and this may be the event loop.
            self._past, self._full = self._full or self._past, None

    def close(self) -> None:
        self.drop()
        self._empty = None
        self._past = None


def memory_of(layout: Layout) -> Ranges:
    """The memory in the file of a core, each range with its offset from the start of the memory."""
    size = layout.zeros_offset - layout.memory_offset
    ranges, _ = divide(*layout.memory(layout.memory_offset, size) if size else nothing())
    return ranges


def _is_no_end(error: BaseException) -> bool:
    """True if the memory cannot be copied but the process is still held."""
    is_of_process = isinstance(error, ProcessError) and error.reason is not Reason.NOT_SHOWN
    return isinstance(error, OSError) and not is_of_process
