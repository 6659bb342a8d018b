"""Starts threads of our own.  The kernel may refuse to start another one."""

import errno
import threading
from collections.abc import Callable
from typing import ParamSpec

from gcorefs.errors import GcorefsError

P = ParamSpec("P")


class NoThread(GcorefsError, OSError):
    """EAGAIN: no further thread can be started (pthread_create(3)).  The limit is RLIMIT_NPROC,
    threads-max, or pids.max of a control group."""

    def __init__(self) -> None:
        super().__init__(errno.EAGAIN, "no further thread can be started")


def is_no_thread(error: BaseException) -> bool:
    """True for the error of CPython if pthread_create(3) fails (Modules/_threadmodule.c)."""
    return isinstance(error, RuntimeError) and "can't start new thread" in str(error)


def start_thread(
    name: str, call: Callable[P, None], *args: P.args, **kwargs: P.kwargs
) -> threading.Thread:
    """Run `call` in a new thread.  The interpreter does not wait for it at its end.  NoThread."""
    thread = threading.Thread(target=call, name=name, args=args, kwargs=kwargs, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        if is_no_thread(error):
            raise NoThread from error
        raise
    return thread
