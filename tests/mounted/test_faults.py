"""Whoever dies, at whatever step of a stop, nobody else is hurt.

At every step a test holds the server there.  Then the server, the reader or the target dies, or the
target gets a signal, and the server goes on if it lives.  Afterwards, if the target lives, nobody
traces it, it runs or is stopped as before, and its ledger balances.  Its parent has heard of every
change, once.  The reader has an answer.  The mount answers, or is gone and can be made again.
"""

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pytest

from gcorefs.process.errors import Reason
from tests.conftest import Mount, take_away, wait_until_gone
from tests.mounted import faultpoints as at
from tests.mounted.conftest import (
    CUT_OFF,
    errno_of,
    eventually,
    gcorefs,
    is_free,
    opened,
)
from tests.mounted.faultpoints import Hold, Point
from tests.mounted.parties import CONTINUED, STOPPED, Ledger, Reader

SIGNALS = 3
KILLS = [1, pytest.param(100, marks=[pytest.mark.full, pytest.mark.timeout(1200)])]
"""How often the server is killed at each step."""

HeldAt = Callable[[Point, int], AbstractContextManager[Hold]]
MountWith = Callable[..., Mount]


@dataclass(frozen=True, slots=True)
class Step:
    point: Point | None
    """The point at which the server is held; None: the server is idle, and has answered all."""
    before: tuple[str, ...]
    """The earlier steps of the reader, and its steps while the server comes to the point."""
    asked: tuple[str, ...]
    killed: tuple[int, ...]
    """The reader's errno if the target dies here; 0 if the reader already has all it asked for."""
    in_tracer: bool = False
    """The tracer itself is held, so the parent hears of a death only when it goes on."""
    options: tuple[str, ...] = ()
    rest: str = "memory"
    """The later steps of the reader, with `result` if nobody died."""
    result: int = 0
    name: str = ""

    def __str__(self) -> str:
        return self.name or str(self.point)


def in_tracer(point: Point) -> Step:
    # The death is noticed while the tracer waits for threads, or when all seem recorded.
    killed = (errno.ESRCH, errno.EIO)
    return Step(point, (), ("open", "read"), killed, in_tracer=True)


def letting_go(point: Point) -> Step:
    return Step(point, ("open", "read", "memory"), ("close",), (0,), in_tracer=True, rest="")


STEPS = [
    Step(at.LOOKUP, (), ("open",), (errno.ENOENT,)),
    Step(at.IDENTIFIED, (), ("open",), (errno.ESRCH,)),
    Step(at.BEFORE_FIRST_DOOR, (), ("open",), (errno.ESRCH,)),
    Step(at.AFTER_FIRST_DOOR, (), ("open",), (errno.ESRCH,)),
    in_tracer(at.BEFORE_SEIZE),
    in_tracer(at.SEIZED_ONE),
    in_tracer(at.SEIZED_ALL),
    in_tracer(at.INTERRUPTED_ONE),
    in_tracer(at.INTERRUPTED_ALL),
    in_tracer(at.STOPPED_ONE),
    in_tracer(at.REPAIRED_ONE),
    in_tracer(at.RECORDED_ONE),
    in_tracer(at.RECORDED_ALL),
    Step(at.PINNED, (), ("open", "read"), (errno.EIO,)),
    Step(at.SECOND_DOOR, (), ("open", "read"), (errno.ESRCH,)),
    Step(at.SMAPS, (), ("open", "read"), (errno.EIO,)),
    Step(at.ASSEMBLED, (), ("open", "read"), (errno.EIO,)),
    Step(at.TAKEN, (), ("open", "read"), (errno.EIO,)),
    Step(None, ("open", "poll"), (), (errno.EIO,), name="ready"),
    Step(None, ("open", "read"), (), (errno.EIO,), name="header-read"),
    Step(at.READING, ("open", "read"), ("memory",), (errno.EIO,)),
    Step(at.READING_AHEAD, ("open", "read"), ("ahead",), (errno.EIO,)),
    Step(
        at.RELEASED,
        ("open", "read"),
        (),
        (errno.EIO,),
        in_tracer=True,
        options=("idle_timeout=0.1",),
        result=errno.EIO,
        name="idle",
    ),
    letting_go(at.RELEASED),
    letting_go(at.BEFORE_DETACH),
    letting_go(at.DETACHED_ONE),
    letting_go(at.DETACHED_ALL),
]
every_step = pytest.mark.parametrize("step", STEPS, ids=str)


