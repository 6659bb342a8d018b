"""A sink that compresses a core, so that any part of it can be had without the rest.

Each FRAME bytes are a zstd frame of their own, and a table at the end says where each one is
(seek_table.py).  zstd(1) and all that read zstd files read it from the beginning.
"""

import errno
import os
from array import array
from collections import deque
from concurrent.futures import Future

import zstandard

from gcorefs.export import seek_table
from gcorefs.export.sink import Sink, SinkError
from gcorefs.process.threads import NoThread
from gcorefs.process.worker_threads import Worker

FRAME = 1 << 20
"""Bytes of a core in one frame.  Measured with a Python process of 130 MiB: 256 KiB make the file
larger by 8 %, and more than 1 MiB make it no smaller, as long as nothing repeats from afar."""

DEFAULT_LEVEL = 3
"""As zstd(1)."""

_ZEROS = bytes(FRAME)
_MOST_THREADS = 16
_END_TIMEOUT = 5.0
"""Seconds in which a frame is compressed in any case."""


class _Compressor:
    """Compresses one frame after the other in a thread of its own."""

    def __init__(self, level: int) -> None:
        self._zstd = zstandard.ZstdCompressor(level=level, write_checksum=True)
        self._worker: Worker | None = Worker("gcorefs-zstd")

    def compress(self, frame: bytearray) -> "Future[bytes]":
        if self._worker is not None:
            try:
                return self._worker.submit(self._zstd.compress, frame)
            except NoThread:
                self._worker = None
        future: Future[bytes] = Future()
        future.set_result(self._zstd.compress(frame))
        return future

    def close(self, timeout: float) -> None:
        if self._worker is not None:
            self._worker.join(timeout)


class CompressedSink:
    """Compresses with all processors, and writes the frames in order to another sink."""

    def __init__(self, to: Sink, level: int) -> None:
        """`to` is committed and aborted with this sink.  MemoryError: it is aborted."""
        self._to = to
        threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
        try:
            self._compressors = [_Compressor(level) for _ in range(threads)]
        except BaseException:
            to.abort()
            raise
        self._next = 0
        self._frame = bytearray()
        self._coming: deque[tuple[int, Future[bytes]]] = deque()
        self._zeros: Future[bytes] | None = None
        self._sizes = array("I")

    def write(self, data: memoryview) -> None:
        while data:
            room = FRAME - len(self._frame)
            self._frame += data[:room]
            data = data[room:]
            if len(self._frame) == FRAME:
                self._compress()

    def commit(self) -> None:
        if self._frame:
            self._compress()
        while self._coming:
            self._write_first()
        self._to.write(memoryview(seek_table.packed(self._sizes)))
        self._close()
        self._to.commit()

    def abort(self) -> None:
        self._coming.clear()
        self._close()
        self._to.abort()

    def _compress(self) -> None:
        """Have the frame compressed, and go on with an empty one."""
        frame, self._frame = self._frame, bytearray()
        if len(self._sizes) // 2 + len(self._coming) == seek_table.MOST_FRAMES:
            raise SinkError("zstd", OSError(errno.EFBIG, "a seek table has no room for more"))
        # Holes are zeros: they must cost no more than a look (memcmp(3)).
        if frame == _ZEROS:
            self._zeros = self._zeros or self._begun(frame)
            future = self._zeros
        else:
            future = self._begun(frame)
        self._coming.append((len(frame), future))
        while len(self._coming) > 2 * len(self._compressors):
            self._write_first()

    def _begun(self, frame: bytearray) -> "Future[bytes]":
        self._next = (self._next + 1) % len(self._compressors)
        return self._compressors[self._next].compress(frame)

    def _write_first(self) -> None:
        length, future = self._coming.popleft()
        try:
            frame = future.result()
        except zstandard.ZstdError as error:  # nothing but memory can be missing
            raise MemoryError(str(error)) from error
        self._to.write(memoryview(frame))
        self._sizes.extend((len(frame), length))

    def _close(self) -> None:
        for each in self._compressors:
            each.close(_END_TIMEOUT)
