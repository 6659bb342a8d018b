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
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

from gcorefs import tuning
from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.elf import page_up
from gcorefs.elfcore.layout import Layout
from gcorefs.kernel import own_memory
from gcorefs.kernel.proc import system_files
from gcorefs.process import cgroups
from gcorefs.process.bounded_questions import ask_each
from gcorefs.process.memory import Memory
from gcorefs.process.page_providers import MayWait, NotBrought
from gcorefs.process.threads import NoThread, start_thread

_RESERVED_SHARE = 16
RESERVE = os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE // _RESERVED_SHARE
"""Bytes that a copy leaves to others.  It leaves the same share of the limit of a cgroup."""

_MOST_THREADS = 16
_PREPARE_TIMEOUT = 5.0
"""Seconds in which a thread must make room for a piece."""


class NotCopied(Exception):
    """Why the memory of a process is not copied: words for people."""


class Room:
    """How much memory copies may take: `limit` bytes, if the machine and our cgroups have it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def take(self, amount: int, more: int) -> None:
        """Take `amount` bytes in total, of which `more` are not taken yet.  NotCopied."""
        if amount > self._limit:
            raise NotCopied(f"its {_mebibytes(amount)} are over copy_limit")
        if more + RESERVE > system_files.available_memory():
            raise NotCopied(f"memory is short for its {_mebibytes(amount)}")
        for cgroup in cgroups.memory_limits():
            if more + cgroup.size // _RESERVED_SHARE > cgroup.left:
                limit = f"the limit of our cgroup is {_mebibytes(cgroup.size)}"
                raise NotCopied(f"memory is short for its {_mebibytes(amount)} ({limit})")

    def give_back(self, amount: int) -> None:
        """Give back `amount` bytes.  A finalizer calls this at any point of any thread."""


class Copy:
    """Room for one copy, and its content."""

    def __init__(self, room: Room) -> None:
        self._room = room
        # Not MAP_SHARED, the default of mmap: shared memory has no huge pages.
        self._map = mmap.mmap(-1, PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # Give back when the map is really freed: an abandoned read may still write into it.
        weakref.finalize(self._map, _give_back, room, charges := [0]).atexit = False
        self._charges = charges

    def prepare(self, size: int) -> None:
        """Make room for about `size` bytes.  NotCopied: the room so far stays."""
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

    def fit(self, size: int) -> None:
        """Resize the room to `size` bytes, rounded up to pages.  NotCopied: the room stays."""
        size = max(page_up(size), PAGE_SIZE)
        (charged,) = self._charges
        if size > charged:
            self._room.take(size, size - charged)
            self._charges[0] = size
        try:
            self._map.resize(size)  # BufferError: a thread still populates it
            self._map.madvise(mmap.MADV_HUGEPAGE)
            # It holds secrets of another process: keep it out of our cores and our children.
            self._map.madvise(mmap.MADV_DONTDUMP)
            self._map.madvise(mmap.MADV_DONTFORK)
        except (OSError, BufferError) as error:
            raise NotCopied(f"there is no room for it: {error}") from error
        if size < charged:
            self._charges[0] = size
            self._room.give_back(charged - size)

    def fill(self, layout: Layout, memory: Memory) -> None:
        """Copy all memory in the file.

        NotCopied; ProcessError: the process died or was let go.
        """
        buffer = memoryview(self._map)
        size = layout.zeros_offset - layout.memory_offset
        piece = tuning.now().copy_piece
        pieces = deque(range(0, size, piece))
        late: list[tuple[int, int, str]] = []

        def copy(start: int, end: int, sources: tuple[str, ...]) -> None:
            found = layout.memory(layout.memory_offset + start, end - start)
            memory.read_ranges(*found, buffer[start:end], sources)

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

    def discard(self) -> None:
        """Free the memory at once.  Nobody uses what a thread still copies into it."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def view(self, start: int, end: int) -> memoryview:
        """A part of the copy.  The view keeps the copy from being freed."""
        return memoryview(self._map)[start:end].toreadonly()


def _give_back(room: Room, charges: list[int]) -> None:
    room.give_back(charges[0])


def _mebibytes(amount: int) -> str:
    return f"{-(-amount >> 20)} MiB"


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
