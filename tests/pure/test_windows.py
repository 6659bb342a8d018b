"""Every byte of memory for reading ahead is charged to somebody, and given back."""

import threading
import time
from collections.abc import Callable

import pytest
import trio
import trio.testing

from gcorefs.mount.buffers import Buffers
from gcorefs.mount.errors import RequestReason
from gcorefs.mount.limits import Budget
from gcorefs.mount.readahead import ReadAhead
from gcorefs.mount.windows import WINDOW, WINDOWS, Windows
from tests import own_tasks

MIB = 1 << 20
EACH, TOTAL = 64 * MIB, 160 * MIB
SIZE = 1 << 40
THREAD = "test-windows"
SMALL = 4096
"""Bytes of a buffer that is no window."""


class Account:
    def __init__(self, each: int = EACH, total: int = TOTAL) -> None:
        self._budget = Budget(each, total, RequestReason.USER_MEMORY, RequestReason.ALL_MEMORY)
        self.buffers = Buffers()
        self.windows = Windows(self._budget, self.buffers)

    def used(self, uid: int) -> int:
        return self._budget.used(uid)

    def reader(self, uid: int, fill: Callable[[int, memoryview], int] | None = None) -> ReadAhead:
        return ReadAhead(fill or (lambda _, view: len(view)), SIZE, self.windows, uid, THREAD)


class Forward:
    """A reader that goes forward by 1 MiB at a time."""

    def __init__(self, reader: ReadAhead) -> None:
        self.reader = reader
        self.offset = 0

    async def read(self, count: int = 1) -> None:
        for _ in range(count):
            if self.reader.piece(self.offset, MIB) is None:
                with trio.fail_after(30):
                    await self.reader.arrival(self.offset, MIB)
            self.offset += MIB


async def filled(reader: Forward) -> None:
    """Wait until no thread works for it."""
    with trio.fail_after(30):
        while reader.reader.is_coming(reader.offset, MIB):
            await reader.reader.arrival(reader.offset, MIB)


async def forward(account: Account, uid: int) -> Forward:
    reader = Forward(account.reader(uid))
    await reader.read(2)
    return reader


def wait_for_its_thread(reader: ReadAhead) -> None:
    """Wait in place; no time passes for trio."""
    while any(reader.is_coming(offset, MIB) for offset in range(2 * MIB, 14 * MIB, MIB)):
        time.sleep(0.001)


def end(*readers: Forward) -> None:
    for each in readers:
        each.reader.close()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(30):
        while not condition():  # noqa: ASYNC110  # a thread tells of it
            await trio.sleep(0.001)


async def test_one_file_has_three_windows_of_the_largest_size() -> None:
    account = Account()
    reader = Forward(account.reader(7))
    await reader.read()
    assert account.used(7) == 0
    await reader.read()
    assert account.used(7) == WINDOWS * WINDOW == 12 * MIB
    await reader.read(40)
    assert account.used(7) == 12 * MIB
    end(reader)
    await until(lambda: account.used(7) == 0)


@pytest.mark.parametrize(("files", "window"), [(5, 4), (6, 2), (10, 2), (11, 1), (21, 1)])
async def test_the_windows_of_many_files_are_smaller(files: int, window: int) -> None:
    account = Account()
    readers = [await forward(account, 7) for _ in range(files)]
    for _ in range(40):
        for each in readers:
            await each.read()
            assert account.used(7) <= EACH
    assert account.used(7) == files * WINDOWS * window * MIB
    end(*readers)
    await until(lambda: account.used(7) == 0)


async def test_no_number_of_files_has_more_than_its_user_may() -> None:
    account = Account()
    readers = [await forward(account, 7) for _ in range(200)]
    for _ in range(12):
        for each in readers:
            await each.read()
            assert account.used(7) <= EACH
    # No more threads than windows.
    assert own_tasks.names().count(THREAD) <= EACH // MIB
    end(*readers)
    await until(lambda: account.used(7) == 0)


async def test_users_who_read_at_the_same_time_have_equal_parts() -> None:
    account = Account()
    first = [await forward(account, uid) for uid in (1, 2, 3) for _ in range(5)]
    # 160 MiB for all: two users have 60 of their 64, the third has the rest.
    for _ in range(60):
        for each in first:
            await each.read()
    # A share is 53 MiB: each of 10 files has three windows of 2 MiB.
    assert [account.used(uid) for uid in (1, 2, 3)] == [30 * MIB] * 3
    late = await forward(account, 4)
    assert account.used(4) == 12 * MIB
    end(late, *first)
    await until(lambda: not any(map(account.used, range(5))))


