"""A header in pieces has the bytes from which it was made, however it is read."""

import random
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from gcorefs.elfcore.elf import pack_note
from gcorefs.elfcore.header_store import Pieces, Shelf
from tests.pure.structures import unpack

ROW = 100


def read(made: Pieces, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    made.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def test_every_part_is_that_of_the_whole() -> None:
    @given(st.lists(st.tuples(st.binary(max_size=60), st.booleans()), max_size=30), st.data())
    def check(parts: list[tuple[bytes, bool]], data: st.DataObject) -> None:
        shelf = Shelf(length=ROW)
        made = Pieces(shelf.put(part) if is_packed else part for part, is_packed in parts)
        whole = b"".join(part for part, _ in parts)
        assert (made.size, bytes(made)) == (len(whole), whole)
        assert bytes(Pieces([*made, *made])) == whole + whole
        offset = data.draw(st.integers(0, len(whole)))
        length = data.draw(st.integers(0, len(whole) - offset))
        assert read(made, offset, length) == whole[offset : offset + length]

    check()


def test_pieces_may_be_read_in_another_order_than_they_were_put() -> None:
    chance = random.Random(0)
    parts = [chance.randbytes(300) for _ in range(10_000)]
    shelf = Shelf()
    packed = [shelf.put(part) for part in parts]
    assert packed[-1].row == 2  # rows of a mebibyte
    order = [*range(3000, 3100), *range(9000, 9100), *range(100), 9999]
    made = Pieces(packed[number] for number in order)
    assert bytes(made) == b"".join(parts[number] for number in order)


def test_pieces_may_be_made_after_they_have_their_places() -> None:
    @given(st.integers(1, 150), st.integers(0, 40), st.binary(max_size=60))
    def check(size: int, count: int, before: bytes) -> None:
        parts = [bytes([number]) * size for number in range(count)]
        asked = []

        def make(first: int, last: int) -> bytes:
            asked.append((first, last))
            return b"".join(parts[first:last])

        later: list[Callable[[], bytes]] = []

        def promise(work: Callable[[], bytes]) -> Callable[[], bytes]:
            later.append(work)
            return lambda: results[work]

        shelf = Shelf(promise, ROW)
        first = shelf.put(before)
        reserved = shelf.reserve(size, count, make)
        last = shelf.put(before)
        made = Pieces([last, *reserved, first])
        assert (made.size, asked) == (2 * len(before) + size * count, [])
        results = {work: work() for work in later}
        assert bytes(made) == before + b"".join(parts) + before
        assert asked == sorted(asked)
        assert all(last - first <= max(1, ROW // 4 // size) for first, last in asked)

    check()


def test_what_is_alike_takes_next_to_nothing() -> None:
    kept = []

    def at_once(work: Callable[[], bytes]) -> Callable[[], bytes]:
        row = work()
        kept.append(row)
        return lambda: row

    shelf = Shelf(at_once)
    part = random.Random(0).randbytes(500) + bytes(2500)
    for _ in range(10_000):
        last = shelf.put(part)
    assert sum(map(len, kept)) < 1 << 20
    assert last.stop < 1 << 20  # the row that is not full yet


@given(st.lists(st.tuples(st.integers(1, 9), st.binary(max_size=20)), unique_by=lambda it: it[0]))
def test_a_note_is_found_by_its_kind(found: list[tuple[int, bytes]]) -> None:
    packed = b"".join(pack_note(b"LINUX", kind, desc) for kind, desc in found)
    assert {kind: desc for _, kind, desc in unpack(packed)} == dict(found)
