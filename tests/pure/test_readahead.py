"""Reading ahead changes when bytes are fetched and never which; a lent buffer is one reader's."""

import errno
import gc
from random import Random

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from gcorefs.mount.buffers import Buffers
from gcorefs.mount.readahead import WINDOW, ReadAhead

SIZE = 5 * WINDOW + 12_345
FILE = Random(1).randbytes(SIZE)
MIB = 1 << 20


class Source:
    """A file to read from, with an account of what was asked of it."""

    def __init__(self) -> None:
        self.fills: list[tuple[int, int]] = []
        self.broken_from = SIZE

    async def fill(self, offset: int, buffer: memoryview) -> int:
        await trio.lowlevel.checkpoint()
        self.fills.append((offset, len(buffer)))
        if offset + len(buffer) > self.broken_from:
            raise OSError(errno.EIO, "broken")
        buffer[:] = FILE[offset : offset + len(buffer)]
        return len(buffer)


steps = st.one_of(
    st.tuples(st.just("next"), st.integers(1, MIB)),
    st.tuples(st.just("next"), st.just(MIB)),
    st.tuples(st.integers(0, SIZE - 1), st.integers(1, MIB)),
)


@settings(max_examples=60)
@given(st.lists(steps, max_size=40))
def test_any_reads_give_the_bytes_of_the_file(reads: list[tuple[int | str, int]]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            reader = ReadAhead(Source().fill, SIZE, Buffers(), nursery)
            held, position = [], 0
            for where, wanted in reads:
                offset = position if isinstance(where, str) else where
                length = min(wanted, SIZE - offset)
                if length:
                    piece = await reader.read(offset, length)
                    held.append((offset, length, piece))
                    position = offset + length
            # All of them at the end: no later read may have written over an earlier reply.
            for offset, length, piece in held:
                assert piece == FILE[offset : offset + length]

    trio.run(main)


async def test_a_reader_that_goes_forward_is_read_ahead_of_in_windows() -> None:
    source = Source()
    async with trio.open_nursery() as nursery:
        reader = ReadAhead(source.fill, SIZE, Buffers(), nursery)
        for offset in range(0, SIZE, MIB):
            await reader.read(offset, min(MIB, SIZE - offset))
    first, *rest = source.fills
    assert first == (0, MIB)
    # Tasks begin in any order.
    assert sorted(rest) == [
        (offset, min(WINDOW, SIZE - offset)) for offset in range(MIB, SIZE, WINDOW)
    ]


async def test_a_reader_that_jumps_gets_just_what_it_asks_for() -> None:
    source = Source()
    asked = [(offset, 4096) for offset in range(0, SIZE - 4096, 3 * MIB)]
    async with trio.open_nursery() as nursery:
        reader = ReadAhead(source.fill, SIZE, Buffers(), nursery)
        for offset, length in asked:
            await reader.read(offset, length)
    assert source.fills == asked


async def test_what_could_not_be_fetched_is_the_error_of_whoever_asks_for_it() -> None:
    source = Source()
    source.broken_from = MIB + WINDOW
    async with trio.open_nursery() as nursery:
        reader = ReadAhead(source.fill, SIZE, Buffers(), nursery)
        for offset in range(0, MIB + WINDOW, MIB):
            assert await reader.read(offset, MIB) == FILE[offset : offset + MIB]
        with pytest.raises(OSError) as caught:
            await reader.read(MIB + WINDOW, MIB)
        assert caught.value.errno == errno.EIO


async def test_one_bad_place_costs_only_what_lies_there() -> None:
    bad = 3 * WINDOW + 5 * MIB // 2

    asked: list[int] = []

    async def fill(offset: int, buffer: memoryview) -> None:
        asked.append(len(buffer))
        await trio.lowlevel.checkpoint()
        if offset <= bad < offset + len(buffer):
            raise OSError(errno.EIO, "bad")
        buffer[:] = FILE[offset : offset + len(buffer)]

    async with trio.open_nursery() as nursery:
        reader = ReadAhead(fill, SIZE, Buffers(), nursery)
        for offset in range(0, bad - MIB, MIB):
            assert await reader.read(offset, MIB) == FILE[offset : offset + MIB]
        with pytest.raises(OSError):
            await reader.read(bad - MIB // 2, MIB)
        assert await reader.read(bad - MIB // 2, MIB // 2) == FILE[bad - MIB // 2 : bad]
        with pytest.raises(OSError):
            await reader.read(bad, 1)
        asked.clear()
        for offset in range(bad + 1, SIZE - MIB, MIB):
            assert await reader.read(offset, MIB) == FILE[offset : offset + MIB]
        # Behind that window it is read ahead again.
        assert max(asked) > MIB


async def test_what_was_never_filled_is_no_data() -> None:
    async def never(offset: int, buffer: memoryview) -> None:
        if offset:
            await trio.sleep_forever()

    async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
        reader = ReadAhead(never, SIZE, Buffers(), nursery)
        await reader.read(0, MIB)

        async def read() -> None:
            with pytest.raises(OSError) as caught:
                await reader.read(MIB, MIB)
            assert caught.value.errno == errno.EIO

        outer.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


def test_a_buffer_comes_back_only_when_every_part_of_it_is_gone() -> None:
    buffers = Buffers()
    view = buffers.lend(2 * MIB)
    view[:4] = b"ours"
    part = buffers.part(view, 0, 4)
    del view
    gc.collect()
    other = buffers.lend(2 * MIB)
    other[:4] = b"else"
    assert part == b"ours"
    del part, other
    gc.collect()
    assert buffers.lend(2 * MIB)[:4] in (b"ours", b"else")
