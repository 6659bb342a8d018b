"""A log that never waits for whoever reads it.

The process that we hold may be the one that reads our messages: the log daemon, or the far
end of the pipe that is our stderr.  So a message goes into a queue, another thread writes
it, and when the queue is full messages are dropped, not waited for.
"""

import atexit
import contextlib
import logging
import queue
import time
from logging.handlers import QueueHandler, QueueListener, SysLogHandler

from gcorefs.process.errors import ProcessError, Reason

_MOST_WAITING = 10_000
_WINDOW = 10.0  # seconds
_MOST_ALIKE = 1_000
_MOST_KINDS = 1_000

logger = logging.getLogger("gcorefs")


class Refusals:
    """Logs refusals, and of many that are alike the first ones and their number.

    Whoever may open may be refused as often as they like; the log is everybody's.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[Reason, str], tuple[float, int]] = {}

    def log(self, error: ProcessError) -> None:
        kind, now = (error.reason, error.detail), time.monotonic()
        begun, count = self._seen.get(kind, (now, 0))
        if now - begun >= _WINDOW:
            if count > _MOST_ALIKE:
                logger.warning("%s: %d times more", error.reason.text, count - _MOST_ALIKE)
            begun, count = now, 0
        if len(self._seen) >= _MOST_KINDS:
            self._seen.clear()
        self._seen[kind] = begun, count + 1
        if count < _MOST_ALIKE:
            logger.warning("%s", error)


class _DroppingHandler(QueueHandler):
    def enqueue(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(queue.Full):
            self.queue.put_nowait(record)


def to_stderr() -> logging.Handler:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("gcorefs: %(levelname)s: %(message)s"))
    return handler


def to_file(path: str) -> logging.Handler:
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


class _SysLogHandler(SysLogHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Nobody listens now; the next message tries again (logging.handlers, emit)."""


def to_syslog(socket: str = "/dev/log") -> logging.Handler:
    """The system's log; nowhere while there is none."""
    handler = _SysLogHandler(socket, SysLogHandler.LOG_DAEMON)
    handler.setFormatter(logging.Formatter("gcorefs: %(message)s"))
    return handler


def start(handler: logging.Handler, verbose: bool = False) -> None:
    """Send the log of this package and of pyfuse3 to `handler`, from a thread of its own."""
    waiting: queue.Queue[logging.LogRecord] = queue.Queue(_MOST_WAITING)
    listener = QueueListener(waiting, handler)
    root = logging.getLogger()
    root.addHandler(_DroppingHandler(waiting))
    root.setLevel(logging.INFO)
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    listener.start()
    _listeners.append(listener)


def stop() -> None:
    """Write what still waits, and end the thread."""
    while _listeners:
        _listeners.pop().stop()


_listeners: list[QueueListener] = []
atexit.register(stop)
