"""Questions that may never be answered, each with a time limit, while a process stands still.

Only the server of a mapped file knows the content of the file and whether it still has a name.  The
server may hang (page_providers.py), so a separate thread asks.  If there is no answer in time, the
thread is abandoned with its question, and nobody asks that source again until it has answered.  So
ten mappings of one hanging file system, or ten stops of one process, do not take ten times as long.

One user may have a thousand sources that do not answer.  So the further sources of one call are
given less and less time before the next one is asked, and an answer that comes later, but within
the time that the first one had, still counts.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Generic, TypeVar

from gcorefs.process.threads import start_thread

T = TypeVar("T")

PATIENCE = 0.5
"""Seconds in which an answer must come."""

_LEAST_PATIENCE = 0.005
"""Seconds before the next source is asked, after many that did not answer."""

AT_WORK = 60.0
"""Seconds for answers that take work, if no process stands still meanwhile.  A thread that uses a
processor is not one that nobody answers: there is much to read, or this machine is slow."""

Question = tuple[str, Callable[[bool], T]]
"""The source of the answer, and the question.  The question is told whether it may wait (True).  If
it may not, it answers without waiting: with MayWait, or with what it knows."""

_lock = threading.Condition()
_silent: Counter[str] = Counter()
"""How many threads wait for each source that did not answer in time."""


_avoided: set[str] = set()
"""Sources that do not answer other processes of ours."""


def avoid(sources: Iterable[str]) -> None:
    """From now on, ask these sources nothing that they may not answer."""
    _avoided.clear()
    _avoided.update(sources)


def silent() -> frozenset[str]:
    """The sources that let a question of this process wait for too long, and still do."""
    with _lock:
        return frozenset(_silent)


def wait_for_answers() -> None:
    """Block until `silent` is empty."""
    with _lock:
        _lock.wait_for(lambda: not _silent)


def ask_each(
    questions: Sequence[Question[T]], otherwise: Callable[[int], T], at_work: float = PATIENCE
) -> list[T]:
    """The answers in order.  `otherwise(n)` stands in for the answer to question n if there is
    none.  `at_work`: seconds that questions may take, all together, as long as they take work.

    Raises the exception of a question.
    """
    answers: list[T | _Late[T]] = []
    patience, work = PATIENCE, _Work(at_work - PATIENCE)
    while len(answers) < len(questions):
        asker = _Asker(questions[len(answers) :])
        answers += asker.wait(patience, work)
        asker.raise_error()
        number = len(answers)
        if number < len(questions):
            answers.append(
                otherwise(number) if patience == PATIENCE else _Late(asker, PATIENCE - patience)
            )
            patience = max(_LEAST_PATIENCE, patience / 2)
    return [
        each.answer(partial(otherwise, number)) if isinstance(each, _Late) else each
        for number, each in enumerate(answers)
    ]


class _Work:
    """The time that all questions of one call may take as long as they take work."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    def take(self, seconds: float) -> bool:
        """False: there is not so much left."""
        self._left -= seconds
        return self._left >= 0


class _Late(Generic[T]):
    """An answer that did not come yet."""

    def __init__(self, asker: "_Asker[T]", left: float) -> None:
        """`left`: how many seconds from now it may still take."""
        self._asker = asker
        self._end = time.monotonic() + left

    def answer(self, otherwise: Callable[[], T]) -> T:
        last = self._asker.last_answer(max(0.0, self._end - time.monotonic()))
        return last[0] if last else otherwise()


class _Asker(Generic[T]):
    """A thread that asks questions one after the other."""

    def __init__(self, questions: Sequence[Question[T]]) -> None:
        self._failure: list[BaseException] = []
        self._questions = questions
        self._clock: int | None = None
        """The time for which the thread has used a processor; None: it has not begun."""
        self._answers: list[T] = []
        self._is_done = threading.Event()
        self._left_at: str | None = None
        self._count = -1
        start_thread("gcorefs-asker", self._run)

    def _run(self) -> None:
        try:
            self._clock = time.pthread_getcpuclockid(threading.get_ident())
            for source, question in self._questions:
                self._answers.append(question(source not in _avoided and not _silent[source]))
                if self._left_at is not None:
                    break
        except BaseException as error:  # handed to the waiting thread
            self._failure.append(error)
        finally:
            with _lock:
                self._is_done.set()
                if self._left_at is not None:
                    _silent[self._left_at] -= 1
                    if not _silent[self._left_at]:
                        del _silent[self._left_at]
                        _lock.notify_all()

    def wait(self, patience: float, work: _Work) -> list[T]:
        """All answers, or the answers before one that takes too long."""
        worked = 0
        while not self._is_done.wait(patience):
            before, worked = worked, self._worked()
            if len(self._answers) > self._count:
                self._count = len(self._answers)
                continue
            if worked > before and work.take(patience):
                continue
            with _lock:
                if self._is_done.is_set():
                    break
                self._count = len(self._answers)
                self._left_at = self._questions[min(self._count, len(self._questions) - 1)][0]
                _silent[self._left_at] += 1
                return self._answers[: self._count]
        return self._answers

    def last_answer(self, patience: float) -> list[T]:
        """After `wait` has given up: the answer for which it waited, or nothing."""
        self._is_done.wait(patience)
        self.raise_error()
        return self._answers[self._count : self._count + 1]

    def raise_error(self) -> None:
        if self._failure:  # pop it: its traceback refers to this frame, which makes a cycle
            raise self._failure.pop()

    def _worked(self) -> int:
        """Nanoseconds for which the thread has used a processor."""
        if self._clock is None:
            return 0
        try:
            return time.clock_gettime_ns(self._clock)
        except OSError:  # it has ended
            return 0
