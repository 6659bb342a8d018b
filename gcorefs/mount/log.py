"""A log that never waits for its reader.

The process that we hold may be the one that reads our messages: the log daemon, or the other end of
the pipe that is our stderr.  So a message goes into a queue, and another thread writes it.  If the
queue is full, messages are dropped and counted.

Nobody waits for that thread without a bound either, above all not at the end.  So it holds no lock
while it writes: no handler's lock, which logging.shutdown takes, and no lock of a Python stream,
without which the interpreter does not end.
"""

import atexit
import contextlib
import errno
import logging
import os
import queue
import sys
from logging.handlers import QueueHandler, SysLogHandler
from typing import Protocol

from gcorefs.export.lookup import look_up
from gcorefs.export.sink import SinkError, duplicate
from gcorefs.process.threads import start_thread
from gcorefs.telemetry.journal import Journal, is_journal, priority

_MOST_WAITING = 10_000

_END_TIMEOUT = 1.0
"""Seconds at the end in which the reader of the log may take the messages that are left."""

logger = logging.getLogger("gcorefs")


class Counts(Protocol):
    """Counts what the log tells (counts.py)."""

    def add(self, record: logging.LogRecord) -> None:
        """Raises nothing."""

    def write_if_possible(self) -> None:
        """Write the counts to their file.  May wait for a disk."""


class _Unlocked(logging.Handler):
    def handle(self, record: logging.LogRecord) -> bool:
        self.emit(record)  # without a lock: only one thread does this
        return True

    def handleError(self, record: logging.LogRecord) -> None:
        """Do nothing: the reader of stderr may be the one that does not read the log."""


class _Descriptor(_Unlocked):
    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # the reader is gone, or the disk is full
            data = f"{self.format(record)}\n".encode("utf-8", "backslashreplace")
            while data:
                data = data[os.write(self._fd, data) :]


class _Syslog(_Unlocked, SysLogHandler):
    pass


class _Journal(_Unlocked):
    """The journal of systemd, with a field for each fact that a record has (`fields`)."""

    def __init__(self, other: logging.Handler) -> None:
        """`other` gets what the journal does not take."""
        super().__init__()
        self._journal = Journal()
        self._other = other

    def emit(self, record: logging.LogRecord) -> None:
        fields = {
            "MESSAGE": self.format(record),
            "PRIORITY": priority(record.levelno),
            "SYSLOG_IDENTIFIER": "gcorefs",
            **getattr(record, "fields", {}),
        }
        try:
            self._journal.send(fields)
        except OSError:
            self._other.handle(record)


class _DroppingHandler(QueueHandler):
    _dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(queue.Full):
            self.tell_dropped()
            self.queue.put_nowait(record)
            return
        self._dropped += 1

    def tell_dropped(self) -> None:
        if self._dropped:
            text = f"{self._dropped} messages dropped: nobody read the log"
            arguments = {"name": logger.name, "levelname": "WARNING", "levelno": logging.WARNING}
            self.queue.put_nowait(logging.makeLogRecord({**arguments, "msg": text}))
            self._dropped = 0


def is_wanted(record: logging.LogRecord) -> bool:
    """False for an answer that came too late: the caller was killed, or the mount is gone.

    The kernel does not know the request any more (fs/fuse/dev.c, fuse_dev_do_write, ENOENT), and
    pyfuse3 logs this as an error.
    """
    return not (
        record.name == "pyfuse3"
        and "fuse_reply_* failed" in record.getMessage()
        and record.args == (os.strerror(errno.ENOENT),)
    )


def to_stderr() -> logging.Handler:
    """The journal, if that is what reads standard error."""
    handler = _Descriptor(sys.stderr.fileno())
    handler.setFormatter(logging.Formatter("gcorefs: %(levelname)s: %(message)s"))
    return _Journal(handler) if is_journal(sys.stderr.fileno()) else handler


def to_file(path: str) -> logging.Handler:
    """A log that appends to that file, which is created if it does not exist.

    SinkError.  EACCES: another user may have created the file, in a directory that everybody may
    write to, so that our messages go to that user's file (gcorefs/export/lookup.py).
    """
    try:
        handler = _Descriptor(_open_file(path))
    except OSError as error:
        raise SinkError(path, error) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


def _open_file(path: str) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY
    with look_up(path) as entry:
        if entry.descriptor is not None:
            return duplicate(entry.descriptor)
        if entry.is_foreign:
            raise OSError(errno.EACCES, "another user may have put it there")
        if entry.exists:
            return entry.open(flags)
        flags |= os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        return os.open(entry.name, flags, 0o666, dir_fd=entry.directory)


def to_syslog(socket: str = "/dev/log") -> logging.Handler:
    """The system's log.  While there is none, messages are lost; each new message tries again."""
    handler = _Syslog(socket, SysLogHandler.LOG_DAEMON)
    handler.setFormatter(logging.Formatter("gcorefs: %(message)s"))
    return handler


class _Writer:
    def __init__(self, handler: logging.Handler, counts: Counts | None) -> None:
        self._waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(_MOST_WAITING)
        self._handler = handler
        self._counts = counts
        self.entrance = _DroppingHandler(self._waiting)
        self._thread = start_thread("gcorefs-log", self._run)

    def _run(self) -> None:
        while record := self._waiting.get():
            self._handler.handle(record)
            if self._counts is not None:
                self._counts.add(record)
                if self._waiting.empty():  # else once for all that have come together
                    self._counts.write_if_possible()

    def stop(self) -> None:
        with contextlib.suppress(queue.Full):
            self.entrance.tell_dropped()
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=_END_TIMEOUT)
        self._thread.join(_END_TIMEOUT)


def start(handler: logging.Handler, verbose: bool = False, counts: Counts | None = None) -> None:
    """Send the log of this package and of pyfuse3 to `handler`, from a separate thread, which also
    counts.  NoThread."""
    writer = _Writer(handler, counts)
    root = logging.getLogger()
    writer.entrance.addFilter(is_wanted)
    root.addHandler(writer.entrance)
    root.setLevel(logging.INFO)
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    _writers.append(writer)


def stop() -> None:
    """Write the messages that are left, within a bound, and end the thread."""
    while _writers:
        _writers.pop().stop()


_writers: list[_Writer] = []
atexit.register(stop)
