"""A blocking call outside of the event loop leaves nothing behind, however it ends."""

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
