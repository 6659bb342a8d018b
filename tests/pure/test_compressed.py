"""A compressed core has every byte, and any part of it is read without the rest."""

import io
import os
import struct
import tracemalloc
from array import array
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from gcorefs.export import seek_table
from gcorefs.export.compressed import DEFAULT_LEVEL, FRAME, CompressedSink
from gcorefs.export.seek_table import FOOT_SIZE, Frame, SeekTable, TableError
from gcorefs.export.seekable import SeekableError, SeekableFile
from gcorefs.export.sink import SinkError
from gcorefs.process import worker_threads
from gcorefs.process.threads import NoThread


class Memory:
    """A sink that keeps what it gets, and fails at a write if it is told to."""

    def __init__(self, fails_at: int = -1) -> None:
        self.data = bytearray()
        self.ends: list[str] = []
        self._left = fails_at

    def write(self, data: memoryview) -> None:
        if self._left == 0:
            raise SinkError("core", OSError(28, "No space left on device"))
        self._left -= 1
        self.data += data

    def commit(self) -> None:
        self.ends.append("commit")

    def abort(self) -> None:
        self.ends.append("abort")


def compressed(data: bytes, piece: int = 512 << 10, level: int = DEFAULT_LEVEL) -> bytes:
    """What a sink writes that gets the data in pieces."""
    memory = Memory()
    sink = CompressedSink(memory, level)
    for start in range(0, len(data), piece):
        sink.write(memoryview(data)[start : start + piece])
    sink.commit()
    sink.abort()
    assert memory.ends == ["commit", "abort"]
    return bytes(memory.data)


def decompressed(data: bytes) -> bytes:
    """As zstd(1) does it: all frames, one after the other."""
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True) as r:
        return r.read()


def core_like(size: int) -> bytes:
    """Bytes with what a core has: noise, zeros of more than a frame, text."""
    noise = Random(size)
    pieces = [
        noise.randbytes(FRAME + 4321),
        bytes(3 * FRAME + 77),
        b"a text that repeats " * 60000,
        bytes(size),
    ]
    return b"".join(pieces)[:size]


@pytest.mark.parametrize(
    "size", [0, 1, FRAME - 1, FRAME, FRAME + 1, 2 * FRAME, 5 * FRAME, 6 * FRAME + 5]
)
@pytest.mark.parametrize("piece", [512 << 10, 99_991, 3 * FRAME])
def test_every_byte_comes_back(size: int, piece: int, tmp_path: Path) -> None:
    data = core_like(size)
    path = tmp_path / "core.zst"
    path.write_bytes(compressed(data, piece))
    assert decompressed(path.read_bytes()) == data
    with SeekableFile(str(path)) as file:
        assert file.size == size
        assert b"".join(file.pieces(0, size)) == data


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Path]:
    data = core_like(5 * FRAME + 12345)
    path = tmp_path_factory.mktemp("compressed") / "core.zst"
    path.write_bytes(compressed(data))
    return data, path


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_part_is_that_of_the_whole(example: tuple[bytes, Path], data: st.DataObject) -> None:
    content, path = example
    places = st.integers(0, len(content)) | st.sampled_from([FRAME - 1, FRAME, FRAME + 1])
    offset, length = data.draw(places), data.draw(places | st.integers(0, 5000))
    with SeekableFile(str(path)) as file:
        assert b"".join(file.pieces(offset, length)) == content[offset : offset + length]


