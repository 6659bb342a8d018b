"""How long a look-up waits for the estimate of a size: once for each owner, and then not again for
a while."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

import pytest
from pyfuse3 import RequestContext

from gcorefs.elfcore.estimate import Counters
from gcorefs.elfcore.memory_rules import MemoryRule
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.look import Look, rough_estimate
from gcorefs.mount import looks
from gcorefs.mount.errors import RequestReason
from gcorefs.mount.inodes import Inode
from gcorefs.mount.limits import Budget
from gcorefs.mount.looks import Looks
from gcorefs.mount.options import DEFAULT
from gcorefs.mount.questions import Questions
from gcorefs.mount.sight import Sight
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.tuning import Tuning

EXACT = 12345
CALLER = 1000
HOSTILE, INNOCENT = 4001, 4002
TUNING = Tuning(estimate_timeout=0.5)

Tune = Callable[[Tuning], None]


class Caller:
    uid, gid, pid = CALLER, CALLER, 1


def process(pid: int, owner: int) -> Look:
    counters = Counters(threads=1, mapped=1 << 20, anonymous=1 << 16, huge=0)
    here = 1 << 16
    return Look(Process(pid, 1), owner, owner, pid, 0x33, counters, here, shareable=0, at=0.0)


class Asked:
    """The estimate of a process: a stuck one never comes."""

    def __init__(self, *stuck: int) -> None:
        self.pids: list[int] = []
        self.end = threading.Event()
        self._stuck = stuck

    def __call__(self, found: Look, rule: MemoryRule) -> int:
        self.pids.append(found.process.pid)
        if found.process.pid in self._stuck:
            self.end.wait()
        return EXACT


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tune: Tune) -> Iterator[Asked]:
    asked = Asked(1)
    monkeypatch.setattr(looks, "estimate", asked)
    tune(TUNING)
    yield asked
    asked.end.set()


@pytest.fixture
def made() -> Looks:
    requests = Budget(99, 99, RequestReason.USER_REQUESTS, RequestReason.ALL_REQUESTS)
    return Looks(cast(Sight, None), Questions(), requests)


async def size(looks: Looks, found: Look) -> int:
    inode = Inode(found.process.pid << 22, found.process, DEFAULT)
    return (await looks.with_size(found, inode, cast(RequestContext, Caller))).estimate


async def test_one_that_does_not_answer_is_waited_for_once(asked: Asked, made: Looks) -> None:
    stuck, other = process(1, HOSTILE), process(2, HOSTILE)
    assert await size(made, stuck) == rough_estimate(stuck)
    assert await size(made, stuck) == rough_estimate(stuck)
    assert await size(made, other) == rough_estimate(other)
    assert asked.pids == [1]


async def test_the_processes_of_others_are_asked_all_the_same(asked: Asked, made: Looks) -> None:
    await size(made, process(1, HOSTILE))
    assert await size(made, process(2, INNOCENT)) == EXACT


async def test_it_is_asked_again_later(asked: Asked, made: Looks, tune: Tune) -> None:
    tune(replace(TUNING, guess_for=0.0))
    await size(made, process(1, HOSTILE))
    assert await size(made, process(2, HOSTILE)) == EXACT


async def test_a_caller_with_too_many_questions_makes_nobody_a_guess(
    asked: Asked, made: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    innocent = process(2, INNOCENT)

    async def in_vain(*_: object) -> int:
        raise ProcessError(Reason.STUCK, 2)

    with monkeypatch.context() as patch:
        patch.setattr(Questions, "ask", in_vain)
        assert await size(made, innocent) == rough_estimate(innocent)
    assert await size(made, replace(innocent, at=1.0)) == EXACT
