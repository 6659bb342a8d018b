"""Wherever the server is out of memory, one request fails, and nobody is hurt."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcorefs.process.errors import Reason
from tests.conftest import Mount
from tests.mounted import faultpoints as at
from tests.mounted.conftest import eventually, is_free, opened
from tests.mounted.faultpoints import Point
from tests.mounted.parties import Ledger, Reader
from tests.mounted.test_faults import STEPS, HeldAt, MountWith, Step

LETTING_GO = (at.RELEASED, at.BEFORE_DETACH, at.DETACHED_ONE, at.DETACHED_ALL)
"""Points at which nobody waits for an answer."""


@pytest.fixture
def ledger(build: Callable[[str], Path]) -> Iterator[Ledger]:
    ledger = Ledger([str(build("parent")), "--times", str(build("ledger"))])
    yield ledger
    ledger.end()


def expected(step: Step) -> int:
    if step in COPYING:
        return step.result
    if step.point in LETTING_GO or step.point is at.READING_AHEAD:  # the read needs no read-ahead
        return 0
    return errno.ENOMEM


def answers(reader: Reader, step: Step) -> list[int]:
    found = [reader.answer() for _ in step.asked]
    return found if any(found) or not step.rest else [*found, reader.do("memory")]


def once_more(mount: Mount, ledger: Ledger) -> None:
    eventually(lambda: is_free(ledger.pid))
    with opened(mount / ledger.pid) as fd:
        assert os.read(fd, 4) == b"\x7fELF"
    eventually(lambda: is_free(ledger.pid))


def copying(point: Point, result: int) -> Step:
    # The copy begins when the core is ready, and ends while it is read.
    return Step(point, (), ("open", "read"), (), options=("hold=copy",), result=result)


COPYING = [
    copying(at.MAKING_ROOM, errno.ENOMEM),
    copying(at.ROOM_MADE, errno.ENOMEM),
    copying(at.COPYING, 0),
    copying(at.FILLED, 0),
    copying(at.COPIED, 0),
]


@pytest.mark.parametrize("step", [*(step for step in STEPS if step.asked), *COPYING], ids=str)
def test_at_every_step(step: Step, ledger: Ledger, held_at: HeldAt, mount_with: MountWith) -> None:
    mount = mount_with("stop_timeout=60", *step.options)
    mount.allow(Reason.NO_MEMORY.text)
    assert isinstance(step.point, Point)
    reader = Reader(str(mount / ledger.pid), int(ledger.truth["memory"], 16))
    try:
        for each in step.before:
            assert reader.do(each) == 0
        with held_at(step.point, ledger.pid) as hold:
            for each in step.asked:
                reader.ask(each)
            hold.wait()
            hold.fail()
            found = answers(reader, step)
        assert next(filter(None, found), 0) == expected(step)
        if step.point is at.COPIED:  # the copy itself is good
            eventually(lambda: is_free(ledger.pid))
    finally:
        reader.kill()
        reader.end()
    ledger.assert_unhurt()
    once_more(mount, ledger)
    ledger.assert_unhurt()
