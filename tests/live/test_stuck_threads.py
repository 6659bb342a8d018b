"""Threads that cannot stop, and frozen processes: the stop is bounded, and they are unhurt."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import ANY

import pytest

from gcorefs.arch.x86_64 import X86_64
from gcorefs.kernel.proc import tasks
from tests.cgroups import Freezer
from tests.conftest import Target
from tests.live.accounts import assert_free, await_rounds, held, report
from tests.live.test_tracer import prstatus_notes, tid_of

Spawn = Callable[..., Target]

SYS_PREAD64 = 17
STOPS = 5
FREEZES = 10


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[tuple[Target, Path]]:
    """A file system with one file, whose reads wait until its server is told to answer."""
    path = tmp_path / "silent"
    path.mkdir()
    server = Target([sys.executable, "-m", "tests.live.silent", str(path)])
    try:
        yield server, path / "file"
    finally:
        # When the server ends, its FUSE connection ends, and so does every wait for it.
        server.kill()
        subprocess.run(["umount", "--lazy", path], check=False, timeout=10)


@pytest.mark.parametrize("answered", ["while held", "afterwards"])
def test_a_thread_that_waits_for_a_file_server_is_recorded_in_part(
    spawn: Spawn, silent: tuple[Target, Path], answered: str
) -> None:
    server, file = silent
    target = spawn("fuse", file)
    reader = target.truth["reader"]
    while server.ask("asked") == {"asked": 0}:
        pass
    for number in range(STOPS):
        with held(target.pid, stop_timeout=0.1) as snapshot:
            assert snapshot.unresponsive_threads == 1
            states = target.states()
            assert states.pop(reader) == ("D", os.getpid())
            assert set(states.values()) == {("t", os.getpid())}
            (prstatus,) = [note for note in prstatus_notes(snapshot) if tid_of(note) == reader]
            assert X86_64.word(prstatus[112:-8], "orig_rax") == SYS_PREAD64
            if answered == "while held" and number == STOPS - 1:
                assert server.ask("answer") == {"answered": 1}
        assert_free(target.pid)
        await_rounds(target)
    if answered == "afterwards":
        assert server.ask("answer") == {"answered": 1}
    assert target.ask("report") == {"worker": {"ok": ANY}, "reader": {"ok": 1}}


@pytest.fixture(params=["v1", "v2"])
def freezer(request: pytest.FixtureRequest, spawn: Spawn) -> Iterator[Freezer]:
    freezer = Freezer(request.param)
    yield freezer
    freezer.remove()


def test_a_frozen_process_stays_frozen_and_thaws_as_it_would_have(
    spawn: Spawn, freezer: Freezer
) -> None:
    def freeze_and_thaw(target: Target, dumps: int) -> None:
        freezer.add(target.pid)
        for _ in range(FREEZES):
            freezer.freeze()
            for _ in range(dumps):
                dump_frozen(target)
            freezer.thaw()
            await_rounds(target)

    def dump_frozen(target: Target) -> None:
        threads = len(tasks.tids(target.pid))
        with held(target.pid, stop_timeout=0.05) as snapshot:
            assert snapshot.threads == threads
            # The freezer of v1 ignores a tracer (kernel/freezer.c); that of v2 does not.
            assert snapshot.unresponsive_threads == (threads if freezer.is_v1 else 0)
            assert len(snapshot.read(0, snapshot.size)) == snapshot.size
        assert_free(target.pid)
        freezer.wait()

    control, target = spawn("confined"), spawn("confined")
    freeze_and_thaw(control, 0)
    freeze_and_thaw(target, 1)
    expected, account = report(control), report(target)
    # A thaw itself ends some calls with EINTR, and we may repair that.
    assert all("ok" in outcomes for outcomes in account.values())
    assert {work for work in expected if not account[work] <= expected[work]} == set()