def test_only_the_frames_of_a_part_are_read(example: tuple[bytes, Path], tmp_path: Path) -> None:
    """The others may be damaged."""
    content, path = example
    data = bytearray(path.read_bytes())
    with SeekableFile(str(path)) as file:
        first, second, *_ = file.frames(0, file.size)
    damaged = tmp_path / "core.zst"
    for middle in (first.offset + first.size // 2, second.offset + second.size // 2):
        data[middle] ^= 0x55
    damaged.write_bytes(data)
    with SeekableFile(str(damaged)) as file:
        assert b"".join(file.pieces(2 * FRAME, FRAME)) == content[2 * FRAME : 3 * FRAME]
        for frame in (first, second):
            with pytest.raises(SeekableError) as caught:
                list(file.pieces(frame.start, 1))
            assert str(caught.value).startswith(
                f"{damaged}: the frame at {frame.offset:#x} is damaged: "
            )


def test_zeros_take_next_to_nothing() -> None:
    memory = Memory()
    sink = CompressedSink(memory, DEFAULT_LEVEL)
    zeros = memoryview(bytes(4 * FRAME))
    for _ in range(64):
        sink.write(zeros)
    sink.commit()
    assert len(memory.data) < 256 * 64
    assert memory.data.count(memory.data[: memory.data.find(b"\x28\xb5\x2f\xfd", 1)]) == 256


def test_a_level_has_an_effect() -> None:
    data = b"".join(b"%d %d\n" % (i, i * 7919) for i in range(100_000))
    assert len(compressed(data, level=19)) < len(compressed(data, level=1))


@pytest.mark.parametrize("fails_at", [0, 1, 3])
def test_an_error_of_the_output_is_the_sink_s(fails_at: int) -> None:
    memory = Memory(fails_at)
    sink = CompressedSink(memory, DEFAULT_LEVEL)
    data = memoryview(os.urandom(2 * FRAME))
    with pytest.raises(SinkError, match="core: No space left on device"):
        for _ in range(100):
            sink.write(data)
    sink.abort()
    assert memory.ends == ["abort"]


def test_a_compressor_that_cannot_be_made_aborts_the_sink() -> None:
    """Nobody has a sink then that they could abort."""
    memory = Memory()
    with pytest.raises(ValueError, match="level"):
        CompressedSink(memory, level=99)
    assert memory.ends == ["abort"]


def test_an_error_of_the_table_is_the_sink_s() -> None:
    memory = Memory(1)
    sink = CompressedSink(memory, DEFAULT_LEVEL)
    sink.write(memoryview(b"x"))
    with pytest.raises(SinkError):
        sink.commit()
    sink.abort()
    assert memory.ends == ["abort"]


def test_without_a_further_thread_it_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(name: str, call: Callable[..., object], *arguments: object) -> None:
        raise NoThread

    data = core_like(4 * FRAME)
    expected = compressed(data)
    monkeypatch.setattr(worker_threads, "start_thread", start)
    assert compressed(data) == expected


# The table alone.

SIZES = st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)), max_size=20)


@given(SIZES, st.data())
def test_a_table_finds_each_byte(sizes: list[tuple[int, int]], data: st.DataObject) -> None:
    packed = seek_table.packed(array("I", [number for pair in sizes for number in pair]))
    assert packed[:4] == b"\x5e\x2a\x4d\x18"
    assert struct.unpack_from("<I", packed, 4) == (len(packed) - 8,)
    assert packed[-9:] == struct.pack("<IBI", len(sizes), 0, 0x8F92EAB1)
    before = sum(size for size, _ in sizes)
    assert seek_table.table_size(packed[-FOOT_SIZE:], before + len(packed)) == len(packed)
    table = SeekTable(packed, before)
    assert table.size == sum(length for _, length in sizes)
    frames = []
    offset = start = 0
    for size, length in sizes:
        frames.append(Frame(offset, size, start, length))
        offset, start = offset + size, start + length
    first = data.draw(st.integers(0, table.size + 1))
    end = data.draw(st.integers(first, table.size + 1))
    assert list(table.frames(first, end)) == [
        each
        for each in frames
        if each.length and each.start < end and first < each.start + each.length and first < end
    ]


def test_a_table_may_have_checksums() -> None:
    """Of another program: the frames have their own."""
    rows = struct.pack("<6I", 10, 100, 0xFFFF, 20, 200, 0xFFFF)
    packed = struct.pack("<2I", 0x184D2A5E, len(rows) + 9) + rows
    packed += struct.pack("<IBI", 2, 0x80, 0x8F92EAB1)
    assert seek_table.table_size(packed[-FOOT_SIZE:], 1000) == len(packed)
    found = list(SeekTable(packed, 30).frames(0, 300))
    assert found == [Frame(0, 10, 0, 100), Frame(10, 20, 100, 200)]


def test_a_table_of_another_kind_is_refused() -> None:
    packed = seek_table.packed(array("I", [10, 100]))
    for flags, count in ((0x04, 1), (0x40, 1), (0, seek_table.MOST_FRAMES + 1)):
        with pytest.raises(TableError, match="is of a kind that is not known"):
            seek_table.table_size(struct.pack("<IBI", count, flags, 0x8F92EAB1), 1 << 40)
    with pytest.raises(TableError, match="bytes are missing"):
        seek_table.table_size(packed[-FOOT_SIZE:], len(packed) - 1)
    for number in (9, 11):
        with pytest.raises(TableError, match="bytes are missing"):
            SeekTable(packed, number)
    for place in (0, 4):
        damaged = bytearray(packed)
        damaged[place] ^= 1
        with pytest.raises(TableError, match="its seek table is damaged"):
            SeekTable(bytes(damaged), 10)


