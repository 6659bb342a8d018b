"""Processes under conditions that a stop must neither break nor need broken."""

from collections.abc import Callable

import pytest

from tests.conftest import Target
from tests.live.accounts import compare

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


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_confined_process_goes_on(spawn: Spawn, condition: str) -> None:
    expected, account = compare(lambda: spawn("confined", condition))
    assert all(outcomes == {"ok"} for outcomes in expected.values()), expected
    assert account == expected
