"""Which files of a process are under a lease, however many locks there are on the machine."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcorefs.kernel.proc import leases, procfile
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
