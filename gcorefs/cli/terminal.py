"""Output to a terminal that never waits for the reader.

The process that we hold may be the reader of our output (a terminal emulator, tmux, sshd).  While
it is stopped it reads nothing, so a blocking write(2) would block for ever.
"""

import errno
import io
import os
import select
import time

_SHOW_CURSOR = b"\x1b[?25h"
_FINISH_TIMEOUT = 0.5


class Terminal(io.TextIOBase):
    """Drops text that does not fit.  If a part of a text fitted, the rest follows later."""

    def __init__(self, fd: int) -> None:
        """OSError: `fd` is not a terminal, or cannot be opened again."""
        if not os.isatty(fd):
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        # Open it again: O_NONBLOCK belongs to the open file, which other processes share.
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
        """Show the cursor again.  Call it when no process is held any more."""
        self._rest += _SHOW_CURSOR
        deadline = time.monotonic() + _FINISH_TIMEOUT
        while not self._write_rest() and time.monotonic() < deadline:
            select.select([], [self._fd], [], _FINISH_TIMEOUT / 10)

    def _write_rest(self) -> bool:
        """True if nothing is left to write."""
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
