"""Copies the memory of a process into ours on all CPUs, so that the process can run on.

The room for the copy costs more than the copy itself: the kernel must find and clear each new page,
and for a gigabyte of small pages that takes longer than to fill them.  So room is made before the
process is stopped, by an estimate, in huge pages if there are any.

A copy never takes memory that others need (Room), and never waits for a page that does not come:
memory that cannot be copied at once stays where it is (NotCopied).
"""

import mmap
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

from gcorefs import tuning
from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.elf import page_up
from gcorefs.hold.room import Charge, NotCopied, Room
from gcorefs.hold.store import Place, Read, Store
from gcorefs.kernel import own_memory
from gcorefs.process.bounded_questions import ask_each
from gcorefs.process.memory import Memory
from gcorefs.process.page_providers import MayWait, NotBrought
from gcorefs.process.ranges import Ranges, Row
from gcorefs.process.threads import NoThread, start_thread

_MOST_THREADS = 16
_PREPARE_TIMEOUT = 5.0
"""Seconds in which a thread must make room for a piece."""


class Copy:
    """The bytes of one copy in memory (store.py).  They take no more than `room` has."""

    def __init__(self, room: Room) -> None:
        # Not MAP_SHARED, the default of mmap: shared memory has no huge pages.
        self._map = mmap.mmap(-1, PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._charge = Charge(room, self._map)

    def prepare(self, size: int) -> None:
        """Allocate the memory too.  NotCopied: the room so far stays."""
        self.fit(size)
        buffer = memoryview(self._map)
        deadline = time.monotonic() + _PREPARE_TIMEOUT
        piece = tuning.now().copy_piece
        pieces = deque(range(0, len(buffer), piece))

        def populate() -> Iterator[None]:
            for start in _each(pieces):
                if time.monotonic() > deadline:
                    return
                # If there is no memory now, the copy itself meets that again.
                own_memory.populate(buffer[start : start + piece])
                yield

        try:
            _by_all_cores(populate, len(pieces), _PREPARE_TIMEOUT)
        except OSError as error:
            raise NotCopied(f"there is no room for it: {error}") from error
        if not pieces:
            self._charge.settle()

    def fit(self, size: int) -> None:
        size = max(page_up(size), PAGE_SIZE)
        self._charge.raise_to(size)
        try:
            self._map.resize(size)  # BufferError: a thread still populates it
            self._map.madvise(mmap.MADV_HUGEPAGE)
            # It holds secrets of another process: keep it out of our cores and our children.
            self._map.madvise(mmap.MADV_DONTDUMP)
            self._map.madvise(mmap.MADV_DONTFORK)
        except (OSError, BufferError) as error:
            raise NotCopied(f"there is no room for it: {error}") from error
        self._charge.lower_to(size)

    def fit_at_least(self, size: int) -> None:
        if size > len(self._map):
            self.fit(size)

    def hurry(self, size: int) -> None:
        pass

    def take(self, ranges: Ranges, read: Read) -> None:
        try:
            read(ranges, memoryview(self._map))
        except MayWait as wait:
            raise MayWait(wait.source, ranges.done_at(wait.done)) from None

    def place(self, offset: int, length: int) -> Place:
        return Place(None, offset, length)

    def settle(self) -> None:
        self._charge.settle()

    def discard(self) -> None:
        self._map.madvise(mmap.MADV_DONTNEED)

    def view(self, offset: int, length: int) -> memoryview:
        return memoryview(self._map)[offset : offset + length].toreadonly()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = memoryview(self._map)[offset : offset + len(buffer)]


def take_ranges(
    store: Store,
    ranges: Ranges,
    memory: Memory,
    before: Callable[[Ranges], None] = lambda ranges: None,
) -> None:
    """Take ranges of memory to their places, as `copy_all`.  `before` is called with each part
    before it is read."""
    row = Row(ranges)

    def copy(start: int, end: int, sources: tuple[str, ...]) -> None:
        part = row.between(start, end)
        before(part)
        store.take(part, lambda some, buffer: memory.read_places(some, buffer, sources))

    copy_all(row.size, copy)


def copy_all(size: int, copy: Callable[[int, int, tuple[str, ...]], None]) -> None:
    """Copy `size` bytes by all CPUs, and wait for no page that does not come.

    `copy(start, end, sources)` copies some of them.  If a page must be supplied by somebody who is
    not in `sources`, it raises MayWait, and the bytes up to that page are copied.  NotCopied;
    ProcessError: the process died or was let go.
    """
    piece = tuning.now().copy_piece
    pieces = deque(range(0, size, piece))
    late: list[tuple[int, int, str]] = []

    def work() -> Iterator[None]:
        for start in _each(pieces):
            end = min(start + piece, size)
            try:
                copy(start, end, ())
            except MayWait as wait:
                late.append((start + wait.done, end, wait.source))
            yield

    def bring(start: int, end: int, source: str, may_wait: bool) -> None:
        while may_wait:
            try:
                copy(start, end, (source,))
            except MayWait as wait:
                start, source = start + wait.done, wait.source
            except NotBrought:
                break
            else:
                return
        give_up(source)

    def give_up(source: str) -> None:
        raise NotCopied(f"a page is not in memory, and somebody must supply it ({source})")

    try:
        _by_all_cores(work, len(pieces), tuning.now().copy_timeout)
    finally:
        pieces.clear()
    questions = [(source, partial(bring, start, end, source)) for start, end, source in late]
    ask_each(questions, lambda index: give_up(late[index][2]))


def _each(pieces: deque[int]) -> Iterator[int]:
    while pieces:
        try:
            yield pieces.popleft()
        except IndexError:  # another thread had the last one
            return


def _by_all_cores(work: Callable[[], Iterator[None]], most: int, timeout: float) -> None:
    """Run `work` in several threads to its end.  Each yield is a step of progress.

    Raises the exception of `work`, or NotCopied after `timeout` seconds without a step.
    """
    steps: queue.SimpleQueue[BaseException | bool] = queue.SimpleQueue()
    is_over = threading.Event()

    def run() -> None:
        try:
            for _ in work():
                steps.put(False)
                if is_over.is_set():
                    break
            steps.put(True)
        except BaseException as error:  # handed to the caller
            steps.put(error)

    running = 0
    try:
        while running < max(1, min(os.cpu_count() or 1, _MOST_THREADS, most)):
            start_thread("gcorefs-copy", run)
            running += 1
    except NoThread:
        if not running:
            raise
    failure: BaseException | None = None
    while running:
        try:
            step = steps.get(timeout=timeout)
        except queue.Empty:
            is_over.set()
            raise NotCopied("its memory could not be read in time") from failure
        if isinstance(step, BaseException):
            failure = failure or step
            is_over.set()
        running -= step is not False
    step = False
    try:
        if failure is not None:
            raise failure
    finally:
        del failure  # its traceback refers to this frame: a cycle would keep the copy alive
