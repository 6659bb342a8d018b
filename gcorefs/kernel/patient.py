"""Writes all of something, also to a pipe, socket or terminal with O_NONBLOCK.

Another process that shares the open file may have set that (ssh(1), node, asyncio).  A text stream
of Python loses what such a file does not take at once, and raises nothing.
"""

import io
import os
import select
import sys
from typing import Any


def write_all(fd: int, data: memoryview) -> None:
    """OSError."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()


class _Patient(io.RawIOBase):
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        write_all(self._fd, view)
        return len(view)


def replace_text_streams() -> None:
    """From now on sys.stdout and sys.stderr lose nothing."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        # One that was closed has no file (gcorefs/__main__.py).
        if isinstance(stream, io.TextIOWrapper) and not isinstance(stream.buffer, io.BytesIO):
            # Without a buffer: after an error, the end of the interpreter would try to write what
            # is left in it, and fail.
            raw: Any = _Patient(stream.fileno())
            patient = io.TextIOWrapper(raw, stream.encoding, stream.errors, write_through=True)
            setattr(sys, name, patient)
