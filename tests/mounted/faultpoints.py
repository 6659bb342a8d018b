"""Fault points: named steps of a stop at which a test can hold the server.

The product does not know them.  A test's server runs `install` first (the fixture `held_at` in
conftest.py arranges that), which wraps the function of each point.  A thread that reaches a point
tries to connect to a socket named after the point and the process.  If a test listens there, that
thread waits until the test lets it go on, and no other thread does.
"""

import contextlib
import functools
import importlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

PATIENCE = 20.0
"""Seconds for the server to reach the point: a bound against hanging, not a measurement."""


@dataclass(frozen=True, slots=True)
class Point:
    """Before or after the `nth` call of a function for one process."""

    name: str
    module: str
    function: str
    """As the module calls it: an attribute, or an attribute of a class."""
    when: Literal["before", "after"]
    nth: int = 1

    def __str__(self) -> str:
        return self.name

    def address(self, token: str, pid: int) -> str:
        # The abstract namespace (unix(7)): nothing to clean up, and no limit on tmp_path.
        return f"\0gcorefs-{token}-{self.name}-{pid}"


_HOLDING = "gcorefs.sources.holding"
_STOPPING = "gcorefs.sources.stopping"
_TRACEES = "gcorefs.sources.tracees"
_CALLS = "gcorefs.kernel.ptrace"

LOOKUP = Point("lookup", "gcorefs.mount.sight", "look", "before")
IDENTIFIED = Point("identified", "gcorefs.mount.door", "refuse_early", "before")
BEFORE_FIRST_DOOR = Point("before-first-door", "gcorefs.process.access", "_open_memory", "before")
AFTER_FIRST_DOOR = Point("after-first-door", "gcorefs.process.access", "_open_memory", "after")
MAKING_ROOM = Point("making-room", "gcorefs.holder", "HoldCopy.prepare", "before")
ROOM_MADE = Point("room-made", "gcorefs.holder", "HoldCopy.prepare", "after")
BEFORE_SEIZE = Point("before-seize", _CALLS, "seize", "before")
SEIZED_ONE = Point("seized-one", _CALLS, "seize", "after")
SEIZED_ALL = Point("seized-all", _STOPPING, "Stopping._interrupt", "before")
INTERRUPTED_ONE = Point("interrupted-one", _CALLS, "interrupt", "after")
INTERRUPTED_ALL = Point("interrupted-all", _STOPPING, "Stopping._interrupt", "after")
SIGNAL_FIRST = Point("signal-first", _CALLS, "resume", "before")
STOPPED_ONE = Point("stopped-one", _TRACEES, "Tracees._record", "before")
REPAIRED_ONE = Point("repaired-one", _CALLS, "poke_user", "after")
RECORDED_ONE = Point("recorded-one", _TRACEES, "Tracees._record", "after")
RECORDED_ALL = Point("recorded-all", _STOPPING, "Stopping.stop_all", "after")
PINNED = Point("pinned", "gcorefs.stopped", "MemFile.__init__", "after")
# The first door has judged the opener, then the thread that takes the snapshot has judged it again.
# This is the judgement when everything stands still.
SECOND_DOOR = Point("second-door", "gcorefs.process.access", "_open_memory", "before", 3)
SMAPS = Point("smaps", "gcorefs.sources.procfs", "ProcMappings.mappings", "after")
ASSEMBLED = Point("assembled", "gcorefs.stopped", "gather", "after")
TAKEN = Point("taken", "gcorefs.stopped", "Stop.core", "after")
COPYING = Point("copying", "gcorefs.process.copy", "Copy.fill", "before")
FILLED = Point("filled", "gcorefs.process.copy", "Copy.fill", "after")
COPIED = Point("copied", "gcorefs.core", "Core.fill", "after")
READING = Point("reading", "gcorefs.kernel.process_vm", "read_memory", "before")
# The reader waits for the first window; this is the second.
READING_AHEAD = Point("reading-ahead", "gcorefs.core", "Core.read_into", "before", 2)
RELEASED = Point("released", _HOLDING, "_let_go", "before")
BEFORE_DETACH = Point("before-detach", _CALLS, "detach", "before")
DETACHED_ONE = Point("detached-one", _CALLS, "detach", "after")
DETACHED_ALL = Point("detached-all", _HOLDING, "_let_go", "after")

POINTS = [value for value in tuple(globals().values()) if isinstance(value, Point)]


# These run in the server.


def install(token: str) -> None:
    """Wrap the function of every point.  `token` separates the sockets of different tests."""
    for point in POINTS:
        owner: Any = importlib.import_module(point.module)
        *path, name = point.function.split(".")
        for step in path:
            owner = getattr(owner, step)
        setattr(owner, name, _wrapped(getattr(owner, name), point, token))


def _wrapped(function: Callable[..., Any], point: Point, token: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*arguments: Any, **named: Any) -> Any:
        if point.when == "before":
            _come_by(point, token, arguments)
        try:
            return function(*arguments, **named)
        finally:
            if point.when == "after":
                _come_by(point, token, arguments)

    return wrapper


def _come_by(point: Point, token: str, arguments: tuple[Any, ...]) -> None:
    pid = _process(arguments)
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(point.address(token, pid))
        except ConnectionRefusedError:  # nobody listens
            return
        is_to_fail = b""
        with contextlib.suppress(ConnectionResetError):  # one too many: the test has its thread
            is_to_fail = sock.recv(1)
        if is_to_fail:
            raise MemoryError


def _process(arguments: tuple[Any, ...]) -> int:
    """The process for which a call is made; 0 if that is not known."""
    name = threading.current_thread().name
    if name.startswith("gcorefs-tracer-"):
        return int(name.rpartition("-")[2])
    for argument in arguments:
        process = getattr(argument, "process", getattr(argument, "mem", argument))
        for name in ("pid", "_pid", "_tid"):
            if type(pid := getattr(process, name, process)) is int:
                return pid  # a thread's id, where it is the leader's
    return 0


# These run in the test.


class Hold:
    """A listener at one point for one process."""

    def __init__(self, point: Point, token: str, pid: int) -> None:
        self._nth = point.nth
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(point.address(token, pid))
        self._listener.listen(1)
        self._listener.settimeout(PATIENCE)
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
