"""A thread that does one call after the other, and that nobody waits for at the end.

The threads of concurrent.futures are waited for when the interpreter ends, and one that reads
a page that never comes would keep the command from ending.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Worker:
    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="gcorefs-worker", daemon=True).start()

    def submit(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        future: Future[Any] = Future()

        def fulfil() -> None:
            try:
                future.set_result(call(*args, **kwargs))
            except BaseException as error:  # handed to whoever asks for the result
                future.set_exception(error)

        self._calls.put(fulfil)
        return future

    def _run(self) -> None:
        while True:
            self._calls.get()()
