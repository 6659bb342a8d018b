"""Work for another thread (Worker, ahead), or for a later time (Postponed)."""

import contextlib
import queue
from collections.abc import Callable, Generator
from concurrent.futures import Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

from gcorefs.process.threads import Running, start_thread

P = ParamSpec("P")
T = TypeVar("T")


class Worker:
    """Makes one call after the other in a thread, which starts with the first call.

    The interpreter waits at its end for threads of concurrent.futures, but not for this one.  If
    it waits for a page that never comes, the command can end all the same.
    """

    def __init__(self, name: str = "gcorefs-worker") -> None:
        self._name = name
        self._calls: queue.SimpleQueue[Callable[[], None] | None] | None = None
        self._thread: Running | None = None

    def submit(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Have a call made after all earlier ones.  The Future has its result.  NoThread."""
        future: Future[Any] = Future()
        if self._calls is None:
            calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
            self._thread = start_thread(self._name, _run, calls)
            self._calls = calls
        self._calls.put(partial(_fulfil, future, partial(call, *args, **kwargs)))
        return future

    def promise(self, work: Callable[[], T]) -> Callable[[], T]:
        """Begin `work` now.  The returned function waits for the result.  NoThread."""
        return self.submit(work).result

    def close(self) -> None:
        """End the thread after the calls that it already has.  A later call starts another one."""
        if self._calls is not None:
            self._calls.put(None)
            self._calls = None

    def has_ended(self, timeout: float) -> bool:
        """Close it, and wait as `join` does.  False if its thread still makes a call then."""
        self.join(timeout)
        return self._thread is None or self._thread.has_ended

    def join(self, timeout: float) -> None:
        """Close it, and wait until its thread has ended, but for `timeout` seconds at most."""
        self.close()
        if self._thread is not None:
            self._thread.join(timeout)


def _run(calls: "queue.SimpleQueue[Callable[[], None] | None]") -> None:
    while (call := calls.get()) is not None:
        call()
        del call  # free what it refers to before the wait for the next call


def _fulfil(future: "Future[Any]", call: Callable[[], Any]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:  # `result` of the future raises it
        future.set_exception(error)
        del future  # the traceback refers to this frame, which would make a cycle


def ahead(
    name: str, read: Callable[[], T], is_last: Callable[[T], bool]
) -> Generator[T, None, None]:
    """What `read` gives, call after call, up to the last.  If there is more than one, the next is
    read in a thread of this name while the caller uses this one.  NoThread."""
    found = read()
    if is_last(found):
        yield found
        return
    with contextlib.closing(Worker(name)) as reader:
        while not is_last(found):
            coming = reader.submit(read)
            try:
                yield found
            finally:  # a caller that stops early, by whatever error, is about to close what is read
                found = coming.result()
        yield found


class Postponed:
    """Keeps pieces of work until `do`.  A thread that asks for a result before that blocks."""

    def __init__(self) -> None:
        self._work: list[tuple[Callable[[], bytes], Future[bytes]]] = []

    def promise(self, work: Callable[[], bytes]) -> Callable[[], bytes]:
        """Keep `work` until `do`.  The returned function waits for the result."""
        result: Future[bytes] = Future()
        self._work.append((work, result))
        return result.result

    def do(self) -> None:
        """Do each piece once, in order.

        If a piece raises an error, `do` raises it and does no further piece.  Each question for the
        result of that piece, or of a later one, raises it too.
        """
        work, self._work = self._work[::-1], []
        while work:
            piece, result = work.pop()
            try:
                result.set_result(piece())
            except BaseException as error:
                for failed in (result, *(each for _, each in work)):
                    failed.set_exception(error)
                del work, piece, result, failed  # or this frame makes a cycle with its traceback
                raise
