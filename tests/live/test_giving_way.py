"""A long stop gives way, again and again, in each of its threads."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from gcorefs.process.turns import LINE, Line, Turn
from tests.conftest import Target
from tests.live.accounts import held

Spawn = Callable[..., Target]


@pytest.fixture
def moments(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[tuple[str, bool]]]:
    """How often who gave way: the name of the thread, less its number, and whether it was known
    what it works at."""
    found: Counter[tuple[str, bool]] = Counter()
    give_way = Line.give_way

    def count(line: Line) -> None:
        name = threading.current_thread().name.rstrip("0123456789_-")
        found[name, isinstance(line.mine, Turn)] += 1
        give_way(line)

    monkeypatch.setattr(Line, "give_way", count)
    yield found
    assert LINE.mine is None
    assert not LINE._under_way


def take(target: Target) -> None:
    with held(target.pid) as snapshot:
        assert snapshot.layout.header


def test_between_mappings(spawn: Spawn, moments: Counter[tuple[str, bool]]) -> None:
    count = 30_000
    take(spawn("mappings", count))
    # Smaps in pieces of 256 KiB, and four times over all mappings.
    assert moments["MainThread", True] >= count * 600 // (256 << 10) + 4 * count // 500
    assert not moments["MainThread", False]


def test_between_threads(spawn: Spawn, moments: Counter[tuple[str, bool]]) -> None:
    count = 1_000
    take(spawn("threads", count))
    assert moments["gcorefs-tracer", True] >= 2 * count // 50  # interrupted, and recorded
    assert moments["gcorefs-notes", True] >= count // 100  # their times
