"""What takes long gives way to what has just begun, and to nothing else, and not for ever."""

import threading
from collections.abc import Callable

import pytest

from gcorefs.process import turns
from gcorefs.process.turns import Line, Turn

NEW, NEXT = turns._NEW, turns._NEXT


class Clock:
    """Time that passes when somebody waits, or as the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.waits: list[float] = []
        monkeypatch.setattr("gcorefs.process.turns.time.monotonic", lambda: self.now)

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now += seconds
        return False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def line(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Line:
    line = Line()
    monkeypatch.setattr(line._change, "wait", clock.wait)
    return line


def in_a_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def test_nobody_waits_alone(line: Line, clock: Clock) -> None:
    line.give_way()
    with line.begun():
        clock.now += 1
        line.give_way()
    line.give_way()
    assert clock.waits == []


def test_what_is_old_waits_until_what_is_new_is_so_no_more(line: Line, clock: Clock) -> None:
    with line.begun() as old:
        clock.now += 1
        with line.begun():
            clock.now += 0.004
            with line.part_of(old):
                line.give_way()
                line.give_way()
    assert clock.waits == [pytest.approx(NEW - 0.004)]


def test_what_is_new_does_not_wait(line: Line, clock: Clock) -> None:
    with line.begun():
        clock.now += NEW / 2
        with line.begun() as newer:
            clock.now += NEW / 4
            line.give_way()
            with line.part_of(newer):
                line.give_way()
    assert clock.waits == []


def test_what_began_last_waits_for_nobody(line: Line, clock: Clock) -> None:
    with line.begun():
        clock.now += 1
        with line.begun():
            clock.now += 1
            line.give_way()
    assert clock.waits == []


def test_what_follows_at_once_is_waited_for(line: Line, clock: Clock) -> None:
    with line.begun():
        clock.now += 1
        with line.begun():
            pass
        line.give_way()
        assert clock.waits == [pytest.approx(NEXT)]
        line.give_way()
        assert len(clock.waits) == 1


def test_nobody_waits_for_longer_than_it_has_worked(line: Line, clock: Clock) -> None:
    with line.begun() as old:
        clock.now += NEW
        for _ in range(100):  # one after the other, without end
            with line.begun(), line.part_of(old):
                line.give_way()
        assert old.waited == pytest.approx(NEW)
        clock.now += 0.002
        with line.begun(), line.part_of(old):
            line.give_way()
    assert old.waited == pytest.approx(NEW + 0.002)


def test_every_thread_has_its_own_turn_or_a_part_of_one(line: Line, clock: Clock) -> None:
    found: list[Turn | None] = []
    with line.begun() as turn:

        def work() -> None:
            found.append(line.mine)
            with line.part_of(turn):
                found.append(line.mine)
            with line.part_of(None):
                found.append(line.mine)

        in_a_thread(work)
        assert line.mine is turn
    assert found == [None, turn, None]
    assert line.mine is None


def test_items_come_at_a_pace(line: Line, clock: Clock) -> None:
    with line.begun() as old:
        clock.now += 1
        items = line.paced(range(7), 3)
        assert [next(items) for _ in range(4)] == [0, 1, 2, 3]
        with line.begun(), line.part_of(old):
            assert next(items) == 4
            assert clock.waits == []
            assert list(items) == [5, 6]
            assert clock.waits == [pytest.approx(NEW)]
    assert list(line.paced([])) == []


def test_who_waits_goes_on_when_what_is_new_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_NEW", 60.0)
    line = Line()
    has_begun, may_end = threading.Event(), threading.Event()
    order: list[str] = []

    def new() -> None:
        with line.begun():
            has_begun.set()
            assert may_end.wait(10)
            order.append("new")

    with line.begun() as old:
        old.began -= 1000.0
        thread = threading.Thread(target=new)
        thread.start()
        assert has_begun.wait(10)
        threading.Timer(0.01, may_end.set).start()
        line.give_way()
        order.append("old")
        thread.join(10)
    assert order == ["new", "old"]
