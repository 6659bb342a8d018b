"""Work for another thread (Worker, ahead), or for a later time (Postponed)."""

import contextlib
import queue
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar

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
    """What `read` gives, call after call, up to the last.  If there is more than one, the next ones
    are read in a thread of this name while the caller uses this one.  NoThread.

    A caller that stops early, by whatever error, is about to close what is read.  So the end of the
    generator waits until nothing reads any more.
    """
    found = read()
    if is_last(found):
        yield found
        return
    with contextlib.closing(_Ahead(name, read, is_last)) as pieces:
        while not is_last(found):
            yield found
            found = pieces.next()
        yield found


class _Ahead(Generic[T]):
    """Pieces that a thread reads before somebody asks for them, but only a few.

    It goes on by itself.  If it waited to be asked for each piece, it would then wait for the
    interpreter lock too, until the caller has used the piece before: nothing would be read
    meanwhile.
    """

    def __init__(self, name: str, read: Callable[[], T], is_last: Callable[[T], bool]) -> None:
        self._read = read
        self._is_last = is_last
        self._found: queue.SimpleQueue[Future[T] | None] = queue.SimpleQueue()
        self._room = threading.Semaphore()
        self._is_wanted = True
        start_thread(name, self._run)

    def _run(self) -> None:
        try:
            while self._is_wanted:
                piece: Future[T] = Future()
                _fulfil(piece, self._read)
                self._found.put(piece)
                if piece.exception() is not None or self._is_last(piece.result()):
                    return
                del piece  # whoever uses it may be the last to do so
                self._room.acquire()
        finally:
            self._found.put(None)

    def next(self) -> T:
        """Block until the next piece is there.  The errors of `read`."""
        piece = self._found.get()
        assert piece is not None, "nothing is behind the last piece"
        self._room.release()
        return piece.result()

    def close(self) -> None:
        """Block until the thread reads no more."""
        self._is_wanted = False
        self._room.release()
        while self._found.get() is not None:
            pass


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
