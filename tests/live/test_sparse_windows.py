"""Memory with holes of every size is read with one call for each window, exact to the byte."""

import struct
import sys
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gcorefs.elfcore.layout import Source
from gcorefs.elfcore.segments import ZEROS
from gcorefs.hold.room import Room
from gcorefs.kernel import process_vm
from tests.conftest import Target
from tests.snapshot import Snapshot, find

PAGE = 4096
MIB = 1 << 20
PAGES = 5000

PATTERNS = pytest.mark.parametrize(
    ("pattern", "gib"), [("random", 100), ("random", 1), ("gaps", 1), ("chunks", 1)]
)


def expected(snapshot: Snapshot, target: Target) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of each piece of the file that has a part of the reserved memory."""
    truth = target.truth
    start = int(truth["start"], 16)
    written = {
        start + number * PAGE
        for first, length in truth["runs"]
        for number in range(first, first + length)
    }
    assert len(written) == truth["pages"] == PAGES
    at, end = start, start + truth["size"]
    seen = 0
    # In the order of the file and of the memory.  Zeros between two pieces are part of it.
    extents = iter(snapshot.layout.extents(0, snapshot.layout.zeros_offset))
    for extent in extents:
        if extent.source is Source.MEMORY and start <= extent.at < end:
            assert extent.at >= at
            at = extent.at + extent.length
            image = bytearray(extent.length)
            for page in range(extent.at, at, PAGE):
                if page in written:
                    seen += 1
                    struct.pack_into("<Q", image, page - extent.at, page)
            yield extent.offset, bytes(image)
        elif extent.source is Source.ZEROS:
            yield extent.offset, bytes(extent.length)
    assert seen == PAGES


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of bytes that each process_vm_readv(2) should read."""
    found: list[int] = []
    original = process_vm.read_memory_vector

    def read(tid: int, addresses: Any, lengths: Any, buffer: memoryview, places: Any = None) -> int:
        found.append(sum(lengths))
        return original(tid, addresses, lengths, buffer, places)

    monkeypatch.setattr(process_vm, "read_memory_vector", read)
    return found


@PATTERNS
def test_one_call_reads_a_window(
    spawn: Callable[..., Target], calls: list[int], pattern: str, gib: int
) -> None:
    target = spawn("reserve", gib, PAGES, pattern)
    snapshot = Snapshot(find(target.pid))
    try:
        snapshot.take()
        pieces = list(expected(snapshot, target))
        # Windows that have only the reserved memory in them.
        written = [offset for offset, image in pieces if image.strip(b"\0")]
        low, high = -(-written[0] // MIB) * MIB, written[-1] // MIB * MIB
        del calls[:]
        data = memoryview(b"".join(snapshot.read(at, MIB) for at in range(low, high, MIB)))
        assert len(calls) == (high - low) // MIB > 10
        for offset, image in pieces:
            if low <= offset and offset + len(image) <= high:
                assert data[offset - low : offset - low + len(image)] == image
        # Literal zeros are in the file, but are not read.
        assert 0 < sum(calls) < len(data)
    finally:
        snapshot.close()


@PATTERNS
@pytest.mark.parametrize("is_copied", [False, True])
def test_every_byte_is_what_it_was(
    spawn: Callable[..., Target], pattern: str, gib: int, is_copied: bool
) -> None:
    target = spawn("reserve", gib, PAGES, pattern)
    snapshot = Snapshot(find(target.pid), room=Room(4 << 30) if is_copied else None)
    try:
        snapshot.take()
        pieces = list(expected(snapshot, target))
        snapshot.copy()
        assert snapshot.is_copied == is_copied
        # The old content of the buffer appears nowhere.
        buffer = bytearray(b"\xa5" * snapshot.size)
        view, step = memoryview(buffer), 3 * MIB // 2 + 123
        for at in range(0, snapshot.size, step):
            assert snapshot.read_into(at, view[at : at + step]) == len(view[at : at + step])
        for offset, image in pieces:
            assert buffer[offset : offset + len(image)] == image, hex(offset)
        assert buffer[snapshot.layout.zeros_offset :].count(0) == (
            snapshot.size - snapshot.layout.zeros_offset
        )
    finally:
        snapshot.close()


AMONG_OTHERS = """
import ctypes, mmap, os

PAGE, PAGES = 4096, 4000
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
memory = mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
file = os.memfd_create("one page")
os.ftruncate(file, PAGE)
fixed = libc.mmap(start + 1000 * PAGE, PAGE, 3, mmap.MAP_SHARED | 0x10, file, 0)
assert fixed == start + 1000 * PAGE
for number in range(0, PAGES, 2):
    memory[number * PAGE : number * PAGE + 4] = number.to_bytes(4, "little")
for number in (0, 1998, 3998):
    assert libc.mprotect(start + number * PAGE, PAGE, 0) == 0
print('{"pid": %d, "start": "%#x"}' % (os.getpid(), start), flush=True)
input()
"""


def test_a_page_that_is_read_in_another_way_does_not_divide_all_the_others(
    calls: list[int],
) -> None:
    # Of 2,000 ranges, process_vm_readv(2) cannot read three, at both ends and in the middle, and
    # one is shared memory.
    target = Target([sys.executable, "-c", AMONG_OTHERS])
    snapshot = Snapshot(find(target.pid))
    try:
        snapshot.take()
        start = int(target.truth["start"], 16)
        addresses = array("Q", range(start, start + 4000 * PAGE, 2 * PAGE))
        lengths = array("Q", [PAGE]) * len(addresses)
        # Behind every third range there are zeros in the file.
        for index in range(len(addresses) - 1, 0, -3):
            addresses.insert(index, ZEROS)
            lengths.insert(index, 3 * PAGE)
        buffer = bytearray(b"\xa5" * sum(lengths))
        del calls[:]
        snapshot.memory.read_ranges(addresses, lengths, memoryview(buffer))
        image = b"".join(
            bytes(length)
            if address == ZEROS
            else ((address - start) // PAGE).to_bytes(4, "little").ljust(length, b"\0")
            for address, length in zip(addresses, lengths, strict=True)
        )
        assert buffer == image
        assert snapshot.memory.unreadable_pages.count == 0
        assert len(calls) < 40
    finally:
        snapshot.close()
        target.kill()
