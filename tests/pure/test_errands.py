"""Work that another thread does for the event loop, which waits in place for a moment."""

import threading
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio

from gcorefs.mount.errands import Errand, Errands, Work
from tests import own_tasks

USER = 1000


def fill(byte: bytes) -> Work:
    def work(buffer: memoryview) -> bool:
        buffer[:] = byte * len(buffer)
        return True

    return work


def late(go: threading.Event, byte: bytes) -> Work:
    def work(buffer: memoryview) -> bool:
        go.wait()
        return fill(byte)(buffer)

    return work


def runners() -> int:
    return own_tasks.names().count("gcorefs-errands")


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not condition():
            await trio.lowlevel.checkpoint()


async def result(errand: Errand) -> bytes | None:
    """The result, however long it takes."""
    if not errand.is_done:
        await errand.arrival()
    data = errand.take()
    return None if data is None else bytes(data)


def test_what_was_read_is_as_long_as_asked_for() -> None:
    async def main() -> None:
        errands = Errands()
        for length in (1, 4096, 1 << 20):
            assert await result(errands.begin(USER, fill(b"a"), length)) == b"a" * length

    trio.run(main)


def test_what_would_have_to_wait_is_nothing() -> None:
    async def main() -> None:
        assert await result(Errands().begin(USER, lambda _: False, 8)) is None

    trio.run(main)


def test_an_error_is_the_askers_and_the_runner_goes_on() -> None:
    def work(buffer: memoryview) -> bool:
        raise ValueError("surprise")

    async def main() -> None:
        errands = Errands()
        for _ in range(10):
            with pytest.raises(ValueError, match="surprise"):
                await result(errands.begin(USER, work, 8))
        assert await result(errands.begin(USER, fill(b"a"), 8)) == b"a" * 8

    trio.run(main)


def test_a_late_errand_is_given_to_nobody_else_and_keeps_its_bytes() -> None:
    async def main() -> None:
        errands = Errands()
        go = threading.Event()
        slow = errands.begin(USER, late(go, b"s"), 8)
        assert not slow.is_done
        for _ in range(100):
            assert await result(errands.begin(USER, fill(b"q"), 8)) == b"q" * 8
        go.set()
        await slow.arrival()
        others = [errands.begin(USER, fill(b"o"), 8) for _ in range(10)]
        data = slow.take()
        assert data is not None
        assert bytes(data) == b"s" * 8
        assert [await result(other) for other in others] == [b"o" * 8] * len(others)

    trio.run(main)


async def give_up(errand: Errand) -> None:
    with trio.move_on_after(0):
        await errand.arrival()


async def leave_alone(errand: Errand) -> None:
    """Never take the result."""


@pytest.mark.parametrize("leave", [give_up, leave_alone])
def test_one_that_nobody_waits_for_gives_its_thread_back(
    leave: Callable[[Errand], Awaitable[None]],
) -> None:
    async def main() -> None:
        errands = Errands()
        before = runners()
        for _ in range(20):
            go = threading.Event()
            slow = errands.begin(USER, late(go, b"s"), 8)
            assert not slow.is_done
            await leave(slow)
            assert not slow.is_over
            go.set()
            await until(partial(getattr, slow, "is_over"))
        assert runners() <= before + 1  # runners of earlier tests may end meanwhile

    trio.run(main)


def test_of_many_threads_a_few_stay() -> None:
    async def main() -> None:
        errands = Errands()
        before = runners()
        go = threading.Event()
        slow = [errands.begin(USER, late(go, b"s"), 8) for _ in range(20)]
        assert runners() == before + len(slow)
        go.set()
        for each in slow:
            assert await result(each) == b"s" * 8
        await until(lambda: runners() <= before + 4)

    trio.run(main)
