"""The holder that copies memory while the process runs, and in the stop only what it wrote
meanwhile (hold=precopy).

The work goes in rounds, as the live migration of a virtual machine does:

1. The marks of the kernel are cleared (kernel/soft_dirty.py), the first time while the process
   runs.  Then, and later before that, there is a pause: all threads stand still.  What the process
   has not written since the last pause is true.
2. The process runs, and all that is not true is copied.

After some rounds the stop itself copies the rest.  The image is then exactly the memory at the
stop, because every page of it was copied in the stop, or was not written since it was copied.

Three things could make the image wrong, and are looked for:

- Somebody else clears the marks.  A few pages are marked on purpose after each clearing; if such a
  mark is gone, nothing of the image is true.
- KSM drops marks (process/tracking.py).  If it has separated any pages meanwhile, of whatever
  process, nothing of the image is true.
- Bytes come from a kernel that writes for the process while its threads stand still: io_uring(7),
  io_submit(2).  What it writes between the look at the marks and their clearing would be lost, so
  there is one round for such a process.
"""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from operator import gt

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.columns import differences
from gcorefs.elfcore.layout import Layout
from gcorefs.hold.copied import Content, HoldCopy, NewStore, memory_of
from gcorefs.hold.copy import take_ranges
from gcorefs.hold.image import FileImage, Image
from gcorefs.hold.room import NotCopied
from gcorefs.hold.store import Place, Store
from gcorefs.kernel import soft_dirty
from gcorefs.kernel.proc import tasks
from gcorefs.process.errors import ProcessError
from gcorefs.process.memory import Memory
from gcorefs.process.pagemap import (
    ANONYMOUS,
    FRAME,
    NOT_EXCLUSIVE,
    Pagemap,
    shows_page_frames,
)
from gcorefs.process.ranges import Ranges, clear
from gcorefs.process.runs import Runs, common, either, nothing, size_of, without
from gcorefs.process.threads import NoThread
from gcorefs.process.unreadable_pages import UnreadablePages
from gcorefs.process.worker_threads import Worker

_LITTLE = 8 << 20
"""Bytes that the stop itself copies in a few milliseconds: one more pause costs as much."""

_SHRINKS = 3 / 4
"""If a round leaves more than this part of what it copied to the next, no further round helps."""

