"""A program's own report of two runs: one without a dump, and one with stops.

tests/targets/account.h has the commands and the reports of the programs.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from gcorefs.elfcore.provenance import How
from gcorefs.hold.room import Room
from gcorefs.policy import Policy
from gcorefs.process.access import Opener
from tests.conftest import Target, thread_states
from tests.snapshot import Snapshot, find

Account = dict[str, set[str]]
"""For each work of a program, the outcomes of its rounds."""

STOPS = 100
PATIENCE = 30.0
"""Seconds after which a work without progress counts as hanging."""


@contextlib.contextmanager
def held(
    pid: int, opener: Opener | None = None, room: Room | None = None, **options: Any
) -> Iterator[Snapshot]:
    """A process that stands still, and whose core can be read.  `options`: of the policy."""
    policy = Policy(**{"stop_timeout": 5.0, **options})
    snapshot = Snapshot(find(pid), opener, policy, room=room)
    try:
        snapshot.take()
        assert snapshot.read(0, 4) == b"\x7fELF"
        yield snapshot
    finally:
        snapshot.close()


def stop_often(target: Target, stops: int = STOPS, **options: Any) -> None:
    """Stop it again and again, and see that every work goes on between two stops."""
    for number in range(stops):
        with held(target.pid, **options) as snapshot:
            if options.get("stop") != "none":
                assert not any(each.how is How.ZERO for each in snapshot.records)
            # Half of the stops last longer than some of the waits of the program.
            if number % 2:
                time.sleep(0.004)
        if number % 20 == 19:
            await_rounds(target)


def await_rounds(target: Target) -> None:
    """Wait until every work with short rounds has ended a round that began after the last stop."""
    before = target.ask("rounds")["rounds"]
    deadline = time.monotonic() + PATIENCE
    while waiting := {
        name for name, rounds in target.ask("rounds")["rounds"].items() if rounds < before[name] + 2
    }:
        assert time.monotonic() < deadline, f"these do not go on: {waiting}"


def report(target: Target) -> Account:
    return {work: set(outcomes) for work, outcomes in target.ask("report").items()}


def compare(
    start: Callable[[], Target], trouble: Callable[[Target], None] = stop_often
) -> tuple[Account, Account]:
    """The reports of a control run and of a run with `trouble`; both must go on to their end."""
    control = start()
    await_rounds(control)
    expected = report(control)
    target = start()
    trouble(target)
    await_rounds(target)
    return expected, report(target)


def await_free(pid: int) -> None:
    while any(tracer for _, tracer in thread_states(pid).values()):
        time.sleep(0.01)


def assert_free(pid: int) -> None:
    """Nobody traces it, and no stop is left in it."""
    for state, tracer in thread_states(pid).values():
        assert tracer == 0
        assert state not in "tT"
