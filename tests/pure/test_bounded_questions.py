"""Questions that nobody answers delay the others for a bounded time.  One whose answer takes work
is not given up, if it may take work."""

import threading
import time
from collections.abc import Iterator

import pytest

from gcorefs.process import bounded_questions
from gcorefs.process.bounded_questions import (
    AT_WORK,
    PATIENCE,
    Question,
    ask_each,
    silent,
    wait_for_answers,
)

SILENT = 300
NO_ANSWER = "no answer"


@pytest.fixture
def end() -> Iterator[threading.Event]:
    """The end of all silence.  After the test nobody waits for an answer any more."""
    event = threading.Event()
    yield event
    event.set()
    bounded_questions.wait_for_answers()


def silence(number: int, end: threading.Event) -> Question[str]:
    def ask(may_wait: bool) -> str:
        assert may_wait
        end.wait()
        return "too late"

    return f"silent source {number}", ask


def answer(text: str) -> Question[str]:
    return f"source of {text}", lambda may_wait: text


def ask(questions: list[Question[str]]) -> list[str]:
    return ask_each(questions, otherwise=lambda number: NO_ANSWER)


# One after the other, each with all the time that one may have, they would take five minutes.
@pytest.mark.timeout(60)
def test_many_silent_sources_do_not_add_up(end: threading.Event) -> None:
    silent = [silence(number, end) for number in range(SILENT)]
    found = ask([answer("first"), *silent, answer("last")])
    assert found == ["first", *SILENT * [NO_ANSWER], "last"]
    assert len(bounded_questions.silent()) == SILENT


def test_an_answer_that_comes_after_the_next_question_counts(end: threading.Event) -> None:
    is_asked = threading.Event()

    def wait_for_the_next(may_wait: bool) -> str:
        is_asked.wait()
        return "late"

    def next_(may_wait: bool) -> str:
        is_asked.set()
        return "next"

    silent = [silence(number, end) for number in range(9)]
    found = ask([*silent, ("slow", wait_for_the_next), ("quick", next_)])
    assert found == [*9 * [NO_ANSWER], "late", "next"]


def test_an_error_that_comes_late_is_raised(end: threading.Event) -> None:
    is_asked = threading.Event()

    def fail(may_wait: bool) -> str:
        is_asked.wait()
        raise OSError("late")

    def next_(may_wait: bool) -> str:
        is_asked.set()
        return "next"

    silent = [silence(number, end) for number in range(9)]
    with pytest.raises(OSError, match="late"):
        ask([*silent, ("slow", fail), ("quick", next_)])


def test_a_silent_source_is_asked_once(end: threading.Event) -> None:
    asked: list[bool] = []

    def again(may_wait: bool) -> str:
        asked.append(may_wait)
        return "known"

    source, question = silence(0, end)
    assert ask([(source, question), (source, again)]) == [NO_ANSWER, "known"]
    assert asked == [False]


WORK = 3 * PATIENCE
"""Seconds of a processor: more than an answer may take that takes no work."""


def work(may_wait: bool) -> str:
    end = time.thread_time() + WORK
    while time.thread_time() < end:
        pass
    return "worked"


def asked_with(at_work: float, *questions: Question[str]) -> list[str]:
    return ask_each(questions, lambda number: f"none {number}", at_work)


def test_an_answer_that_takes_work_may_take_longer() -> None:
    asked: list[Question[str]] = [("ours", work), ("ours", lambda may_wait: "done")]
    assert asked_with(AT_WORK, *asked) == ["worked", "done"]
    assert silent() == frozenset()


def test_but_not_while_a_process_stands_still() -> None:
    assert asked_with(PATIENCE, ("ours", work)) == ["none 0"]
    wait_for_answers()


def test_who_does_not_answer_is_not_waited_for() -> None:
    go = threading.Event()

    def wait(may_wait: bool) -> str:
        return str(go.wait()) if may_wait else "asked nobody"

    asked: list[Question[str]] = [("theirs", wait), ("theirs", wait), ("ours", work)]
    assert asked_with(AT_WORK, *asked) == ["none 0", "asked nobody", "worked"]
    assert silent() == {"theirs"}
    go.set()
    wait_for_answers()


def test_work_has_an_end_too() -> None:
    assert asked_with(WORK / 2, ("ours", work)) == ["none 0"]
    wait_for_answers()
