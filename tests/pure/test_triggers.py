"""The words of `gcorefs watch --when`, and how often something may be taken."""

import os
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.cli.watching import ENDED, Clock, Conditions
from gcorefs.telemetry.journal import STOPPED
from gcorefs.triggers.budget import DAY, Budget
from gcorefs.triggers.words import GROUP_EVENTS, Condition, WordError, conditions, seconds

ROOT = Path(__file__).resolve().parents[2]


def test_each_condition_has_its_unit() -> None:
    text = "rss>8G|rss > 512|cpu>90%|cpu>350.5%/30s|threads>5000|D>500ms|memory.high | memory.max"
    assert conditions(text) == [
        Condition("rss>8G", "rss", 8 << 30),
        Condition("rss > 512", "rss", 512),
        Condition("cpu>90%", "cpu", 90, 10),
        Condition("cpu>350.5%/30s", "cpu", 350.5, 30),
        Condition("threads>5000", "threads", 5000),
        Condition("D>500ms", "D", 0.5),
        Condition("memory.high", "memory.high"),
        Condition("memory.max", "memory.max"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "", "|", "rss>8G|", "rss", "rss>", "rss>8g", "rss>8GB", "rss>=8G", "rss<8G", "rss>-1",
        "cpu>90", "cpu>%", "cpu>90%/", "cpu>90%/0s", "cpu>90%/x", "rss>8G/10s", "D>x", "D>0",
        "D>30s/10s", "threads>1.5", "threads>5k", "memory.high>1", "memory.low", "swap>1G",
        "RSS>8G",
        "d>30s", "rss>\u0668G",
    ],
)  # fmt: skip
def test_a_wrong_word_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(WordError) as caught:
        conditions(text)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=30))
def test_any_text_is_conditions_or_refused(text: str) -> None:
    try:
        found = conditions(text)
    except WordError:
        return
    assert len(found) == text.count("|") + 1


@pytest.mark.parametrize(
    ("text", "value"),
    [("10s", 10), ("500ms", 0.5), ("2m", 120), ("1h", 3600), ("7", 7), ("1.5s", 1.5),
     ("0", None), ("9ms", None), ("-1s", None), ("1 s", None), ("s", None), ("1d", None)],
)  # fmt: skip
def test_a_time(text: str, value: float | None) -> None:
    assert seconds(text) == value


@pytest.fixture
def pidfd() -> Iterator[tuple[int, Callable[[], None]]]:
    """A descriptor that is readable when a process would have ended, and what ends it."""
    reading, writing = os.pipe()

    def end() -> None:
        os.write(writing, b"x")

    yield reading, end
    os.close(reading)
    os.close(writing)


class Ending:
    """A look that sees the process end."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end

    def look(self, now: float) -> str:
        self._end()
        return ""

    def files(self) -> list[int]:
        return []

    def close(self) -> None:
        pass


@pytest.mark.parametrize("text", ["1h", "590h", "600h", "999999999999h"])
def test_any_time_can_be_waited_for(text: str, pidfd: tuple[int, Callable[[], None]]) -> None:
    """poll(2) takes an int of milliseconds: 24 days."""
    file, end = pidfd
    time = seconds(text)
    assert time is not None
    clock = Clock(file, time)
    assert clock.wait() == ""
    looks = Conditions(file, [Ending(end)], Budget(time, 1), time)
    assert looks.wait() == ENDED
    assert clock.wait() == ENDED


def test_the_cooldown_begins_at_the_end_of_the_last_one() -> None:
    budget = Budget(300, 10)
    assert budget.wait(1000) == 0
    budget.taken(1000)
    assert budget.wait(1000) == 300
    assert budget.wait(1299) == 1
    assert budget.wait(1300) == 0
    assert not budget.is_used_up(1300)


def test_a_day_has_so_many_in_any_24_hours() -> None:
    budget = Budget(10, 3)
    for now in (0, 100, 200):
        assert budget.wait(now) == 0
        budget.taken(now)
    assert budget.is_used_up(300)
    assert budget.wait(300) == DAY - 300
    assert budget.wait(DAY) == 0  # the first one is a day old
    budget.taken(DAY)
    assert budget.wait(DAY + 50) == 50


@given(st.lists(st.floats(0, 1000), max_size=200), st.integers(1, 5))
def test_no_day_ever_has_more(pauses: list[float], most: int) -> None:
    budget, now, taken = Budget(100, most), 0.0, []
    for pause in pauses:
        now += pause * 100
        if not budget.wait(now):
            budget.taken(now)
            taken.append(now)
    for begin in taken:
        assert sum(begin <= each < begin + DAY for each in taken) <= most
    assert all(after - before >= 100 for before, after in pairwise(taken))


def test_every_condition_has_a_row() -> None:
    manual = (ROOT / "docs" / "watch.md").read_text()
    cells = re.findall(r"^\| (`[^|]*>[^|]*|`memory[^|]*) \|", manual, re.MULTILINE)
    words = [condition.word for cell in cells for text in re.findall("`([^`]+)`", cell)
             for condition in conditions(text)]  # fmt: skip
    assert {*words} == {"rss", "cpu", "threads", "D", *GROUP_EVENTS}
    assert STOPPED in manual
