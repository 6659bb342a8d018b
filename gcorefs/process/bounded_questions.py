"""Questions that may never be answered, each with a time limit, while a process stands still.

Only the server of a mapped file knows the content of the file and whether it still has a name.  The
server may hang (page_providers.py), so a separate thread asks.  If there is no answer in time, the
thread is abandoned with its question, and nobody asks that source again until it has answered.  So
ten mappings of one hanging file system, or ten stops of one process, do not take ten times as long.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from gcorefs.process.threads import start_thread

T = TypeVar("T")

PATIENCE = 0.5
"""Seconds in which an answer must come."""

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


def ask_each(questions: Sequence[Question[T]], otherwise: Callable[[int], T]) -> list[T]:
    """The answers in order.  `otherwise(n)` stands in for the answer to question n if there is
    none.

    Raises the exception of a question.
    """
    answers: list[T] = []
    while len(answers) < len(questions):
        asker = _Asker(questions[len(answers) :])
        answered = asker.wait()
        answers += answered
        error, asker.error = asker.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame, which makes a cycle
        if len(answers) < len(questions):
            answers.append(otherwise(len(answers)))
    return answers


class _Asker(Generic[T]):
    """A thread that asks questions one after the other."""

    def __init__(self, questions: Sequence[Question[T]]) -> None:
        self.error: BaseException | None = None
        self._questions = questions
        self._answers: list[T] = []
        self._is_done = threading.Event()
        self._left_at: str | None = None
        start_thread("gcorefs-asker", self._run)

    def _run(self) -> None:
        try:
            for source, question in self._questions:
                self._answers.append(question(source not in _avoided and not _silent[source]))
                if self._left_at is not None:
                    break
        except BaseException as error:  # handed to the waiting thread
            self.error = error
        finally:
            with _lock:
                self._is_done.set()
                if self._left_at is not None:
                    _silent[self._left_at] -= 1
                    if not _silent[self._left_at]:
                        del _silent[self._left_at]
                        _lock.notify_all()

    def wait(self) -> list[T]:
        """All answers, or the answers before one that takes too long."""
        count = -1
        while not self._is_done.wait(PATIENCE):
            if len(self._answers) > count:
                count = len(self._answers)
                continue
            with _lock:
                if self._is_done.is_set():
                    break
                count = len(self._answers)
                self._left_at = self._questions[min(count, len(self._questions) - 1)][0]
                _silent[self._left_at] += 1
                return self._answers[:count]
        return self._answers
