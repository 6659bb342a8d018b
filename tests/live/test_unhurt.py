"""Whatever a process does when it is stopped, it goes on as if nothing had been.

Each program keeps an account of what came of its calls (tests/targets/account.h); that of a
run with many stops must be that of a run with none.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gcorefs.process import procfs
from tests.conftest import Target
from tests.live.accounts import STOPS, await_rounds, compare, held

Spawn = Callable[..., Target]


@pytest.mark.parametrize("program", [["waits"], ["signals"], ["storm", "16"]], ids=" ".join)
def test_a_program_has_the_account_of_a_run_without_stops(spawn: Spawn, program: list[str]) -> None:
    expected, account = compare(lambda: spawn(*program))
    assert all(outcomes == {"ok"} for outcomes in expected.values()), expected
    assert account == expected


def test_children_are_nobodys_business(spawn: Spawn) -> None:
    def stop_and_look_at_the_children(target: Target) -> None:
        seen = set()
        for _ in range(STOPS):
            # In vfork(2) a thread waits for its child, which runs on: the stop is soon had.
            with held(target.pid) as snapshot:
                assert snapshot.unresponsive_threads == 0
                for child in children(target.pid):
                    with contextlib.suppress(ProcessLookupError):
                        assert procfs.tracer(child, child) == 0
                        assert procfs.stat(child).state not in "tT"
                        seen.add(child)
            await_rounds(target)
        assert len(seen) > STOPS

    expected, account = compare(lambda: spawn("children"), stop_and_look_at_the_children)
    assert all(outcomes == {"ok"} for outcomes in expected.values()), expected
    assert account == expected


def test_a_process_that_shares_the_memory_is_another_one(spawn: Spawn) -> None:
    """CLONE_VM without CLONE_THREAD: it is not stopped, and its writes show in what is read."""
    target = spawn("children")
    sibling, beats = target.truth["sibling"], int(target.truth["beats"], 16)

    def count() -> int:
        with open(f"/proc/{sibling}/mem", "rb", buffering=0) as memory:
            return int.from_bytes(os.pread(memory.fileno(), 8, beats), "little")

    with held(target.pid) as snapshot:
        before = count()
        assert procfs.tracer(sibling, sibling) == 0
        assert sibling not in [record.tid for record in snapshot.records]
        while count() < before + 10:
            pass
    assert target.ask("report")["sibling"].keys() == {"ok"}


def children(pid: int) -> list[int]:
    found = []
    for tid in procfs.tids(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += Path(f"/proc/{pid}/task/{tid}/children").read_text().split()
    return [int(word) for word in found]
