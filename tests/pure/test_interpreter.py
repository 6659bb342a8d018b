"""Garbage is collected when there is much of it, and not while a process stands still for it."""

import gc
import sys
import weakref
from collections.abc import Iterator

import pytest

from gcorefs.mount import interpreter
from gcorefs.mount.interpreter import Collector
from gcorefs.process import turns
from gcorefs.process.turns import LINE


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    interval = sys.getswitchinterval()
    yield
    sys.setswitchinterval(interval)
    gc.unfreeze()
    gc.enable()


class Cycle:
    def __init__(self) -> None:
        self.me = self


def garbage(count: int) -> "weakref.ref[Cycle]":
    """So many objects that nobody can reach; the first of them."""
    first, *_ = (Cycle() for _ in range(count))
    return weakref.ref(first)


def test_nothing_is_collected_by_itself() -> None:
    gc.collect()
    interpreter.settle()
    first = garbage(10 * interpreter._MANY)
    assert first() is not None
    Collector().tidy()
    assert first() is None


def test_a_little_garbage_is_let_be() -> None:
    gc.collect()
    interpreter.settle()
    first = garbage(10)
    Collector().tidy()
    assert first() is not None


def test_while_a_process_is_stopped_only_too_much_is_collected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gc.collect()
    interpreter.settle()
    first = garbage(2 * interpreter._MANY)
    with LINE.begun():
        Collector().tidy()
        assert first() is not None
        monkeypatch.setattr(interpreter, "_TOO_MANY", interpreter._MANY)
        Collector().tidy()
    assert first() is None


def test_where_much_is_alive_more_is_garbage_before_it_is_worth_it() -> None:
    gc.collect()
    interpreter.settle()
    collector = Collector()
    alive = [Cycle() for _ in range(10 * interpreter._MANY)]
    collector.tidy()
    first = garbage(interpreter._MANY + 1)
    collector.tidy()
    assert first() is not None
    more = garbage(2 * interpreter._MANY)
    collector.tidy()
    assert (first(), more()) == (None, None)
    del alive


def test_what_never_ends_does_not_stand_in_the_way() -> None:
    gc.collect()
    interpreter.settle()
    with LINE.begun() as stuck:
        first = garbage(2 * interpreter._MANY)
        Collector().tidy()
        assert first() is not None
        stuck.began -= 2 * turns._STUCK
        Collector().tidy()
        assert first() is None
