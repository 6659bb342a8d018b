"""Fault points: the steps of a stop (gcorefs/steps.py) at which a test holds the server.

A test's server has the `reach` of this module in its tuning (the fixture `held_at` in conftest.py
arranges that).  A thread that reaches a step tries to connect to a socket named after the step and
the process.  If a test listens there, that thread waits until the test lets it go on, and no other
thread does.
"""

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gcorefs.steps import Step


def _address(token: str, step: Step, pid: int) -> str:
    # The abstract namespace (unix(7)): nothing to clean up, and no limit on tmp_path.
    return f"\0gcorefs-{token}-{step.name}-{pid}"


@dataclass(frozen=True, slots=True)
class Point:
    """A step, when a process reaches it for the `nth` time."""

    step: Step
    nth: int = 1
    name: str = ""

    def __str__(self) -> str:
        return self.name or self.step.name.lower().replace("_", "-")


LOOKUP = Point(Step.LOOKUP)
IDENTIFIED = Point(Step.IDENTIFIED)
BEFORE_FIRST_DOOR = Point(Step.BEFORE_DOOR, name="before-first-door")
AFTER_FIRST_DOOR = Point(Step.AFTER_DOOR, name="after-first-door")
MAKING_ROOM = Point(Step.MAKING_ROOM)
ROOM_MADE = Point(Step.ROOM_MADE)
BEFORE_SEIZE = Point(Step.BEFORE_SEIZE)
SEIZED_ONE = Point(Step.SEIZED_ONE)
SEIZED_ALL = Point(Step.SEIZED_ALL)
INTERRUPTED_ONE = Point(Step.INTERRUPTED_ONE)
INTERRUPTED_ALL = Point(Step.INTERRUPTED_ALL)
SIGNAL_FIRST = Point(Step.SIGNAL_FIRST)
STOPPED_ONE = Point(Step.STOPPED_ONE)
REPAIRED_ONE = Point(Step.REPAIRED_ONE)
RECORDED_ONE = Point(Step.RECORDED_ONE)
RECORDED_ALL = Point(Step.RECORDED_ALL)
PINNED = Point(Step.PINNED)
# The first door has judged the opener, then the thread that takes the snapshot has judged it again.
# This is the judgement when everything stands still.
SECOND_DOOR = Point(Step.BEFORE_DOOR, 3, "second-door")
SMAPS = Point(Step.SMAPS)
ASSEMBLED = Point(Step.ASSEMBLED)
TAKEN = Point(Step.TAKEN)
FORKING = Point(Step.FORKING)
FORKED = Point(Step.FORKED)
COPYING = Point(Step.COPYING)
FILLED = Point(Step.FILLED)
COPIED = Point(Step.COPIED)
READING = Point(Step.READING)
# The reader waits for the first window; this is the second.
READING_AHEAD = Point(Step.READING_CORE, 2, "reading-ahead")
RELEASED = Point(Step.RELEASED)
BEFORE_DETACH = Point(Step.BEFORE_DETACH)
DETACHED_ONE = Point(Step.DETACHED_ONE)
DETACHED_ALL = Point(Step.DETACHED_ALL)


# This runs in the server.


def reach_of(token: str) -> Callable[[Step, int], None]:
    """A `reach` that waits wherever a test listens.  `token` separates the sockets of tests."""

    def reach(step: Step, pid: int) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(_address(token, step, pid))
            except ConnectionRefusedError:  # nobody listens
                return
            is_to_fail = b""
            with contextlib.suppress(ConnectionResetError):  # one too many: the test has its thread
                is_to_fail = sock.recv(1)
            if is_to_fail:
                raise MemoryError

    return reach


# These run in the test.


class Hold:
    """A listener at one point for one process."""

    def __init__(self, point: Point, token: str, pid: int) -> None:
        self._nth = point.nth
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(_address(token, point.step, pid))
        self._listener.listen(1)
        self._held: socket.socket | None = None

    def wait(self) -> None:
        """Wait until the server is at the point."""
        for number in range(1, self._nth + 1):
            sock, _ = self._listener.accept()
            if number < self._nth:
                sock.close()
        self._held = sock
        self._listener.close()  # later threads pass the point

    def fail(self) -> None:
        """Let the server find no memory there."""
        assert self._held is not None
        self._held.send(b"\1")

    def go_on(self) -> None:
        """Let the server go on, if it still exists."""
        self._listener.close()
        if self._held is not None:
            self._held.close()


@contextlib.contextmanager
def held(point: Point, token: str, pid: int) -> Iterator[Hold]:
    hold = Hold(point, token, pid)
    try:
        yield hold
    finally:
        hold.go_on()
