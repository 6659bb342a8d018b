"""What a worker says about the requests of one stop: the answers, and the headers that it goes on
with.

Everything here runs in the event loop.
"""

from collections.abc import Collection
from itertools import count
from math import inf

import trio

from gcorefs.process.errors import ProcessError
from gcorefs.worker import messages as say
from gcorefs.worker.header import SharedHeader

_numbers = count(1)
"""Numbers for requests.  They are never used twice, because the answer to a request may come when
the worker is at the next stop."""


class WorkerFailed(Exception):
    """gcorefs itself failed in a worker.  The text is the traceback there."""


def error_of(failed: say.Failed) -> Exception:
    if failed.traceback:
        return WorkerFailed(failed.traceback)
    return ProcessError(failed.reason, failed.pid, failed.detail)


def new_number() -> int:
    """For a request."""
    return next(_numbers)


class Answers:
    """Those about the requests of one stop."""

    def __init__(self) -> None:
        self._awaited: dict[int, trio.MemorySendChannel[object]] = {}
        self._headers: dict[int, SharedHeader] = {}
        # What a worker says of a header before the task that waits for the header has its turn.
        self._early: dict[int, list[say.HeaderGrew]] = {}

    def to(self, number: int) -> trio.MemoryReceiveChannel[object]:
        """The answers to a request of that number, until `forget`.  They end if the worker answers
        no more."""
        self._awaited[number], answers = trio.open_memory_channel[object](inf)
        return answers

    def forget(self, number: int) -> None:
        """Nobody waits for more answers to that request."""
        del self._awaited[number]
        self._early.pop(number, None)

    def header(self, made: say.Made) -> SharedHeader:
        """The header of a core, which the worker may still go on with, until `drop_headers`."""
        header = SharedHeader(made.header, made.plan.layout.memory_offset, made.ready)
        self._headers[made.number] = header
        for grown in self._early.pop(made.number, ()):  # no await since the header is there
            header.grow(grown.ready, grown.stored)
        return header

    def hear(self, message: object) -> bool:
        """Take a message of the worker.  False if it is for nobody who waits."""
        match message:
            case say.Fit() | say.Made() | say.Failed() | say.Forked() if (
                message.number in self._awaited
            ):
                self._awaited[message.number].send_nowait(message)
            case say.HeaderGrew() if message.number in self._headers:
                self._headers[message.number].grow(message.ready, message.stored)
            case say.HeaderGrew() if message.number in self._awaited:
                self._early.setdefault(message.number, []).append(message)
            case say.Failed() if message.number in self._headers:
                self._headers[message.number].fail(error_of(message))
            case _:
                return False
        return True

    def end(self) -> None:
        """The worker answers no more."""
        for answers in self._awaited.values():
            answers.close()

    @property
    def headers(self) -> Collection[SharedHeader]:
        """Those of all cores."""
        return self._headers.values()

    def drop_headers(self) -> None:
        """Nobody can read them any more."""
        self._headers.clear()
