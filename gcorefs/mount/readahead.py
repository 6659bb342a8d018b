"""Reads ahead of a reader that goes forward, so that it finds its bytes waiting.

The copy out of the process lets go of the interpreter lock and the reply to the kernel does
not.  So the two overlap only where a long read is already under way while replies are made:
windows of several requests, filled in threads, one being served and the next ones coming.

First and random reads go straight: a debugger that wants a page gets a page.
"""

import errno
from collections.abc import Awaitable, Callable

import trio

from gcorefs.mount.buffers import Buffers

WINDOW = 4 << 20
_AHEAD = 2
"""Windows that are filled while one is served."""

_RUN = 1 << 20
"""Bytes read in a row before anybody reads ahead."""

Fill = Callable[[int, memoryview], Awaitable[None]]


class _Window:
    """Part of the file, from `offset` on, in a buffer that is being filled or is full."""

    def __init__(self, offset: int, buffer: memoryview) -> None:
        self.offset = offset
        self.buffer = buffer
        self.end = offset + len(buffer)
        # What a reader is told unless the buffer has really been filled.
        self._error: OSError | None = OSError(errno.EIO, "the mount is ending")
        self.has_failed = False
        self._done = trio.Event()

    async def fill(self, fill: Fill) -> None:
        try:
            await fill(self.offset, self.buffer)
            self._error = None
        except Exception as error:  # the reader's, in whose request it belongs
            self.has_failed = True
            self._error = error if isinstance(error, OSError) else OSError(errno.EIO, repr(error))
        finally:
            self._done.set()

    async def piece(self, buffers: Buffers, offset: int, length: int) -> memoryview:
        await self._done.wait()
        if self._error is not None:
            raise self._error
        start = offset - self.offset
        return buffers.part(self.buffer, start, start + length)


class ReadAhead:
    """The reads of one handle.  `fill` fills a buffer from an offset of the file."""

    def __init__(self, fill: Fill, size: int, buffers: Buffers, nursery: trio.Nursery) -> None:
        self._fill = fill
        self._size = size
        self._buffers = buffers
        self._nursery = nursery
        self._next = 0
        self._run = 0
        self._windows: list[_Window] = []
        self._careful_until = 0
        """The end of a window that could not be had: one page of it costs the read that wants
        it, and no other."""

    async def read(self, offset: int, length: int) -> memoryview:
        """Exactly `length` bytes, all within the file."""
        self._run = self._run + length if offset == self._next else length
        self._next = offset + length
        if self._run <= _RUN or offset < self._careful_until:
            self._windows.clear()
        else:
            self._look_ahead(offset)
            window = self._windows[0]
            if window.offset <= offset and offset + length <= window.end:
                try:
                    return await window.piece(self._buffers, offset, length)
                except OSError:
                    if not window.has_failed:
                        raise
                    self._careful_until = window.end
                    self._windows.clear()
        buffer = self._buffers.lend(length)
        await self._fill(offset, buffer)
        return buffer

    def _look_ahead(self, offset: int) -> None:
        """Windows from the one that holds `offset` on; the first is the one to serve from."""
        self._windows = [window for window in self._windows if window.end > offset]
        end = self._windows[-1].end if self._windows else offset
        while len(self._windows) <= _AHEAD and end < self._size:
            window = _Window(end, self._buffers.lend(min(WINDOW, self._size - end)))
            self._windows.append(window)
            self._nursery.start_soon(window.fill, self._fill)
            end = window.end
