"""The header of a core, in memory that the worker fills and the server reads.

Its size is known before its content: the CPU times of many threads are read last.  So the server
can serve the beginning of a header while the worker makes the end.
"""

import fcntl
import mmap
import os
import threading
from concurrent.futures import Future

from gcorefs.elfcore.layout import Layout
from gcorefs.kernel import own_memory
from gcorefs.kernel.open_file import OpenFile

_PIECE = 1 << 20


class HeaderWriter:
    """In the worker: copies the header of a layout to a memfd."""

    def __init__(self, layout: Layout) -> None:
        """EMFILE, ENOMEM."""
        self._layout = layout
        self.written = 0
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        self.file = OpenFile(os.memfd_create("gcorefs-header", flags))
        os.pwrite(self.file.number, b"\0", layout.memory_offset - 1)
        # The server maps it: nobody must shorten it.
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(self.file.number, fcntl.F_ADD_SEALS, seals)

    @property
    def is_complete(self) -> bool:
        return self.written == self._layout.memory_offset

    def write(self, end: int | None = None) -> None:
        """Write up to `end`, or one more piece.  Blocks until that is made."""
        size = self._layout.memory_offset
        end = min(self.written + _PIECE, size) if end is None else end
        while self.written < end:
            buffer = memoryview(bytearray(min(_PIECE, end - self.written)))
            self._layout.read_header(self.written, buffer)
            self.written += os.pwrite(self.file.number, buffer, self.written)


class SharedHeader:
    """In the server: a header that a worker has made, or makes."""

    def __init__(self, file: OpenFile, size: int, ready: int) -> None:
        self._view = own_memory.map_shared(file.number, size, mmap.PROT_READ)
        self._changed = threading.Condition()
        self._ready = ready
        self.made: Future[None] = Future()
        """Completes when the whole header is made, or fails."""
        if ready == size:
            self.made.set_result(None)

    @property
    def size(self) -> int:
        return len(self._view)

    def grow(self, ready: int) -> None:
        with self._changed:
            self._ready = ready
            if ready == self.size and not self.made.done():
                self.made.set_result(None)
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """There is no more to come."""
        with self._changed:
            if not self.made.done():
                self.made.set_exception(error)
            self._changed.notify_all()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        end = offset + len(buffer)
        if end > self._ready:
            with self._changed:
                self._changed.wait_for(lambda: self._ready >= end or self.made.done())
            if end > self._ready:
                self.made.result()
        buffer[:] = self._view[offset:end]

    def __bytes__(self) -> bytes:
        self.made.result()
        return bytes(self._view)