async def test_a_user_who_comes_when_all_is_taken_gets_a_part_as_the_others_go_on() -> None:
    account = Account(each=24 * MIB, total=24 * MIB)
    first = [await forward(account, 1) for _ in range(2)]
    assert account.used(1) == 24 * MIB
    late = await forward(account, 2)
    assert account.used(2) <= 24 * MIB - account.used(1)
    for _ in range(30):
        for each in (*first, late):
            await each.read()
    assert account.used(1) == 2 * WINDOWS * 2 * MIB
    assert account.used(2) == WINDOWS * 4 * MIB
    end(late, *first)


async def test_root_has_its_share_when_all_is_taken() -> None:
    account = Account(each=12 * MIB, total=12 * MIB)
    first = await forward(account, 1)
    root = await forward(account, 0)
    assert (account.used(1), account.used(0)) == (12 * MIB, 12 * MIB)
    end(first, root)


async def test_a_file_that_is_not_read_gives_its_windows_back() -> None:
    account = Account()
    idle, busy = await forward(account, 7), await forward(account, 7)
    await filled(idle)
    account.windows.tidy()  # both have read since the last call
    assert account.used(7) == 24 * MIB
    await busy.read()
    account.windows.tidy()
    await until(lambda: account.used(7) == 12 * MIB)
    # It is read ahead again as soon as its reader goes on.
    await idle.read(2)
    assert account.used(7) == 24 * MIB
    end(idle, busy)


async def test_a_file_that_is_read_here_and_there_keeps_nothing() -> None:
    account = Account()
    reader = await forward(account, 7)
    await filled(reader)
    reader.reader.piece(100 * MIB, 4096)
    await until(lambda: account.used(7) == 0)
    end(reader)


async def test_windows_are_given_back_in_time(autojump_clock: trio.testing.MockClock) -> None:
    account = Account()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(account.windows.run)
        for _ in range(2):
            reader = account.reader(7)
            reader.piece(0, MIB)
            reader.piece(MIB, MIB)
            await trio.sleep(4)
            assert account.used(7) == 12 * MIB
            wait_for_its_thread(reader)
            await trio.sleep(8)
            assert account.used(7) == 0
            reader.close()
        nursery.cancel_scope.cancel()


async def test_a_mount_that_is_not_read_keeps_no_window(
    autojump_clock: trio.testing.MockClock,
) -> None:
    account = Account()
    kept = account.buffers.take(SMALL)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(account.windows.run)
        busy, idle = account.reader(7), account.reader(7)
        for reader in (busy, idle):
            reader.piece(0, MIB)
            reader.piece(MIB, MIB)
        idle.close()
        account.buffers.give_back(kept)
        await trio.sleep(6)
        assert account.buffers.take(SMALL) is kept  # for the one that reads on
        account.buffers.give_back(kept)
        wait_for_its_thread(busy)
        busy.close()
        await trio.sleep(6)
        assert account.buffers.take(SMALL) is not kept
        nursery.cancel_scope.cancel()


async def test_what_a_thread_still_writes_into_is_not_free() -> None:
    account = Account()
    has_begun, may_fill = threading.Event(), threading.Event()

    def fill(_: int, view: memoryview) -> int:
        has_begun.set()
        assert may_fill.wait(30)
        return len(view)

    reader = account.reader(7, fill)
    reader.piece(0, MIB)
    reader.piece(MIB, MIB)
    assert await trio.to_thread.run_sync(has_begun.wait, 30)
    reader.close()
    assert account.used(7) == 12 * MIB
    may_fill.set()
    await until(lambda: account.used(7) == 0)


async def test_without_a_thread_nothing_is_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    account = Account()
    reader = account.reader(7)
    with monkeypatch.context() as patched:
        patched.setattr("_thread.start_new_thread", start)
        for offset in range(0, 5 * MIB, MIB):
            assert reader.piece(offset, MIB) is None
            assert not reader.is_coming(offset, MIB)
        assert account.used(7) == 0
    assert reader.piece(5 * MIB, MIB) is None
    assert account.used(7) == 12 * MIB
    assert await reader.arrival(6 * MIB, MIB) is not None
    reader.close()