_CANARIES = 16
_CANARY_TRIES = 96
_NEAR = 1 << 20
"""Bytes in which a page to mark is looked for."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """How long memory is copied ahead."""

    most: int
    seconds: float


class HoldPrecopy(HoldCopy):
    """The memory is copied while the process runs; the stop copies what changed meanwhile."""

    def __init__(self, new_store: NewStore, rounds: Rounds, is_small: bool = False) -> None:
        super().__init__(new_store, is_small)
        self.not_ahead = "the stop began without hold=precopy"
        """Why nothing is copied ahead of the stop; empty otherwise."""
        self.rounds = 0
        """How many rounds were made."""
        self.copied_ahead = 0
        """Bytes, in all rounds."""
        self.copied_in_stop = 0
        """Bytes."""
        self._most = rounds
        self._image = Image()
        self._true = nothing()  # what of the image may still be true
        self._looking: Future[Runs] | None = None  # for what of it is true in the stop
        self._canaries: list[tuple[int, int]] = []  # addresses, and their entries in pagemap
        self._source: Memory | None = None
        self._unmerged: int | None = None
        self._is_last = False

    # Before the stop.

    def pauses(self, pid: int) -> Iterator[Callable[[Memory], None]]:
        self.not_ahead = self.not_copied or (
            "there is little memory to copy" if self._is_small else why_not_ahead()
        )
        until = time.monotonic() + self._most.seconds
        if not self.not_ahead:
            self._unmerged = soft_dirty.unmerged_pages()
            self._clear(pid)
        if not self.not_ahead:
            yield self._first_pause
        while not self.not_ahead and self._source is not None:
            size = self._copy_ahead(self._source)
            if self.not_ahead:
                return
            self.rounds += 1
            left = size_of(self._true) - size_of(self._true_part(self._source, self._true))
            is_over = self.rounds >= self._most.most or time.monotonic() > until
            if is_over or self._is_last or left < _LITTLE or left > size * _SHRINKS:
                return
            yield self._pause

    def _clear(self, pid: int) -> None:
        try:
            tasks.ask_live_thread(pid, soft_dirty.clear)
        except PermissionError as error:
            self._give_up_ahead(f"clear_refs: {error.strerror}")

    def _first_pause(self, memory: Memory) -> None:
        """The marks were cleared a moment ago, and nothing is copied yet.  A direct read that was
        under way then is over when its thread stands still."""
        tracking = memory.ways.tracking
        if tracking.why_not:
            self._give_up_ahead(tracking.why_not)
        elif tracking.has_rings:
            self._is_last = True
            if not soft_dirty.direct_reads_pin():
                self._give_up_ahead("the kernel does not mark what asynchronous I/O writes")
        self._begin_round(memory)

    def _pause(self, memory: Memory) -> None:
        """Find out what is true, and clear the marks.  The process stands still."""
        tracking = memory.ways.tracking
        if tracking.why_not or tracking.has_rings:
            self._is_last = True  # what is true stays so, and no mark may be cleared
            self._source = None
            return
        self._true = self._true_part(memory, common(self._true, tracking.older))
        if not self.not_ahead:
            self._clear(memory.pid)
        self._begin_round(memory)

    def _begin_round(self, memory: Memory) -> None:
        """Nothing is copied yet since the marks were cleared."""
        if not self.not_ahead and memory.ways.tracking.runs[0]:
            self._canaries = _mark_some(memory)
            if not self._canaries:
                self._give_up_ahead("no page can be marked, to see whether the marks stay")
        if not self.not_ahead:
            self._source = Memory(memory.mem, memory.ways, UnreadablePages([]), _nothing)

    def _copy_ahead(self, memory: Memory) -> int:
        """Copy all that is not true, while the process runs.  Returns the number of bytes."""
        tracked = memory.ways.tracking.runs
        store = self._empty
        if store is None or not tracked[0]:  # there is no store, or it is dropped
            self._source = None
            return 0
        populated = common(memory.ways.pagemap.runs(tracked), tracked)
        missing = without(populated, self._true)

        def note(some: Ranges) -> None:
            if self._is_dropped:
                raise NotCopied("nobody wants it any more")
            self._image.note_frames(some, memory.ways.pagemap)

        try:
            self._make_places(store, missing)
            take_ranges(store, self._image.ranges(missing), memory, note)
        except (NotCopied, ProcessError) as error:
            self._give_up_ahead(str(error))
            self._begin_again()
            return 0
        self._true = either(self._true, missing)
        self.copied_ahead += size_of(missing)
        return size_of(missing)

    def _give_up_ahead(self, why: str) -> None:
        self.not_ahead = why
        self._true = nothing()

    def _begin_again(self) -> None:
        """Take another store.  A thread of ours may still read into the old one: it waits for a
        lock of the process, or for a page, and goes on when the process may have run on."""
        size, self._image = self._image.size, Image()
        with self._lock:
            old, self._empty = self._empty, None
        if old is None:  # it is dropped
            return
        old.discard()
        try:
            store = self._new_store()
            store.prepare(size)
        except NotCopied as error:
            self.give_up(str(error))
            return
        with self._lock:
            if not self._is_dropped:
                self._empty = store

    def _make_places(self, store: Store, runs: Runs) -> None:
        self._image.make_places(without(runs, self._image.placed))
        store.fit_at_least(self._image.size)

    def _true_part(self, memory: Memory, runs: Runs) -> Runs:
        """The part of `runs`, which are in the image, that the process has not changed."""
        pagemap = memory.ways.pagemap
        if not runs[0]:
            return runs
        if any(_has_lost_its_mark(pagemap, *canary) for canary in self._canaries):
            self._give_up_ahead("somebody else has cleared the marks of the kernel (clear_refs)")
            return nothing()
        if soft_dirty.unmerged_pages() != self._unmerged:
            self._give_up_ahead("KSM has separated pages, which then have no mark")
            return nothing()
        return self._image.true_part(runs, pagemap)

    # In the stop.

    def look(self, memory: Memory) -> None:
        with contextlib.suppress(NoThread), contextlib.closing(Worker("gcorefs-marks")) as worker:
            self._looking = worker.submit(self._true_in_stop, memory)

    def _true_in_stop(self, memory: Memory) -> Runs:
        return self._true_part(memory, common(self._true, memory.ways.tracking.older))

    def fit(self, size: int) -> None:
        super().fit(max(size, self._image.size))

    def _copy(self, store: Store, layout: Layout, memory: Memory) -> Content:
        self._source = None
        wanted = memory_of(layout)
        runs = wanted.runs
        looking, self._looking = self._looking, None
        true = looking.result() if looking is not None else self._true_in_stop(memory)
        rest = without(runs, common(true, runs))
        self.copied_in_stop = size_of(rest)
        self._make_places(store, rest)
        store.hurry(self.copied_in_stop)
        take_ranges(store, self._image.ranges(rest), memory)
        return _ByAddress(store, self._image, wanted)

    def facts(self) -> Mapping[str, str]:
        if self.not_copied:
            return {"hold": "precopy", "held": "stop", "held_why": self.not_copied}
        if self.not_ahead:
            return {"hold": "precopy", "held": "copy", "held_why": self.not_ahead}
        return {"hold": "precopy", "held": "precopy"}

    def close(self) -> None:
        super().close()
        self._source = None


class _ByAddress:
    """The memory of a core, from an image by address."""

    def __init__(self, store: Store, image: Image, wanted: Ranges) -> None:
        """`wanted`: the memory of the core, each range with its offset."""
        self._store = store
        self._image = image
        self._wanted = wanted
        self._in_file: FileImage | None = None
        self._lock = threading.Lock()

    def view(self, offset: int, length: int) -> memoryview | None:
        if self._in_file is None:  # and this may be the event loop
            return None
        place, count = next(self._in_file.pieces(offset, length))
        return None if place is None or count < length else self._store.view(place, length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        done = 0
        for place, count in self._put_in_order().pieces(offset, len(buffer)):
            if place is None:
                clear(buffer[done : done + count])
            else:
                self._store.read_into(place, buffer[done : done + count])
            done += count

    def place(self, offset: int, length: int) -> Place:
        place, count = next(self._put_in_order().pieces(offset, length))
        return Place(None, 0, count) if place is None else self._store.place(place, count)

    def _put_in_order(self) -> FileImage:
        """Made by the first reader, because the process stands still before.  It may take seconds:
        a few microseconds for each part."""
        with self._lock:
            if self._in_file is None:
                self._in_file = self._image.in_file(self._wanted)
            return self._in_file


def why_not_ahead() -> str:
    """Why memory cannot be copied ahead; empty if it can."""
    if not soft_dirty.is_supported():
        return "the kernel does not mark the pages that a process writes (soft-dirty)"
    if not shows_page_frames():
        return "the kernel does not show us page frames (CAP_SYS_ADMIN)"
    return ""


def _mark_some(memory: Memory) -> list[tuple[int, int]]:
    """Mark a few pages of the tracked memory.  Returns their addresses and entries."""
    pagemap, (starts, ends) = memory.ways.pagemap, memory.ways.tracking.runs
    found: dict[int, int] = {}
    lengths = differences(ends, starts)
    for number in range(_CANARY_TRIES):
        (index,) = random.choices(range(len(starts)), lengths)
        # A mapping that is hardly populated may have its pages at its beginning or its end.
        at = random.randrange(starts[index], ends[index], PAGE_SIZE)
        at = (at, starts[index], max(starts[index], ends[index] - _NEAR))[number % 3]
        page = _markable_page(pagemap, at, min(at + _NEAR, ends[index]))
        if page is not None:
            soft_dirty.mark(memory.mem.tid, page)
            if (entry := _entry(pagemap, page)) & soft_dirty.MARK:
                found[page] = entry
        if len(found) == _CANARIES:
            break
    return [*found.items()]


def _markable_page(pagemap: Pagemap, start: int, end: int) -> int | None:
    """A page that is written and not shared: a write to a page that is shared since a fork(2)
    would copy it."""
    flags = pagemap.flags(start, end - start)
    not_ours = flags.translate(NOT_EXCLUSIVE)
    ours = bytes(map(gt, flags.translate(ANONYMOUS), not_ours))
    index = ours.find(1)
    return start + index * PAGE_SIZE if index >= 0 else None


def _has_lost_its_mark(pagemap: Pagemap, address: int, entry: int) -> bool:
    """True if the page is the same page, without a mark."""
    now = _entry(pagemap, address)
    return now & FRAME == entry & FRAME and not now & soft_dirty.MARK


def _entry(pagemap: Pagemap, address: int) -> int:
    return int.from_bytes(pagemap.entries(address, PAGE_SIZE), "little")


def _nothing() -> None:
    """Memory that is copied ahead may be read at any time: the stop tells what of it is true."""
