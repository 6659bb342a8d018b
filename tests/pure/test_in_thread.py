"""A blocking call outside of the event loop leaves nothing behind, however it ends."""

import subprocess
import sys
import threading
import weakref

import pytest
import trio
import trio.testing

from gcorefs.mount.in_thread import in_thread
from gcorefs.process.errors import ProcessError, Reason

PID = 4711

pytestmark = pytest.mark.usefixtures("nothing_is_collected")


class Piece:
    """A local variable of a failing call."""


def failing(pieces: list["weakref.ref[Piece]"], go: threading.Event) -> None:
    piece = Piece()
    pieces.append(weakref.ref(piece))
    go.wait()
    raise ProcessError(Reason.LET_GO, PID)


async def test_an_error_is_gone_when_it_has_been_seen() -> None:
    pieces: list[weakref.ref[Piece]] = []
    go = threading.Event()
    go.set()
    limiter = trio.CapacityLimiter(1)
    try:
        await in_thread(PID, limiter, failing, pieces, go)
    except ProcessError as error:
        assert error.reason is Reason.LET_GO
    (piece,) = pieces
    assert piece() is None


async def test_an_error_that_nobody_waits_for_is_gone_at_once() -> None:
    pieces: list[weakref.ref[Piece]] = []
    go = threading.Event()
    limiter = trio.CapacityLimiter(1)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_thread, PID, limiter, failing, pieces, go)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    go.set()
    async with limiter:  # its thread has ended
        (piece,) = pieces
        assert piece() is None


async def test_a_result_is_what_the_call_returns() -> None:
    assert await in_thread(PID, trio.CapacityLimiter(1), divmod, 7, 2) == (3, 1)


# A process for each room that the thread may have: some is for the stack alone.
SCARCE = """
import os, resource, trio
from gcorefs.mount.in_thread import in_thread
from gcorefs.process.errors import ProcessError, Reason

async def call(room):
    used = int(open("/proc/self/statm").read().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))
    try:
        return await in_thread(1, trio.CapacityLimiter(1), os.getpid)
    except ProcessError as error:
        assert error.reason is Reason.NO_THREAD
        return None
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
outcomes = []
for room in range(stack - (1 << 20), stack + (4 << 20), 16384):
    if (child := os.fork()) == 0:
        os._exit(3 if trio.run(call, room) is None else 4)
    outcomes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(sorted(set(outcomes)), outcomes == sorted(outcomes))
"""


def test_a_thread_without_memory_for_its_first_frame_is_an_error() -> None:
    """trio waits forever for such a thread, and with it the whole server."""
    result = subprocess.run(
        [sys.executable, "-c", SCARCE], timeout=120, capture_output=True, check=True, text=True
    )
    assert (result.stdout, result.stderr) == ("[3, 4] True\n", "")
