"""The header of a core, in memory that the worker fills and the server reads.

The worker knows the size of a header before all of its content, because it reads the CPU times of
many threads last.  So the server can serve the beginning while the worker makes the end.

The beginning is mapped.  The end has the notes of many threads, which are mostly zeros.  It is
divided into rows, and each row is compressed (header_store.py says why).
"""

import fcntl
import mmap
import os
import threading
from concurrent.futures import Future
from functools import partial

from gcorefs.elfcore.header_store import Rows, compress
from gcorefs.elfcore.layout import Layout
from gcorefs.kernel import own_memory
from gcorefs.kernel.open_file import OpenFile

_ROW = 1 << 20


class HeaderWriter:
    """In the worker: copies the header of a layout to a memfd."""

    def __init__(self, layout: Layout) -> None:
        """EMFILE, ENOMEM."""
        self._layout = layout
        self.written = 0
        """Bytes of the header that are in the file."""
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        self.file = OpenFile(os.memfd_create("gcorefs-header", flags))
        # The server maps it.  If somebody shortened it, a read there would be SIGBUS.
        fcntl.fcntl(self.file.number, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)

    @property
    def is_complete(self) -> bool:
        return self.written == self._layout.memory_offset

    def write(self, end: int) -> None:
        """Write up to `end`, not compressed.  This blocks until that part is made."""
        while self.written < end:
            data = self._read(end)
            self._append(data)
            self.written += len(data)

    def write_row(self) -> int:
        """Write one more row, and return how many bytes it takes in the file.  This blocks until
        the row is made."""
        data = self._read(self._layout.memory_offset)
        packed = compress(data)
        self._append(packed)
        self.written += len(data)
        return len(packed)

    def _read(self, end: int) -> bytearray:
        """The next row at the most."""
        data = bytearray(min(_ROW, end - self.written))
        self._layout.read_header(self.written, memoryview(data))
        return data

    def _append(self, data: bytes | bytearray) -> None:
        done = 0
        while done < len(data):
            done += os.write(self.file.number, memoryview(data)[done:])


class SharedHeader:
    """In the server: a header that a worker has made, or is making."""

    def __init__(self, file: OpenFile, size: int, ready: int) -> None:
        """`ready`: how many bytes at the beginning of the file are not compressed."""
        self.size = size
        self.made: Future[None] = Future()
        """Completes when the whole header is made, or fails."""
        self._beginning = own_memory.map_shared(file.number, ready, mmap.PROT_READ)
        self._file = file if ready < size else None
        self._rows = Rows()
        self._stored = ready  # bytes of the file: the next row begins there
        self._changed = threading.Condition()
        self._ready = ready
        if ready == size:
            self.made.set_result(None)

    def grow(self, ready: int, stored: int) -> None:
        """One more row is made, and takes `stored` bytes in the file.  The first `ready` bytes of
        the header are made now."""
        with self._changed:
            assert self._file is not None
            self._rows.append(partial(os.pread, self._file.number, stored, self._stored))
            self._stored += stored
            self._ready = ready
            if ready == self.size and not self.made.done():
                self.made.set_result(None)
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """The worker makes no more of it."""
        with self._changed:
            if not self.made.done():
                self.made.set_exception(error)
            self._changed.notify_all()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Block until these bytes are made, and copy them.  Raises the error of `fail`."""
        end = offset + len(buffer)
        if end > self._ready:
            with self._changed:
                self._changed.wait_for(lambda: self._ready >= end or self.made.done())
            if end > self._ready:
                self.made.result()
        found = self._beginning[offset:end]
        buffer[: len(found)] = found
        done = len(found)
        while done < len(buffer):
            number, start = divmod(offset + done - len(self._beginning), _ROW)
            part = self._rows[number][start : start + len(buffer) - done]
            buffer[done : done + len(part)] = part
            done += len(part)

    def __bytes__(self) -> bytes:
        self.made.result()
        buffer = bytearray(self.size)
        self.read_into(0, memoryview(buffer))
        return bytes(buffer)
