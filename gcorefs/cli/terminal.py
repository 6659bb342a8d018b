"""A terminal that is written to without waiting for whoever reads it.

The process that we hold may be the one that shows our output (a terminal emulator, tmux,
sshd): stopped, it reads nothing, and a write(2) that waited for it would wait for ever.
"""

import errno
import io
import os
import select
import time

_SHOW_CURSOR = b"\x1b[?25h"
_FINISH_TIMEOUT = 0.5


class Terminal(io.TextIOBase):
    """What does not fit is dropped, but for the rest of a piece that fitted in part."""

    def __init__(self, fd: int) -> None:
        """The terminal that is open as `fd`.  OSError: it is none, or cannot be opened again."""
        if not os.isatty(fd):
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        # Opened again, for O_NONBLOCK belongs to an open file, and that one is others' too.
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        self._fd = os.open(f"/proc/self/fd/{fd}", flags)
        self._rest = b""

    def isatty(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self._write_rest():
            self._rest = text.encode("utf-8", "replace")
            self._write_rest()
        return len(text)

    def finish(self) -> None:
        """Leave the cursor as it was, once nobody is held any more."""
        self._rest += _SHOW_CURSOR
        deadline = time.monotonic() + _FINISH_TIMEOUT
        while not self._write_rest() and time.monotonic() < deadline:
            select.select([], [self._fd], [], _FINISH_TIMEOUT / 10)

    def _write_rest(self) -> bool:
        """True when nothing is left."""
        try:
            while self._rest:
                self._rest = self._rest[os.write(self._fd, self._rest) :]
        except BlockingIOError:
            return False
        except OSError:  # hung up
            self._rest = b""
        return True

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)
