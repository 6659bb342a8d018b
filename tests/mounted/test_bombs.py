"""A process that makes threads or children without end is stopped, and none is left stopped."""

import json
import os
from collections.abc import Callable
from functools import partial

import pytest

from gcorefs.kernel.proc import tasks
from tests.conftest import Mount, Target
from tests.mounted.conftest import eventually, gcorefs, is_free, is_held, opened

OPENS = 3


def has_made_more(target: Target, made: int) -> bool:
    return bool(target.ask("count")["made"] > made)


@pytest.mark.parametrize(("kind", "count"), [("hop", 1), ("hop", 8), ("grow", 300), ("fork", 2)])
def test_a_bomb_is_stopped_and_goes_on(
    mount: Mount, spawn: Callable[..., Target], kind: str, count: int
) -> None:
    target = spawn("bomb", kind, count)
    for _ in range(OPENS):
        with opened(mount / target.pid) as fd:
            assert os.read(fd, 4) == b"\x7fELF"
            assert is_held(target.pid)
            threads = len(tasks.tids(target.pid))
            facts = json.loads(gcorefs("info", "--json", mount / target.pid).stdout)
            assert facts["threads"] == facts["gcorefs"]["threads"]["stopped"] == threads
        eventually(partial(is_free, target.pid))
        if kind != "grow":
            eventually(partial(has_made_more, target, target.ask("count")["made"]))
    # None of its children saw anything, and none is left stopped: it waits for each of them.
    assert target.ask("end") == {"ended": True, "errors": 0}