# Files that are something else.

CUT = "it was cut short, or another program compressed it: zstd -d reads what is there"
OTHERS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda file: b"", "it has no seek table; it is no core that gcorefs dump"),
    "short": (lambda file: b"x", "it has no seek table; it is no core that gcorefs dump"),
    "text": (lambda file: b"text" * 99, "it has no seek table; it is no core that gcorefs dump"),
    "a core": (lambda file: b"\x7fELF" + bytes(99), "it is a core that is not compressed"),
    "cut in a frame": (lambda file: file[: len(file) // 2], f"it has no seek table; {CUT}"),
    "cut in the table": (lambda file: file[:-1], f"it has no seek table; {CUT}"),
    "without a table": (lambda file: zstandard.compress(b"x"), f"it has no seek table; {CUT}"),
    "cut in front": (lambda file: file[1:], "its seek table does not fit the rest"),
    "the table alone": (lambda file: file[-25:], "its seek table does not fit the rest"),
    "more behind": (lambda file: file + b"\0", f"it has no seek table; {CUT}"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_that_is_something_else_is_told(
    kind: str, example: tuple[bytes, Path], tmp_path: Path
) -> None:
    change, text = OTHERS[kind]
    path = tmp_path / "core.zst"
    path.write_bytes(change(example[1].read_bytes()))
    with pytest.raises(SeekableError) as caught:
        SeekableFile(str(path))
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert text in said
    assert said.isprintable()


def of_frames(*frames: tuple[bytes, int]) -> bytes:
    """A file of frames, with the length that the table gives to each."""
    sizes = array("I", [number for data, length in frames for number in (len(data), length)])
    return b"".join(data for data, _ in frames) + seek_table.packed(sizes)


@pytest.mark.parametrize(
    ("frame", "length"),
    [
        (zstandard.compress(bytes(100)), 99),
        (zstandard.compress(bytes(100)), 101),
        (zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100)), 101),
        (zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100)), 99),
        (zstandard.compress(bytes(100)) + b"\0", 100),
        (b"\x28\xb5\x2f\xfd", 100),
        (b"text", 100),
        # It says that its content has an exabyte (RFC 8878, 3.1.1.1).
        (b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 1 << 60) + b"\x01\0\0", 100),
    ],
)
def test_a_frame_that_is_not_that_of_the_table_is_damaged(
    frame: bytes, length: int, tmp_path: Path
) -> None:
    path = tmp_path / "core.zst"
    path.write_bytes(of_frames((frame, length)))
    with SeekableFile(str(path)) as file, pytest.raises(SeekableError, match="is damaged: "):
        list(file.pieces(0, length))


def test_a_frame_without_its_size_is_read(tmp_path: Path) -> None:
    """As other programs write it."""
    path = tmp_path / "core.zst"
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(b"abc")
    path.write_bytes(of_frames((frame, 3), (b"\x50\x2a\x4d\x18\1\0\0\0x", 0), (frame, 3)))
    with SeekableFile(str(path)) as file:
        assert b"".join(file.pieces(2, 2)) == b"ca"


def test_a_frame_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "core.zst"
    path.write_bytes(of_frames((zstandard.compress(b"x"), 1 << 31)))
    with SeekableFile(str(path)) as file, pytest.raises(SeekableError, match="zstd -d reads it"):
        list(file.pieces(0, 1))


def test_a_table_of_nothing_takes_no_memory(tmp_path: Path) -> None:
    """A sparse file costs nobody anything, and has a table of 64 MiB of zeros."""
    file = tmp_path / "sparse"
    rows = 8 << 20
    with file.open("wb") as output:
        output.write(struct.pack("<2I", 0x184D2A5E, 8 * rows + FOOT_SIZE))
        output.seek(8 + 8 * rows)
        output.write(struct.pack("<IBI", rows, 0, 0x8F92EAB1))
    tracemalloc.start()
    try:
        with pytest.raises(SeekableError, match="its seek table is damaged"):
            SeekableFile(str(file))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 8 << 20


def test_a_fifo_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(SeekableError, match="fifo: it is no regular file"):
        SeekableFile(str(tmp_path / "fifo"))
