"""Work that somebody else does, or that is done at another time."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

from gcorefs.process.threads import start_thread

P = ParamSpec("P")
T = TypeVar("T")


class Worker:
    """Does one call after the other, in a thread that begins with the first of them.

    Nobody waits for it when the interpreter ends, as for the threads of concurrent.futures: one
    that reads a page that never comes would keep the command from ending.
    """

    def __init__(self, name: str = "gcorefs-worker") -> None:
        self._name = name
        self._calls: queue.SimpleQueue[Callable[[], None] | None] | None = None
        self._thread: threading.Thread | None = None

    def submit(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """NoThread."""
        future: Future[Any] = Future()
        if self._calls is None:
            calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
            self._thread = start_thread(self._name, _run, calls)
            self._calls = calls
        self._calls.put(partial(_fulfil, future, partial(call, *args, **kwargs)))
        return future

    def promise(self, work: Callable[[], T]) -> Callable[[], T]:
        """Have it done meanwhile: a call of what is returned waits for the result."""
        return self.submit(work).result

    def close(self) -> None:
        """What was begun is ended, and what comes later has another thread."""
        if self._calls is not None:
            self._calls.put(None)
            self._calls = None

    def has_ended(self, timeout: float) -> bool:
        """The same.  False if it still works at something then."""
        self.join(timeout)
        return self._thread is None or not self._thread.is_alive()

    def join(self, timeout: float) -> None:
        """Close it, and wait until its thread has ended: `timeout` seconds at most."""
        self.close()
        if self._thread is not None:
            self._thread.join(timeout)


def _run(calls: "queue.SimpleQueue[Callable[[], None] | None]") -> None:
    while (call := calls.get()) is not None:
        call()
        del call  # and what it holds, while there is no other


def _fulfil(future: "Future[Any]", call: Callable[[], Any]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:  # handed to whoever asks for the result
        future.set_exception(error)
        del future  # this frame is in its traceback: nothing is to go in a circle


class Postponed:
    """Keeps pieces of work until they are done; who asks for a result before waits."""

    def __init__(self) -> None:
        self._work: list[tuple[Callable[[], bytes], Future[bytes]]] = []

    def promise(self, work: Callable[[], bytes]) -> Callable[[], bytes]:
        """Have it done later: a call of what is returned waits for the result."""
        result: Future[bytes] = Future()
        self._work.append((work, result))
        return result.result

    def do(self) -> None:
        """All of it, in order, once.  Raises what one raises, and so does to ask for its result or
        that of a later one."""
        work, self._work = self._work[::-1], []
        while work:
            piece, result = work.pop()
            try:
                result.set_result(piece())
            except BaseException as error:
                for failed in (result, *(each for _, each in work)):
                    failed.set_exception(error)
                del work, piece, result, failed  # as above
                raise
