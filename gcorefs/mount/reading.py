"""The ways to get bytes of one stop: from memory here, by an errand, or by a thread.

Rules of this file:
- A read never waits without a bound.
- The event loop uses bytes that lie here, and asks nothing of another process.  One random page is
  an errand (errands.py), for which the event loop waits in place.
- A result is good until the event loop turns: a reply is made as soon as a handler returns, and
  most replies are made in the same buffer.
- A thread that was abandoned goes on writing, so it writes into a buffer that nobody uses.
"""

import contextlib
from functools import partial

import trio

from gcorefs import tuning
from gcorefs.core import Core
from gcorefs.mount.buffers import LARGEST_REQUEST, Buffers
from gcorefs.mount.errands import Errand, Errands
from gcorefs.mount.in_thread import in_thread
from gcorefs.mount.limits import Limiters
from gcorefs.mount.readahead import ReadAhead
from gcorefs.mount.windows import Windows
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.page_providers import MayWait

# Threads that read from one process.  An abandoned call keeps its thread until the call ends.
_MOST_READS = 8


class Reading:
    """The bytes of `core`, which is ready.  Offsets and lengths lie within its file."""

    def __init__(
        self, core: Core, uid: int, buffers: Buffers, errands: Errands, waits: Limiters
    ) -> None:
        """`uid`: the user who began the stop; `waits`: threads that wait for one file server."""
        self._core = core
        self._uid = uid
        self._buffers = buffers
        self._errands = errands
        self._waits = waits
        self._reads = trio.CapacityLimiter(_MOST_READS)
        self._waiting: set[object] = set()
        """Threads that may hold mmap_lock of the process for as long as somebody else likes."""
        self._late: tuple[int, int, Errand] | None = None
        """The last errand that was not done within the moment."""

    def reader(self, windows: Windows, uid: int) -> ReadAhead:
        """A reader for one handle, opened by `uid`."""
        name = f"ahead-{self._core.pid}"
        return ReadAhead(self._read_ahead, self._core.size, windows, uid, name)

    def at_hand(self, reader: ReadAhead, offset: int, length: int) -> memoryview | None:
        """These bytes, if they take only a moment.  EIO: died, or let go.

        None: call `fetch`.
        """
        data = self._core.view(offset, length) or reader.piece(offset, length)
        if data is not None:
            return data
        data = self._buffers.desk[:length]
        if self._core.read_here(offset, data):
            return data
        if self._waiting or self._late_errand() or reader.is_coming(offset, length):
            return None
        return self._run_errand(offset, length)

    def _late_errand(self) -> tuple[int, int, Errand] | None:
        """The late errand that is still under way, with its offset and length."""
        if self._late is not None and self._late[-1].is_over:
            self._late = None
        return self._late

    def _run_errand(self, offset: int, length: int) -> memoryview | None:
        work = partial(self._core.read_at_once, offset)
        try:
            errand = self._errands.begin(self._uid, work, length)
        except OSError:  # no thread or descriptor is left: `fetch` fails too, or needs none
            return None
        if errand.is_done:
            return errand.take()
        self._late = offset, length, errand
        return None

    async def fetch(self, reader: ReadAhead | None, offset: int, length: int) -> memoryview:
        """These bytes, or EIO.  Never fewer: a reader that uses the page cache (sendfile(2), for
        one) takes a short reply for the end of the file (fs/fuse/file.c, fuse_short_read).
        """
        data = self._core.view(offset, length)
        if data is None and (late := self._late_errand()) is not None:
            *place, errand = late
            if place == [offset, length] and not errand.is_awaited:
                data = await self._late_arrival(errand)
        if data is None and reader is not None:
            data = await self._arrival(reader, offset, length)
        return await self._straight(offset, length) if data is None else data

    async def _late_arrival(self, errand: Errand) -> memoryview | None:
        with trio.move_on_after(tuning.now().read_timeout):
            await errand.arrival()
            return errand.take()
        raise self._not_in_time()

    async def _arrival(self, reader: ReadAhead, offset: int, length: int) -> memoryview | None:
        with trio.move_on_after(tuning.now().read_timeout):
            return await reader.arrival(offset, length)
        reader.close()  # its thread hangs
        raise self._not_in_time()

    async def _straight(self, offset: int, length: int) -> memoryview:
        data = self._buffers.desk[:length]
        if self._core.read_here(offset, data):
            return data
        store = self._buffers.take(LARGEST_REQUEST)
        await self._read_in_a_thread(offset, memoryview(store)[:length])
        data[:] = memoryview(store)[:length]
        self._buffers.give_back(store)
        return data

    async def _read_in_a_thread(self, offset: int, buffer: memoryview) -> None:
        done = 0
        sources: frozenset[str] = frozenset()
        limiter = self._reads
        with trio.move_on_after(tuning.now().read_timeout), contextlib.ExitStack() as stack:
            while True:
                try:
                    await in_thread(
                        self._core.pid,
                        limiter,
                        self._wait_and_read if sources else self._core.read_into,
                        offset + done,
                        buffer[done:],
                        sources,
                    )
                except MayWait as wait:
                    done += wait.done
                    # That source alone: its place among the waiting threads is taken.
                    sources = frozenset((wait.source,))
                    limiter = stack.enter_context(self._waits.of(wait.source))
                else:
                    return
        raise self._not_in_time()

    def _not_in_time(self) -> ProcessError:
        return ProcessError(Reason.STUCK, self._core.pid, f"{tuning.now().read_timeout:g} s")

    # These run in threads.

    def _wait_and_read(self, offset: int, buffer: memoryview, sources: frozenset[str]) -> None:
        token = object()
        self._waiting.add(token)
        try:
            self._core.read_into(offset, buffer, sources)
        finally:
            self._waiting.discard(token)

    def _read_ahead(self, offset: int, buffer: memoryview) -> int:
        try:
            self._core.read_into(offset, buffer, ())  # waits for nobody who may not answer
        except MayWait as wait:
            return wait.done
        except (OSError, MemoryError):
            return 0
        return len(buffer)
