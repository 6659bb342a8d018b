"""Work for which nothing has to wait that is done now."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Meanwhile:
    """Does pieces of work in a thread, one after the other, while its owner goes on: for what
    lets go of the interpreter lock nearly all the time."""

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None

    def __call__(self, work: Callable[[], T]) -> Callable[[], T]:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "gcorefs-meanwhile")
        return self._thread.submit(work).result

    def close(self) -> None:
        """What was begun is ended, and what comes later has another thread."""
        if self._thread is not None:
            self._thread.shutdown(wait=False)
            self._thread = None


class Postponed:
    """Keeps pieces of work until they are done; who asks for a result before waits."""

    def __init__(self) -> None:
        self._work: list[tuple[Callable[[], bytes], Future[bytes]]] = []

    def __call__(self, work: Callable[[], bytes]) -> Callable[[], bytes]:
        result: Future[bytes] = Future()
        self._work.append((work, result))
        return result.result

    def do(self) -> None:
        """All of it, in order, once.  Raises what one raises, and so does to ask for its result or
        that of a later one."""
        work, self._work = self._work, []
        try:
            for piece, result in work:
                result.set_result(piece())
        except BaseException as error:
            for _, result in work:
                if not result.done():
                    result.set_exception(error)
            raise
