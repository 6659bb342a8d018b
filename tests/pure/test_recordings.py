"""The last cores of a process in a directory: which are deleted for a new one."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gcorefs.export.recordings import Bounds, Recordings

NAMES = [f"core.7.2026010{day}T000000.000Z" for day in range(1, 6)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / name).write_bytes(bytes(4096))
    return tmp_path


def after(folder: Path, bounds: Bounds, do: Callable[[Recordings], None]) -> list[str]:
    with contextlib.closing(Recordings(str(folder), 7, bounds)) as recordings:
        do(recordings)
    return sorted(os.listdir(folder))


def test_the_oldest_go_first(folder: Path) -> None:
    assert after(folder, Bounds(2, 0), lambda it: it.trim(NAMES[-1])) == NAMES[-2:]


def test_what_was_just_written_stays_whatever_the_clock_said_before(folder: Path) -> None:
    assert after(folder, Bounds(2, 0), lambda it: it.trim(NAMES[0])) == [NAMES[0], NAMES[-1]]
    assert after(folder, Bounds(1, 0), lambda it: it.trim(NAMES[0])) == [NAMES[0]]


def test_without_a_bound_nobody_looks_at_the_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "scandir", None)

    def make_room(recordings: Recordings) -> None:
        recordings.look()
        recordings.make_room(1 << 40)

    assert after(folder, Bounds(2, 0), make_room) == NAMES


def test_a_file_that_grows_makes_room_without_a_look(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process may stand still meanwhile, and others may have 100,000 files there."""

    def write(recordings: Recordings) -> None:
        recordings.look()
        monkeypatch.setattr(os, "scandir", None)
        sink = recordings.bounded_sink("core")
        for _ in range(7):
            sink.write(memoryview(bytes(1 << 20)))
        sink.commit()

    assert after(folder, Bounds(9, 8 << 20), write) == ["core", NAMES[-1]]
