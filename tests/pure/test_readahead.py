"""Reading ahead changes when bytes are fetched, but not which bytes."""

import threading
from collections.abc import Iterator
from random import Random

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from gcorefs.mount.buffers import LARGEST_REQUEST, Buffers
from gcorefs.mount.errors import RequestReason
from gcorefs.mount.limits import Budget
from gcorefs.mount.readahead import ReadAhead
from gcorefs.mount.windows import WINDOW, Windows

SIZE = 5 * WINDOW + 12_345
FILE = Random(1).randbytes(SIZE)
MIB = 1 << 20


def account() -> Windows:
    budget = Budget(64 * MIB, 256 * MIB, RequestReason.USER_MEMORY, RequestReason.ALL_MEMORY)
    return Windows(budget, Buffers())


class Source:
    """A file that can be read up to a bad place.  It remembers all reads."""

    def __init__(self, bad: int = SIZE) -> None:
        self.bad = bad
        self.fills: list[tuple[int, int]] = []
        self.has_begun = threading.Event()
        self.may_fill = threading.Event()
        self.may_fill.set()

    def fill(self, offset: int, buffer: memoryview) -> int:
        self.has_begun.set()
        assert self.may_fill.wait(30)
        self.fills.append((offset, len(buffer)))
        count = len(buffer)
        if offset <= self.bad < offset + count:
            count = self.bad - offset
        buffer[:count] = FILE[offset : offset + count]
        return count


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def reader(source: Source) -> Iterator[ReadAhead]:
    reader = ReadAhead(source.fill, SIZE, account())
    yield reader
    source.may_fill.set()
    reader.close()


async def read(reader: ReadAhead, offset: int, length: int) -> bytes | None:
    """These bytes, when they have been read ahead; None if they are not read ahead."""
    piece = reader.piece(offset, length)
    if piece is None:  # if the bytes have come since then, this does not wait
        with trio.fail_after(30):
            piece = await reader.arrival(offset, length)
    # Copy it now: it is not valid later.
    return None if piece is None else bytes(piece)


def expected(offset: int, length: int) -> bytes:
    return FILE[offset : offset + length]


steps = st.one_of(
    st.tuples(st.just("next"), st.integers(1, MIB)),
    st.tuples(st.just("next"), st.just(MIB)),
    st.tuples(st.integers(0, SIZE - 1), st.integers(1, MIB)),
)


@settings(max_examples=60)
@given(st.lists(steps, max_size=40), st.integers(0, SIZE))
def test_any_reads_give_the_bytes_of_the_file(reads: list[tuple[int | str, int]], bad: int) -> None:
    async def main() -> None:
        reader, position = ReadAhead(Source(bad).fill, SIZE, account()), 0
        for where, wanted in reads:
            offset = position if isinstance(where, str) else where
            length = min(wanted, SIZE - offset)
            if length:
                assert await read(reader, offset, length) in (None, expected(offset, length))
                position = offset + length
        reader.close()

    trio.run(main)


async def test_a_reader_that_goes_forward_is_read_ahead_of_in_windows(
    reader: ReadAhead, source: Source
) -> None:
    straight = []
    for offset in range(0, SIZE, MIB):
        length = min(MIB, SIZE - offset)
        piece = await read(reader, offset, length)
        if piece is None:
            straight.append(offset)
        else:
            assert piece == expected(offset, length)
    assert straight == [0, MIB]
    assert source.fills == [
        (offset, min(WINDOW, SIZE - offset)) for offset in range(2 * MIB, SIZE, WINDOW)
    ]


@pytest.mark.parametrize("length", [MIB - 1, 1000, 3 * MIB // 4])
async def test_a_read_across_two_windows_is_one_piece(reader: ReadAhead, length: int) -> None:
    assert length <= LARGEST_REQUEST
    found = 0
    for offset in range(0, SIZE - length, length):
        piece = await read(reader, offset, length)
        if piece is not None:
            assert piece == expected(offset, length)
            found += 1
    assert found > 0.8 * SIZE // length


async def test_a_reader_that_jumps_is_not_read_ahead_of(reader: ReadAhead, source: Source) -> None:
    for offset in range(0, SIZE - 4096, 3 * MIB):
        assert await read(reader, offset, 4096) is None
    assert source.fills == []


async def test_a_jump_leaves_what_was_read_ahead(reader: ReadAhead) -> None:
    for offset in range(0, 4 * MIB, MIB):
        await read(reader, offset, MIB)
    assert await read(reader, SIZE - 4096, 4096) is None
    assert await read(reader, 3 * MIB, 4096) is None
    # From here it goes forward again.
    pieces = []
    for offset in range(3 * MIB + 4096, SIZE, MIB):
        length = min(MIB, SIZE - offset)
        pieces.append(await read(reader, offset, length) == expected(offset, length))
    assert pieces.count(False) == 1
    assert pieces[-1]


async def test_one_bad_place_costs_only_what_lies_there(reader: ReadAhead, source: Source) -> None:
    bad = source.bad = 2 * MIB + 2 * WINDOW + 5 * MIB // 2
    for offset in range(0, bad - MIB, MIB):
        await read(reader, offset, MIB)
    assert await read(reader, bad - MIB // 2, MIB) is None
    assert await read(reader, bad - MIB // 2, MIB // 2) == expected(bad - MIB // 2, MIB // 2)
    for offset in range(bad, 2 * MIB + 3 * WINDOW, MIB):
        assert await read(reader, offset, 1) is None
    # Behind that window it is read ahead again.
    end = 2 * MIB + 3 * WINDOW
    assert await read(reader, end, MIB) == expected(end, MIB)


async def test_a_waiter_for_a_dropped_window_is_woken(reader: ReadAhead, source: Source) -> None:
    answers: list[bytes | None] = []
    await read(reader, 0, MIB)
    source.may_fill.clear()
    await read(reader, MIB, MIB)

    async def wait() -> None:
        answers.append(await read(reader, 2 * MIB, MIB))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        assert await trio.to_thread.run_sync(source.has_begun.wait, 30)
        await trio.testing.wait_all_tasks_blocked()
        reader.close()
        source.may_fill.set()
    assert answers == [None]
    assert [offset for offset, _ in source.fills] == [2 * MIB]  # the others are not needed


def test_a_closed_reader_has_nothing(reader: ReadAhead, source: Source) -> None:
    reader.close()
    for offset in range(0, SIZE, MIB):
        assert reader.piece(offset, MIB) is None
    assert source.fills == []


def test_buffers_are_used_again() -> None:
    buffers = Buffers()
    store = buffers.take(2 * MIB)
    store[:4] = b"ours"
    other = buffers.take(2 * MIB)
    assert other[:4] == bytes(4)
    buffers.give_back(store)
    assert buffers.take(2 * MIB) is store
    assert buffers.take(MIB) is not store


def test_buffers_do_not_keep_all_that_were_ever_lent() -> None:
    buffers = Buffers()
    stores = [buffers.take(4 * MIB) for _ in range(20)]
    for store in stores:
        buffers.give_back(store)
    again = [buffers.take(4 * MIB) for _ in range(20)]
    assert sum(each is store for each in again for store in stores) == 8
