"""Processes under conditions that a stop must not break, and need not break."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Target
from tests.live.accounts import await_rounds, compare, stop_often

Spawn = Callable[..., Target]

CONDITIONS = [
    "seccomp",
    "strict",
    "no_new_privs",
    "undumpable",
    "tiny_limits",
    "fifo",
    "idle",
    "nice",
]
CASES = [("confined", condition) for condition in CONDITIONS]
CASES += [("confined32", condition) for condition in ("seccomp", "strict")]


@pytest.mark.parametrize(("program", "condition"), CASES)
def test_a_confined_process_goes_on(spawn: Spawn, program: str, condition: str) -> None:
    expected, account = compare(lambda: spawn(program, condition))
    assert all(outcomes == {"ok"} for outcomes in expected.values()), expected
    assert account == expected


def test_a_filter_is_seen_behind_many_groups(build: Callable[[str], Path]) -> None:
    """/proc/PID/status lists the groups before the line about the filter."""
    groups = ",".join(str(4_000_000_000 + number) for number in range(1_000))
    target = Target(["setpriv", f"--groups={groups}", str(build("confined")), "seccomp"])
    try:
        stop_often(target, 20)
        await_rounds(target)
    finally:
        target.kill()
