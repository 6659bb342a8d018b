"""Which files of a process are under a lease or watched, however many locks there are."""

import os
import sys
from collections.abc import Callable, Container, Iterator
from pathlib import Path

import pytest

from gcorefs import api
from gcorefs.kernel.proc import leases, procfile, watches
from gcorefs.policy import Policy
from tests.conftest import Target

Start = Callable[..., Target]

# Each lock is a line of /proc/locks, because the ranges do not touch.
LOCKS = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for at in range(0, 2 * 10_000, 2):
    fcntl.lockf(file, fcntl.LOCK_EX, 1, at)
print('{"pid": %d}' % os.getpid(), flush=True)
sys.stdin.read()
"""

LEASED = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.fcntl(file, fcntl.F_SETLEASE, getattr(fcntl, sys.argv[2]))
print('{"pid": %d}' % os.getpid(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start() -> Iterator[Start]:
    targets = []

    def started(code: str, *words: object) -> Target:
        targets.append(Target([sys.executable, "-c", code, *map(str, words)]))
        return targets[-1]

    yield started
    for each in targets:
        each.kill()


@pytest.fixture(params=["few locks", "many locks"])
def locks(request: pytest.FixtureRequest, start: Start, tmp_path: Path) -> None:
    if request.param == "many locks":
        start(LOCKS, tmp_path / "locked")
        assert len(procfile.read_system("locks")) > 256 << 10


@pytest.mark.usefixtures("locks")
def test_a_lease_of_the_process_is_known(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "leased"
    target = start(LEASED, path, "F_WRLCK")
    found = leases.leases(target.pid)
    assert found is not None
    assert path.stat().st_ino in found


@pytest.mark.usefixtures("locks")
@pytest.mark.parametrize("name", ["leased", "two\nlines"])
def test_a_lease_on_a_file_that_matters_is_known(start: Start, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    target = start(LEASED, path, "F_WRLCK")
    found = leases.leases(target.pid, {os.fsencode(path).replace(b"\n", b"\\012")})
    assert found is not None
    assert path.stat().st_ino in found


def test_a_file_that_does_not_matter_is_not_asked(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "leased"
    target = start(LEASED, path, "F_WRLCK")
    start(LOCKS, tmp_path / "locked")
    assert leases.leases(target.pid, {b"/another"}) == {}


def test_the_locks_of_a_process_are_read_up_to_a_limit(start: Start, tmp_path: Path) -> None:
    """Any user has as many as they like, and each duplicate of a descriptor shows all of them."""
    target = start(LOCKS, tmp_path / "locked")
    assert leases.leases(target.pid) is None
    assert leases.leases(target.pid, {os.fsencode(tmp_path / "locked")}) is None
    assert leases.leases(target.pid, {b"/another"}) == {}


WATCHES = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
watcher = libc.inotify_init1(0)
for n in range(100):
    os.mkdir(f"{sys.argv[1]}/{n}")
    assert libc.inotify_add_watch(watcher, f"{sys.argv[1]}/{n}".encode(), 2) > 0
for _ in range(int(sys.argv[2])):
    os.dup(watcher)
print('{"pid": %d}' % os.getpid(), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("copies", [0, 900])
def test_the_watches_of_a_process_are_read_up_to_a_limit(
    start: Start, tmp_path: Path, copies: int
) -> None:
    target = start(WATCHES, tmp_path, copies)
    found = watches.watched_inodes(target.pid)
    inodes = {each.stat().st_ino for each in tmp_path.iterdir()}
    assert found == (None if copies else inodes)


@pytest.mark.usefixtures("locks")
def test_an_open_for_reading_breaks_no_lease_for_reading(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "leased"
    path.touch()
    target = start(LEASED.replace("os.O_RDWR | os.O_CREAT", "os.O_RDONLY"), path, "F_RDLCK")
    found = leases.leases(target.pid)
    assert found is not None
    assert path.stat().st_ino not in found


def test_of_a_process_that_is_gone_nothing_is_known(start: Start, tmp_path: Path) -> None:
    target = start(LEASED, tmp_path / "leased", "F_WRLCK")
    target.kill()
    start(LOCKS, tmp_path / "locked")
    assert leases.leases(target.pid) is None


SHARED = """
import mmap, os, sys
file = os.memfd_create("shared")
os.truncate(file, 1 << 20)
kept = mmap.mmap(file, 1 << 20)
print('{"pid": %d}' % os.getpid(), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("memory", "times"), [("none", 0), ("stacks", 0), ("filter", 1)])
def test_who_would_notice_an_open_is_asked_if_there_is_one(
    start: Start, monkeypatch: pytest.MonkeyPatch, memory: str, times: int
) -> None:
    """The process stands still meanwhile, for 5 us for each of its descriptors."""
    asked: list[str] = []

    def leased(tid: int, paths: Container[bytes]) -> leases.Leases | None:
        asked.append("leases")
        return known_leases(tid, paths)

    def watched(tid: int) -> set[int] | None:
        asked.append("watches")
        return watched_inodes(tid)

    known_leases, watched_inodes = leases.leases, watches.watched_inodes
    monkeypatch.setattr(leases, "leases", leased)
    monkeypatch.setattr(watches, "watched_inodes", watched)
    with api.stop(start(SHARED).pid, Policy(memory=memory)) as stop:
        stop.core()
    assert asked == ["leases", "watches"] * times
