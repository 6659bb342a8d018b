"""Garbage is collected when there is much of it, and not while a process stands still for it."""

import gc
import sys
import weakref
from collections.abc import Iterator

import pytest

from gcorefs.mount import interpreter
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
    interpreter.tidy()
    assert first() is None


def test_a_little_garbage_is_let_be() -> None:
    gc.collect()
    interpreter.settle()
    first = garbage(10)
    interpreter.tidy()
    assert first() is not None


def test_while_a_process_is_stopped_only_too_much_is_collected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gc.collect()
    interpreter.settle()
    first = garbage(2 * interpreter._MANY)
    with LINE.begun():
        interpreter.tidy()
        assert first() is not None
        monkeypatch.setattr(interpreter, "_TOO_MANY", interpreter._MANY)
        interpreter.tidy()
    assert first() is None
