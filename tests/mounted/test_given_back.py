"""What a stop takes in the server is given back with it, at whatever step it ends.

At every step of a copy a test holds the server there, ends the stop in one of the ways in which it
can end, and lets the server go on.  Afterwards the server has the memory and the descriptors that
it had before, and the user has all of copy_limit.
"""

import contextlib
import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from gcorefs.kernel.proc import task_status
from gcorefs.process.errors import Reason
from tests.conftest import Mount, Target
from tests.mounted import faultpoints as at
from tests.mounted.conftest import eventually, is_free, opened, stops, whole
from tests.mounted.faultpoints import Hold, Point
from tests.mounted.parties import Reader

MEBIBYTE = 1 << 20
SIZE = 64
"""MiB that a target has, and so its copy."""

SLACK = 16 * MEBIBYTE
"""What an allocator may keep; far less than a copy."""

POINTS = (
    at.MAKING_ROOM,
    at.ROOM_MADE,
    at.RECORDED_ALL,
    at.PINNED,
    at.ASSEMBLED,
    at.TAKEN,
    at.COPYING,
    at.READING,  # a piece of the copy
    at.FILLED,
    at.RELEASED,
    at.COPIED,
)

IN_COPY = POINTS[POINTS.index(at.COPYING) :]
"""Where the core is ready, so that its time runs."""

HeldAt = Callable[[Point, int], AbstractContextManager[Hold]]
MountWith = Callable[..., Mount]
Spawn = Callable[..., Target]
End = Callable[[Mount, Target, Reader], None]


def resident(pid: int) -> int:
    """Bytes of it that are in memory, those of memfds among them."""
    status = task_status.status(pid)
    return sum(int(status[name].split()[0]) for name in ("RssAnon", "RssShmem")) * 1024


def descriptors(pid: int) -> list[str]:
    """What its descriptors refer to; memfds have a name of their own.

    Sockets are to its workers, of which few stay (test_workers.py).
    """
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(path))
    return sorted(name for name in found if not name.startswith("socket:"))


def close(_mount: Mount, _target: Target, reader: Reader) -> None:
    assert reader.do("close") == 0


def kill_reader(_mount: Mount, _target: Target, reader: Reader) -> None:
    reader.kill()


def kill_target(_mount: Mount, target: Target, _reader: Reader) -> None:
    os.kill(target.pid, signal.SIGKILL)


def release(mount: Mount, target: Target, _reader: Reader) -> None:
    (mount.path / ".gcorefs/release").write_text(f"{target.pid}\n")


def wait(mount: Mount, target: Target, _reader: Reader) -> None:
    eventually(lambda: states(mount) == {target.pid: "let go"})


@pytest.mark.parametrize(
    ("end", "options", "points"),
    [
        (close, "", POINTS),
        (kill_reader, "", POINTS),
        (kill_target, "", POINTS),
        (release, "", POINTS),
        (wait, "max_stop=1", IN_COPY),  # on a busy machine the copy must begin within it
        (wait, "idle_timeout=1", IN_COPY),
    ],
    ids=["close", "reader-killed", "target-killed", "release", "max_stop", "idle_timeout"],
)
def test_a_stop_gives_back_all_that_it_took(
    end: End,
    options: str,
    points: tuple[Point, ...],
    mount_with: MountWith,
    held_at: HeldAt,
    spawn: Spawn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # One heap for all threads (mallopt(3)): else each keeps what it has used once.
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    # Room for one copy and not for two: what is still counted is "not copied" in the log.
    words = f"hold=copy,stop_timeout=60,copy_limit={SIZE * 3 // 2}"
    mount = mount_with(words, *filter(None, [options]))
    for text in (Reason.DIED.text, Reason.GONE.text, Reason.LET_GO.text, "let go, its file was"):
        mount.allow(text)
    mount.allow("let go, it was stopped for")
    server = mount.server
    # The buffers of a reader stay.  EIO: max_stop is over.
    with opened(mount / spawn("bulk", SIZE).pid) as fd, contextlib.suppress(OSError):
        whole(fd)
    eventually(lambda: states(mount) == {})
    # The last thread that had the copy may still be about to drop it: with it go mem and pagemap.
    eventually(lambda: not any(name.startswith("/proc/") for name in descriptors(server)))
    eventually(lambda: resident(server) < (SIZE + 60) * MEBIBYTE)
    memory, files = resident(server), descriptors(server)
    for point in points:
        target = spawn("bulk", SIZE)
        end_at(point, end, mount, held_at, target)
        try:
            eventually(lambda: states(mount) == {})
            eventually(lambda: resident(server) < memory + SLACK)
            eventually(lambda: descriptors(server) == files)
        except AssertionError as error:
            kept = Counter(descriptors(server))
            kept.subtract(files)
            more = (resident(server) - memory) >> 20, {name for name in kept if kept[name]}
            raise AssertionError(f"at {point}: {more[0]} MiB, {more[1]} stay") from error
    target = spawn("bulk", SIZE)
    with opened(mount / target.pid):
        eventually(lambda: states(mount)[target.pid] in ("copied", "let go"))
    eventually(lambda: stops(mount, target.pid) == 1)
    assert "not copied" not in mount.log.read_text()


def states(mount: Mount) -> dict[int, str]:
    """By pid, of all stops that are not forgotten."""
    found = json.loads((mount.path / ".gcorefs/status").read_text())["stops"]
    return {stop["pid"]: stop["state"] for stop in found}


def end_at(point: Point, end: End, mount: Mount, held_at: HeldAt, target: Target) -> None:
    reader = Reader(str(mount / target.pid), int(target.truth["start"], 16))
    try:
        with ExitStack() as stack:
            first = at.COPYING if point is at.READING else point
            hold = stack.enter_context(held_at(first, target.pid))
            reader.ask("open")
            hold.wait()
            assert reader.answer() == 0
            if point is at.READING:
                piece = stack.enter_context(held_at(at.READING, target.pid))
                hold.go_on()
                piece.wait()
            end(mount, target, reader)
        eventually(lambda: is_free(target.pid))
    finally:
        reader.kill()
        reader.end()