@contextlib.contextmanager
def at_step(
    mount: Mount, held_at: HeldAt, step: Step, ledger: Ledger, way: str = "read"
) -> Iterator[tuple[Reader, Callable[[], None]]]:
    """A reader that has asked, and a server that is held there.  Call the second value to go on."""
    reader = Reader(str(mount / ledger.pid), int(ledger.truth["memory"], 16))
    hold = contextlib.nullcontext() if step.point is None else held_at(step.point, ledger.pid)
    try:
        for each in step.before:
            assert reader.do(way if each == "read" else each) == 0
        with hold as held:
            for each in step.asked:
                reader.ask(way if each == "read" else each)
            if held is not None:
                held.wait()
            yield reader, held.go_on if held is not None else lambda: None
    finally:
        reader.kill()
        reader.end()


def allow_warnings(mount: Mount, ledger: Ledger, *reasons: Reason) -> None:
    for reason in reasons:
        mount.allow(f"process {ledger.pid}: {reason.text}")


def finish(reader: Reader, step: Step) -> None:
    """The reader goes on to its end as if nothing had happened."""
    while reader.asked:
        assert reader.answer() == 0
    if step.rest:
        assert reader.do("memory") == step.result
        assert reader.do("close") == 0


def assert_answers(mount: Mount, ledger: Ledger) -> None:
    """The mount gives a new core of the process, whatever happened to the one before."""
    with opened(mount / ledger.pid) as fd:
        assert os.read(fd, 4) == b"\x7fELF"
    eventually(lambda: is_free(ledger.pid))


# The server lives.


@pytest.mark.timeout(60)  # less than the server waits for a stop: the parent hears because of that
@every_step
def test_the_target_or_its_reader_dies_or_is_signalled(
    step: Step, ledger: Callable[[], Ledger], held_at: HeldAt, mount_with: MountWith
) -> None:
    mount = mount_with("stop_timeout=60", *step.options)
    if step.options:
        mount.expect("let go, its file was not read")
        mount.expect(Reason.LET_GO.text)
    target_is_killed(mount, held_at, step, ledger())
    ways = ["read", "poll", "map"] if "read" in step.asked else ["read"]
    for way in ways:
        reader_is_killed(mount, held_at, step, ledger(), way)
    target_is_signalled(mount, held_at, step, ledger())
    target_is_stopped(mount, held_at, step, ledger())
    if step.point is not at.REPAIRED_ONE:  # in a group-stop there is nothing to repair
        target_is_continued(mount, held_at, step, ledger())
        stopped_target_stays_stopped(mount, held_at, step, ledger())


def target_is_killed(mount: Mount, held_at: HeldAt, step: Step, ledger: Ledger) -> None:
    allow_warnings(mount, ledger, Reason.GONE, Reason.DIED)
    with at_step(mount, held_at, step, ledger) as (reader, go_on):
        os.kill(ledger.pid, signal.SIGKILL)
        if step.in_tracer:
            go_on()
        ledger.hear(signal.SIGKILL)  # while the file is open, and other processes are held
        go_on()
        answers = [reader.answer() for _ in step.asked]
        if step.rest:
            answers.append(reader.do("memory"))
        assert next((each for each in answers if each), 0) in step.killed
    os.stat(mount / os.getpid())


def reader_is_killed(mount: Mount, held_at: HeldAt, step: Step, ledger: Ledger, way: str) -> None:
    with at_step(mount, held_at, step, ledger, way) as (reader, go_on):
        reader.kill()
        go_on()
    ledger.assert_unhurt()
    assert_answers(mount, ledger)


def target_is_signalled(mount: Mount, held_at: HeldAt, step: Step, ledger: Ledger) -> None:
    with at_step(mount, held_at, step, ledger) as (reader, go_on):
        ledger.signal(SIGNALS)
        go_on()
        finish(reader, step)
    ledger.assert_unhurt()


