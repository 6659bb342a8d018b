"""Whatever a process does when it is stopped, it goes on as if there had been no stop.

Each program records the results of its calls (tests/targets/account.h).  The record of a run with
many stops must equal that of a run without stops.
"""

import contextlib
import errno
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import ANY

import pytest

from gcorefs.kernel.proc import task_stat, task_status, tasks
from gcorefs.process.errors import ProcessError, Reason
from tests.conftest import Target
from tests.live.accounts import STOPS, await_rounds, compare, held, stop_often

Spawn = Callable[..., Target]
FEWER = 40


PROGRAMS = pytest.mark.parametrize(
    "program",
    [["waits"], ["signals"], ["storm", "16"], ["debugger"], ["workers"], ["workers", "sqpoll"]],
    ids=" ".join,
)


@PROGRAMS
def test_a_program_has_the_account_of_a_run_without_stops(spawn: Spawn, program: list[str]) -> None:
    expected, account = compare(lambda: spawn(*program))
    assert all(outcomes == {"ok"} for outcomes in expected.values()), expected
    assert account == expected


@pytest.mark.usefixtures("bpf")
@pytest.mark.parametrize(
    ("whom", "use"),
    [("gentle", "auto"), ("gentle", "off"), ("each", "off"), ("none", "auto"), ("none", "off")],
)
@PROGRAMS
def test_so_it_has_with_another_stop(spawn: Spawn, program: list[str], whom: str, use: str) -> None:
    often = partial(stop_often, stops=FEWER, stop=whom, bpf=use)
    expected, account = compare(lambda: spawn(*program), often)
    assert all(outcomes == {"ok"} for outcomes in expected.values()), expected
    assert account == expected


def test_a_stop_does_not_touch_children(spawn: Spawn) -> None:
    def stop_and_look_at_the_children(target: Target) -> None:
        seen = set()
        for _ in range(STOPS):
            # In vfork(2) a thread waits for its child, which runs on, so it stops soon.
            with held(target.pid) as snapshot:
                assert snapshot.unresponsive_threads == 0
                for child in children(target.pid):
                    with contextlib.suppress(ProcessLookupError):
                        assert task_status.tracer(child, child) == 0
                        assert task_stat.stat(child).state not in "tT"
                        seen.add(child)
            await_rounds(target)
        assert len(seen) > STOPS

    expected, account = compare(lambda: spawn("children"), stop_and_look_at_the_children)
    assert all(outcomes == {"ok"} for outcomes in expected.values()), expected
    assert account == expected


def test_a_process_that_shares_the_memory_is_another_one(spawn: Spawn) -> None:
    """CLONE_VM without CLONE_THREAD: it is not stopped, and a read shows its writes."""
    target = spawn("children")
    sibling, beats = target.truth["sibling"], int(target.truth["beats"], 16)

    def count() -> int:
        with open(f"/proc/{sibling}/mem", "rb", buffering=0) as memory:
            return int.from_bytes(os.pread(memory.fileno(), 8, beats), "little")

    with held(target.pid) as snapshot:
        before = count()
        assert task_status.tracer(sibling, sibling) == 0
        assert sibling not in [record.tid for record in snapshot.records]
        while count() < before + 10:
            pass
    assert target.ask("report")["sibling"].keys() == {"ok"}


@pytest.mark.parametrize("kind", [[], ["sqpoll"]], ids=["worker", "sqpoll"])
def test_a_worker_of_io_uring_is_no_thread_of_the_program(spawn: Spawn, kind: list[str]) -> None:
    """It is in the task list, but runs no code of the program, and cannot be traced."""
    target = spawn("workers", *kind)
    with held(target.pid) as snapshot:
        workers = [
            tid for tid in tasks.tids(target.pid) if task_stat.stat(target.pid, tid).is_worker
        ]
        names = {task_stat.stat(target.pid, tid).comm for tid in workers}
        assert names
        assert not kind or b"iou-sqp-%d" % target.pid in names
        assert {task_status.tracer(target.pid, tid) for tid in workers} == {0}
        recorded = {record.tid for record in snapshot.records}
        assert recorded == set(tasks.tids(target.pid)) - set(workers)
        assert len(recorded) == target.truth["threads"]
    assert target.ask("report") == {"splice_on": {"ok": ANY}}


def test_a_traced_process_is_refused_and_its_tracer_is_not(spawn: Spawn) -> None:
    target = spawn("debugger")
    tracee = target.truth["tracee"]
    for _ in range(STOPS):
        with pytest.raises(ProcessError) as caught, held(tracee):
            pass
        assert (caught.value.reason, caught.value.errno) == (Reason.TRACED, errno.EBUSY)
        assert f"TracerPid {target.pid}" in str(caught.value)
        with held(target.pid):
            assert task_status.tracer(tracee, tracee) == target.pid
    await_rounds(target)
    assert target.ask("report") == {"trace": {"ok": ANY}}


@pytest.mark.parametrize("delay", range(0, 4000, 100))
def test_an_exit_at_any_moment_is_an_error_or_a_whole_core(spawn: Spawn, delay: int) -> None:
    """exit(3) `delay` microseconds before the stop; the parent gets its status in any case."""
    target = spawn("confined", parent=True)
    target.tell("exit")
    time.sleep(delay / 1e6)
    try:
        with held(target.pid) as snapshot:
            assert len(snapshot.read(0, 4096)) == 4096
    except ProcessError as error:
        assert error.reason in (Reason.GONE, Reason.DIED)
    assert target.line() == {"wait": 7 << 8}


def children(pid: int) -> list[int]:
    found = []
    for tid in tasks.tids(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += Path(f"/proc/{pid}/task/{tid}/children").read_text().split()
    return [int(word) for word in found]
