"""A server in the background: a process that outlives the command, in a session of its own."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from gcorefs.mount import log
from gcorefs.mount.mountpoints import MountError

Serve = Callable[[Callable[[], None]], None]
"""Serves until the end, and calls its argument when it is ready."""

_STANDARD_ERROR = 2


def open_standard_descriptors() -> None:
    """Open /dev/null for each of the file descriptors 0, 1 and 2 that is closed.

    Call it before `run`.  Otherwise a pipe, the log or another file gets that number, and `run`
    replaces it.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        pass
    os.close(number)


def run(serve: Serve) -> None:
    """Run `serve` in a child.  Return when it is ready, or fail as it fails.  MountError."""
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as pipe:
            message = pipe.read()
        if message != "ready":
            raise MountError(message or "the server ended before it was ready")
        return
    os.close(reading)
    _child(serve, writing)


def _child(serve: Serve, writing: int) -> NoReturn:
    status = 1
    try:
        os.setsid()
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)  # now: later there may be no descriptor left

        def on_ready() -> None:
            # The parent does not wait for us any more.  We must not keep open the terminal or
            # pipe that we were started from: it may belong to a process that we hold.
            for number in (0, 1, 2):
                os.dup2(null, number)
            os.close(null)
            os.write(writing, b"ready")
            os.close(writing)

        serve(on_ready)
        status = 0
    except BaseException as error:  # the parent reports it on the terminal
        try:
            os.write(writing, (str(error) or repr(error)).encode())
        except OSError:
            log.logger.exception("ended")
    finally:
        log.stop()
        if sys.stdout is not None:  # None if it was closed when we were started
            sys.stdout.flush()
        os._exit(status)
