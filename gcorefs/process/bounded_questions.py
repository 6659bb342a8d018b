"""Questions that may never be answered, each given a moment while a process stands still.

Only the server of a mapped file knows what the file holds and whether it has a name left, and the
server may hang (page_providers.py).  So a thread of its own asks each such question.  A question
without an answer stays behind with its thread, and nobody asks its source anything more until it
has answered.  So neither ten mappings of one hanging file system nor ten stops of one process
cost ten times as much.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from gcorefs.process.threads import start_thread

T = TypeVar("T")

PATIENCE = 0.5
"""Seconds that an answer may take."""

Question = tuple[str, Callable[[bool], T]]
"""Whom it may have to wait for, and the question, which is told whether it may wait.  Where it
may not and would have to, it says so itself (False: MayWait, or what it knows without)."""

_lock = threading.Condition()
_silent: Counter[str] = Counter()
"""How many threads wait for an answer of each source that let one wait for too long."""


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
    """The answers in order; `otherwise(n)` for question n where it was not answered.

    Raises what a question raises.
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
                del error  # this frame is in its traceback: nothing is to go in a circle
        if len(answers) < len(questions):
            answers.append(otherwise(len(answers)))
    return answers


class _Asker(Generic[T]):
    """One thread that asks one question after the other."""

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
        except BaseException as error:  # handed to whoever waits
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
        """All answers, or those before one that takes too long."""
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
