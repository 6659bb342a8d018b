"""Reads ahead of a reader that goes forward, so that its next bytes are ready.

A copy from the process releases the interpreter lock; a reply to the kernel does not.  So the two
overlap only if a long read is under way while replies are made.  For this there are windows of
several requests.  A thread of the reader fills them one after the other, and one window is served
while the next ones are filled.

First reads and random reads use no window: a debugger that asks for a page gets one page.

There is no count of who still uses a window.  A reply is made as soon as a handler returns, before
the event loop turns again, and a window is filled anew only after a later read has gone past it.

The windows are charged to the user who opened the file (windows.py).  The thread ends when it has
no window to fill, so there are no more threads than windows.
"""

import contextlib
import mmap
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue

import trio

from gcorefs.mount.windows import WINDOWS, Windows
from gcorefs.process.threads import NoThread, start_thread

_RUN = 1 << 20
"""Bytes that must be read in a row before we read ahead."""

Fill = Callable[[int, memoryview], int]
"""Fills a buffer from an offset of the file, in a thread, and returns the number of bytes.  Raises
nothing: the reader that asks for the missing bytes meets the error itself."""

GiveBack = Callable[[mmap.mmap], None]


class _Window:
    """A part of the file, from `start` to `end`.  It is being read, or is ready up to `good`."""

    def __init__(self, start: int, end: int, store: mmap.mmap, give_back: GiveBack) -> None:
        self.start = start
        self.end = end
        self.good = start
        self.store = store
        self.view = memoryview(store)
        self.is_wanted = True
        self.is_done = False
        self._give_back = give_back
        self._is_given_back = False
        self._arrived: trio.Event | None = None
        self._token = trio.lowlevel.current_trio_token()

    def fill(self, fill: Fill) -> None:
        """Called in the reader's thread."""
        if self.is_wanted:
            self.good += fill(self.start, self.view[: self.end - self.start])
        # In this order; `arrival` and `drop` have the reverse.  So one of the two sees the other.
        self.is_done = True
        if self._arrived is not None:
            self._tell(self._arrived.set)
        if not self.is_wanted:
            self._tell(self.drop)

    def _tell(self, call: Callable[[], object]) -> None:
        with contextlib.suppress(trio.RunFinishedError):  # the event loop is gone
            self._token.run_sync_soon(call)

    def drop(self) -> None:
        """Nobody wants it.  Its memory is free when the thread no longer writes into it."""
        self.is_wanted = False
        if self.is_done and not self._is_given_back:
            self._is_given_back = True
            self._give_back(self.store)

    def cut(self, offset: int, end: int) -> memoryview | None:
        """The bytes from `offset` to `end`; None if not all of them are ready."""
        if self.start <= offset and end <= self.good and self.is_done:
            return self.view[offset - self.start : end - self.start]
        return None

    async def arrival(self) -> None:
        """Wait until it is as full as it will get."""
        if self._arrived is None:
            self._arrived = trio.Event()
        if not self.is_done:
            await self._arrived.wait()


class ReadAhead:
    """The reads of one handle, of a file of `size` bytes, in the event loop."""

    def __init__(
        self, fill: Fill, size: int, windows: Windows, uid: int = 0, name: str = ""
    ) -> None:
        """`windows`: the source of memory; `uid`: who is charged; `name`: of the thread."""
        self.uid = uid
        self._fill = fill
        self._size = size
        self._account = windows
        self._name = name
        self._next = 0
        self._run = 0
        self._windows: deque[_Window] = deque()  # each begins at the end of the previous one
        self._to_fill: SimpleQueue[_Window | None] | None = None
        self._is_read = False
        self._is_closed = False

    def piece(self, offset: int, length: int) -> memoryview | None:
        """These bytes if they have been read ahead, good until the event loop turns; else None.

        Call it once for every read.
        """
        windows = self._windows
        end = offset + length
        self._is_read = True
        if offset == self._next and len(windows) == WINDOWS:
            # The usual case: the read goes on in the first window, and enough windows follow.
            data = windows[0].cut(offset, end)
            if data is not None:
                self._run += length
                self._next = end
                return data
        self._run = self._run + length if offset == self._next else length
        self._next = end
        if windows and not windows[0].start <= offset < end <= windows[-1].end:
            self._drop_all()
        while windows and windows[0].end <= offset:
            windows.popleft().drop()
        if (windows or self._run > _RUN) and not self._is_closed:
            self._look_ahead(end)
        if not windows:
            self._end_thread()
            if self._run <= _RUN:
                self._account.leave(self)
        return self._cut(offset, length)

    def is_coming(self, offset: int, length: int) -> bool:
        """True if `arrival` of these bytes is worth waiting for."""
        return any(not each.is_done for each in self._of(offset, length))

    async def arrival(self, offset: int, length: int) -> memoryview | None:
        """Wait until these bytes have been read.  None if they could not be read."""
        for each in self._of(offset, length):
            await each.arrival()
        return self._cut(offset, length)

    def tidy(self) -> None:
        """Give all windows back if nobody has read since the last call."""
        if not self._is_read:
            self._drop_all()
            self._end_thread()
            self._account.leave(self)
        self._is_read = False

    def close(self) -> None:
        """Stop reading ahead.  The thread ends after its current window."""
        self._is_closed = True
        self._drop_all()
        self._end_thread()
        self._account.leave(self)

    def _of(self, offset: int, length: int) -> list[_Window]:
        windows = self._windows
        if not windows or offset < windows[0].start or offset + length > windows[-1].end:
            return []
        return [each for each in windows if each.start < offset + length and each.end > offset]

    def _cut(self, offset: int, length: int) -> memoryview | None:
        end = offset + length
        if not self._windows:
            return None
        data = self._windows[0].cut(offset, end)
        if data is not None:
            return data
        parts = self._of(offset, length)
        if not parts or not all(each.is_done and min(end, each.end) <= each.good for each in parts):
            return None
        pieces = (
            each.view[max(offset, each.start) - each.start : min(end, each.end) - each.start]
            for each in parts
        )
        return memoryview(b"".join(pieces))

    def _look_ahead(self, offset: int) -> None:
        """Have windows filled behind the existing ones, or from `offset` on, if there is memory
        and a thread for them."""
        self._account.enter(self)
        while len(self._windows) < WINDOWS:
            start = self._windows[-1].end if self._windows else offset
            if start >= self._size:
                return
            store = self._account.take(self)
            if store is None:
                return
            give_back = partial(self._account.give_back, self)
            window = _Window(start, min(start + len(store), self._size), store, give_back)
            try:
                self._filler().put(window)
            except NoThread:
                give_back(store)
                return
            self._windows.append(window)

    def _filler(self) -> "SimpleQueue[_Window | None]":
        """The queue from which the thread takes windows.  NoThread."""
        if self._to_fill is None:
            to_fill: SimpleQueue[_Window | None] = SimpleQueue()
            start_thread(self._name, _fill_each, to_fill, self._fill)
            self._to_fill = to_fill
        return self._to_fill

    def _end_thread(self) -> None:
        """End the thread when it has filled its windows."""
        if self._to_fill is not None:
            self._to_fill.put(None)
            self._to_fill = None

    def _drop_all(self) -> None:
        while self._windows:
            self._windows.popleft().drop()


def _fill_each(windows: "SimpleQueue[_Window | None]", fill: Fill) -> None:
    while (window := windows.get()) is not None:
        window.fill(fill)