def target_is_stopped(mount: Mount, held_at: HeldAt, step: Step, ledger: Ledger) -> None:
    with at_step(mount, held_at, step, ledger) as (reader, go_on):
        os.kill(ledger.pid, signal.SIGSTOP)
        go_on()
        finish(reader, step)
    ledger.hear(STOPPED)
    ledger.resume()
    ledger.assert_unhurt(eintr=1)  # the EINTR of SIGSTOP itself (signal(7))


def target_is_continued(mount: Mount, held_at: HeldAt, step: Step, ledger: Ledger) -> None:
    ledger.stop()
    with at_step(mount, held_at, step, ledger) as (reader, go_on):
        os.kill(ledger.pid, signal.SIGCONT)
        go_on()
        finish(reader, step)
    ledger.hear(CONTINUED)
    ledger.assert_unhurt(eintr=1)


def stopped_target_stays_stopped(mount: Mount, held_at: HeldAt, step: Step, ledger: Ledger) -> None:
    ledger.stop()
    with at_step(mount, held_at, step, ledger) as (reader, go_on):
        go_on()
        finish(reader, step)
    ledger.resume()
    ledger.assert_unhurt(eintr=1)


# The server dies.


@pytest.mark.parametrize("kills", KILLS)
@every_step
def test_the_server_is_killed_or_ended(
    step: Step, kills: int, ledger: Callable[[], Ledger], held_at: HeldAt, unmounted: Mount
) -> None:
    if step.options:
        unmounted.expect("let go, its file was not read")
    for _ in range(kills):
        take_away(unmounted)  # what the kill before has left
        unmounted.make(*step.options)
        server_dies(unmounted, held_at, step, ledger(), ledger(), signal.SIGKILL)
        assert errno_of(lambda: os.stat(unmounted.path)) == errno.ENOTCONN
    assert gcorefs("umount", unmounted.path).returncode == 0
    unmounted.make(*step.options)
    server_dies(unmounted, held_at, step, ledger(), ledger(), signal.SIGTERM)
    assert os.listdir(unmounted.path) == []  # the directory below the mount


def server_dies(
    mount: Mount,
    held_at: HeldAt,
    step: Step,
    running: Ledger,
    stopped: Ledger,
    number: signal.Signals,
) -> None:
    parties = [running]
    if step.point not in (at.REPAIRED_ONE, at.LOOKUP):
        stopped.stop()
        parties.append(stopped)
    with contextlib.ExitStack() as stack:
        held = []
        for each in parties:
            allow_warnings(mount, each, Reason.LET_GO)
            held.append(stack.enter_context(at_step(mount, held_at, step, each)))
        running.signal(SIGNALS)
        server = mount.server
        os.kill(server, number)
        if number == signal.SIGTERM:
            eventually(lambda: "ends on SIGTERM" in mount.log.read_text())
            for _, go_on in held:
                go_on()
        wait_until_gone(server)
        for reader, _ in held:
            answers = [reader.answer() for _ in step.asked]
            if step.rest:
                answers.append(reader.do("memory"))
                assert next(filter(None, answers)) in {errno.ENODEV, *CUT_OFF}
    running.assert_unhurt()
    if stopped in parties:
        stopped.resume()
        stopped.assert_unhurt(eintr=1)


def test_a_signal_that_came_before_the_stop_outlives_the_server(
    ledger: Callable[[], Ledger], held_at: HeldAt, unmounted: Mount
) -> None:
    """The tracer is killed after it has seen a signal-delivery-stop and before it passes it on."""
    unmounted.make()
    target = ledger()
    step = in_tracer(at.SEIZED_ALL)
    with at_step(unmounted, held_at, step, target) as (reader, go_on):
        target.signal(SIGNALS)
        eventually(lambda: target.states()[target.truth["taker"]][0] == "t")
        with held_at(at.SIGNAL_FIRST, target.pid) as hold:
            go_on()
            hold.wait()
            server = unmounted.server
            os.kill(server, signal.SIGKILL)
            wait_until_gone(server)
        assert {reader.answer() for _ in step.asked} & CUT_OFF
    target.assert_unhurt(eintr=1)
