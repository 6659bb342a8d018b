"""No program sees an open of the mounted file as an EINTR; tests/live tests the tracer alone."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Mount, Target

# One of each kind of call: the first one that the kernel would end with EINTR.
CASES = ("epoll_wait", "semop", "rt_sigtimedwait", "io_uring_enter", "recv_rcvtimeo", "nanosleep")
OPENS = [300, pytest.param(1_000, marks=pytest.mark.full)]


@pytest.mark.parametrize("opens", OPENS)
def test_opens_are_never_seen_as_eintr(
    spawn: Callable[..., Target], mount: Mount, build: Callable[[str], Path], opens: int
) -> None:
    listed = subprocess.run([build("eintr"), "--list"], capture_output=True, text=True, check=True)
    assert set(CASES) <= set(listed.stdout.split())
    targets = [spawn("eintr", case) for case in CASES]
    for target in targets:
        assert target.ask("blocked") == {"blocked": True}
    for number in range(opens):
        target = targets[number % len(targets)]
        fd = os.open(mount / target.pid, os.O_RDONLY)
        try:
            assert os.read(fd, 4) == b"\x7fELF"
        finally:
            os.close(fd)
    for target in targets:
        assert target.ask("blocked") == {"blocked": True}
        counts = target.ask("counts")
        assert (counts["spurious"], counts["genuine"], counts["other"]) == (0, 0, 0), counts
