"""A process whose threads run before all others is stopped like any other."""

import json
import os
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.conftest import Mount, Target, of_each_thread
from tests.mounted.conftest import eventually, gcorefs, is_free, is_held, opened
from tests.turns import alone

OPENS = 3
CPU = max(os.sched_getaffinity(0))


@pytest.fixture
def beside(mount: Mount) -> Iterator[Mount]:
    """A mount whose server has one processor, the one that the target uses."""
    allowed = os.sched_getaffinity(mount.server)

    def move(cpus: set[int]) -> None:
        of_each_thread(mount.server, lambda _, tid: os.sched_setaffinity(tid, cpus))

    move({CPU})
    try:
        yield mount
    finally:
        move(allowed)


def has_gone_on(target: Target, turns: int) -> bool:
    return bool(target.ask("turns")["turns"] > turns)


@alone
@pytest.mark.parametrize("policy", ["fifo", "deadline"])
def test_a_thread_that_runs_before_us_is_stopped_and_goes_on(
    beside: Mount, spawn: Callable[..., Target], policy: str
) -> None:
    target = spawn("urgent", policy, CPU)
    for _ in range(OPENS):
        turns = target.ask("turns")["turns"]
        with opened(beside / target.pid) as fd:
            assert os.read(fd, 4) == b"\x7fELF"
            assert is_held(target.pid)
            facts = json.loads(gcorefs("info", "--json", beside / target.pid).stdout)
            assert facts["gcorefs"]["threads"]["stopped"] == 2
        eventually(partial(is_free, target.pid))
        eventually(partial(has_gone_on, target, turns))
