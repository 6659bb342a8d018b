"""A core that is read back: the numbers from which it was made, or one error."""

import io
import json
import struct
import tracemalloc
from array import array
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.core_bytes import CoreError, Load
from gcorefs.elfcore.corefile import Core, read_core
from gcorefs.elfcore.elf import pack_note
from gcorefs.elfcore.layout import Layout
from gcorefs.elfcore.provenance import FactsError, parse
from gcorefs.elfcore.segments import Segment
from tests.pure.cores import account_of, made, mapped, provenance
from tests.pure.test_layout import loads

HEAP = Segment(0x10000, 4 * PAGE_SIZE, 4 * PAGE_SIZE, 6)
TEXT = Segment(0x400000, 8 * PAGE_SIZE, PAGE_SIZE, 5)
MEMORY = [HEAP, TEXT]


def read(layout: Layout, size: int | None = None) -> Core:
    return read_core(io.BytesIO(layout.header), layout.size if size is None else size)


def refusal(data: bytes, size: int | None = None) -> str:
    with pytest.raises(CoreError) as caught:
        read_core(io.BytesIO(data), size)
    return str(caught.value)


def test_a_core_says_whose_it_is() -> None:
    layout = made(MEMORY, account_of(MEMORY))
    core = read(layout)
    assert (core.machine, core.bits, core.phnum, core.size) == ("x64", 64, 3, layout.size)
    assert (core.end, core.missing) == (layout.size, 0)
    assert (core.pid, core.program, core.arguments) == (7, b"program", b"program --with words")
    assert (core.threads, core.signal) == (2, 0)
    assert core.facts == provenance(account_of(MEMORY)).facts()
    assert core.loads == [
        Load(load.vaddr, load.memsz, load.filesz, load.offset, load.flags) for load in loads(layout)
    ]


def test_a_core_without_our_note_says_what_it_can() -> None:
    vector = struct.pack("<6Q", 33, TEXT.vaddr, 31, HEAP.vaddr + 100, 0, 0)
    core = read(made(MEMORY, None, auxv=vector, signal=6))
    assert core.facts is None
    assert (core.pid, core.threads, core.signal) == (7, 2, 6)
    assert core.names == {TEXT.vaddr: "[vdso]", HEAP.vaddr: "[stack]"}


@pytest.mark.parametrize("address", [0, HEAP.vaddr - 1, TEXT.vaddr + TEXT.memsz, (1 << 64) - 1])
def test_what_lies_in_no_mapping_names_none(address: int) -> None:
    assert read(made(MEMORY, None, auxv=struct.pack("<2Q", 31, address))).names == {}


def test_mapped_files_have_their_paths_whatever_bytes_these_are() -> None:
    files = [(mapped(0x1000, 0x2000), b"/a\xff\n"), (mapped(0x2000, 0x5000, 4096), b"/b (deleted)")]
    core = read(made(MEMORY, None, files=files))
    assert core.files == [(0x1000, 0x2000, b"/a\xff\n"), (0x2000, 0x5000, b"/b (deleted)")]


@pytest.mark.parametrize("count", [65533, 65534, 70000])
def test_any_number_of_program_headers_is_read(count: int) -> None:
    segments = [Segment(n * 2 * PAGE_SIZE, PAGE_SIZE, PAGE_SIZE, 6) for n in range(1, count + 1)]
    core = read(made(segments, account_of(segments)))
    assert (core.phnum, len(core.loads), core.threads) == (count + 1, count, 2)
    assert [load.vaddr for load in core.loads] == [segment.vaddr for segment in segments]


def test_a_program_header_without_an_address_is_no_memory() -> None:
    empty = Segment(HEAP.vaddr, 0, 0, 6)
    core = read(made([empty] * 1000 + MEMORY, None))
    assert core.phnum == 1000 + 3
    assert [(load.vaddr, load.memsz) for load in core.loads] == [
        (segment.vaddr, segment.memsz) for segment in MEMORY
    ]


@pytest.mark.parametrize("order", "<>")
def test_a_core_of_32_bits_and_either_byte_order_is_read(order: str) -> None:
    # elf(5): Elf32_Ehdr, and Elf32_Phdr, whose p_flags comes after the sizes.
    ident = b"\x7fELF" + bytes((1, 1 if order == "<" else 2, 1)) + bytes(9)
    machine = 3 if order == "<" else 20  # EM_386, EM_PPC
    status = struct.pack(order + "12xh58x", 11)  # cursig
    vector = struct.pack(order + "4I", 33, 0x8048000, 0, 0)
    files = struct.pack(order + "5I", 1, 4096, 0x8048000, 0x8049000, 0) + b"/a\0"
    notes = b"".join(
        struct.pack(order + "3I", 5, len(desc), kind)
        + b"CORE\0\0\0\0"
        + desc
        + bytes(-len(desc) % 4)
        for kind, desc in ((1, status), (6, vector), (0x46494C45, files))
    )
    header = struct.pack(
        order + "16sHHIIIIIHHHHHH", ident, 4, machine, 1, 0, 52, 0, 0, 52, 32, 2, 0, 0, 0
    )
    header += struct.pack(order + "8I", 4, 116, 0, 0, len(notes), 0, 0, 4)
    header += struct.pack(order + "8I", 1, 4096, 0x8048000, 0, 4096, 8192, 5, 4096)
    core = read_core(io.BytesIO((header + notes).ljust(8192, b"\0")))
    assert (core.machine, core.bits) == ("x86" if order == "<" else "PowerPC", 32)
    assert core.loads == [Load(0x8048000, 8192, 4096, 4096, 5)]
    assert (core.threads, core.signal, core.missing) == (1, 11, 0)
    assert core.names == {0x8048000: "[vdso]"}
    assert core.files == [(0x8048000, 0x8049000, b"/a")]


def test_only_the_headers_are_read() -> None:
    layout = made(MEMORY, account_of(MEMORY))

    class File(io.BytesIO):
        furthest = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(min(size or 0, 100))  # short reads, as a raw file may give
            self.furthest = max(self.furthest, self.tell())
            return data

    file = File(layout.header.ljust(layout.size, b"\0"))
    assert read_core(file) == read(layout)
    assert file.furthest <= len(layout.header)


def test_of_a_core_without_its_end_it_is_known_how_much_is_missing() -> None:
    layout = made(MEMORY, account_of(MEMORY))
    core = read(layout, layout.size - 5000)
    assert (core.missing, core.end) == (5000, layout.size)


def test_a_core_without_all_its_headers_is_refused() -> None:
    layout = made(MEMORY, account_of(MEMORY))
    note = 64 + 56 * 3
    notes_size = struct.unpack_from("<Q", layout.header, 64 + 32)[0]
    for size in (64, 64 + 56, note, note + notes_size - 1):
        assert "cut off" in refusal(layout.header[:size])
    read_core(io.BytesIO(layout.header[: note + notes_size]), layout.size)
    for size in (0, 3, 15):
        assert refusal(layout.header[:size]) == "it is no ELF file"


def with_notes(notes: bytes) -> bytes:
    data = bytearray(made(MEMORY, None).header[:176])
    struct.pack_into("<Q", data, 64 + 32, len(notes))
    struct.pack_into("<H", data, 56, 1)
    struct.pack_into("<Q", data, 64 + 8, 176)
    return bytes(data) + notes


def changed(offset: int, form: str, value: int) -> bytes:
    data = bytearray(made(MEMORY, account_of(MEMORY)).header)
    struct.pack_into(form, data, offset, value)
    return bytes(data)


WRONG = {
    "no ELF file": (0, "<B", 0),
    "no core, but ET_EXEC": (16, "<H", 2),
    "program headers have 55 bytes": (54, "<H", 55),
    "cut off: its headers end at byte 18446744073709551615": (32, "<Q", (1 << 64) - 1 - 168),
    "bytes of notes, which no core has": (64 + 32, "<Q", 1 << 31),
    "segment at 0x10000 cannot be": (64 + 56 + 32, "<Q", 5 * PAGE_SIZE),  # filesz > memsz
    "segment at 0x400000 cannot be": (64 + 56 + 40, "<Q", 1 << 40),  # it overlaps another one
    "behind the end of memory": (64 + 112 + 40, "<Q", (1 << 64) - 1),
    "notes end in the middle": (64 + 56 * 3 + 4, "<I", 1 << 20),
}


@pytest.mark.parametrize("reason", WRONG)
def test_what_cannot_be_is_refused(reason: str) -> None:
    assert reason in refusal(changed(*WRONG[reason]), 1 << 30)


def test_more_headers_than_fit_into_memory_are_not_even_asked_for() -> None:
    # PN_XNUM, with a section header that claims four thousand million program headers.
    header = bytearray(made(MEMORY, None).header)
    struct.pack_into("<Q", header, 40, len(header))
    struct.pack_into("<H", header, 56, 0xFFFF)
    section = struct.pack("<44xI16x", (1 << 32) - 1)
    assert "4294967295 program headers" in refusal(bytes(header) + section, 1 << 60)


def with_segments(notes: bytes, count: int) -> bytes:
    """A core with `count` program headers, all of the same notes."""
    data = bytearray(made(MEMORY, None).header[:64])
    struct.pack_into("<H", data, 56, count)
    at = len(data) + 56 * count
    header = struct.pack("<IIQQQQQQ", 4, 4, at, 0, 0, len(notes), 0, 4)
    return bytes(data) + header * count + notes


def test_a_short_file_does_not_have_many_notes_in_memory() -> None:
    data = with_segments(3000 * pack_note(b"CORE", 1, b""), 100)
    tracemalloc.start()
    try:
        core = read_core(io.BytesIO(data))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert core.threads == 300_000
    assert most < 8 << 20


def test_notes_that_are_not_kept_are_not_in_memory(tmp_path: Path) -> None:
    """A sparse file of a few KiB claims a segment of notes of nearly a GiB."""
    size = (1 << 30) - 4096
    data = bytearray(with_notes(b""))
    struct.pack_into("<Q", data, 64 + 32, size)
    one = struct.pack("<III8s", 8, 64 << 20, 7, b"NOBODY")
    path = tmp_path / "core"
    with open(path, "wb+", buffering=0) as file:
        file.write(data)
        for at in range(0, size - (64 << 20) - len(one), (64 << 20) + len(one)):
            file.seek(len(data) + at)
            file.write(one)
        file.truncate(len(data) + size)
        tracemalloc.start()
        try:
            core = read_core(cast(BinaryIO, file))
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert core.threads == 0
    assert core.missing == 0
    assert most < 8 << 20


@given(st.lists(st.binary(max_size=40), max_size=60), st.integers(1, 64))
def test_notes_are_the_same_in_pieces_of_any_size(descs: list[bytes], short: int) -> None:
    """A raw file may give fewer bytes than it is asked for."""

    class Short(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(short if size is None or size < 0 else min(short, size))

    data = with_notes(b"".join(pack_note(b"CORE", 1, desc) for desc in descs))
    assert read_core(Short(data)) == read_core(io.BytesIO(data))
    assert read_core(io.BytesIO(data)).threads == len(descs)


def test_more_notes_than_any_core_has_are_refused() -> None:
    data = with_segments(100_000 * struct.pack("<III", 0, 0, 7), 42)
    assert "more than 4194304 notes" in refusal(data)


def test_a_note_of_ours_that_is_too_long_is_not_parsed() -> None:
    note = pack_note(b"GCOREFS", 0x47434F52, bytes(1 + (1 << 25)))
    assert "GCOREFS note has 33554433 bytes" in refusal(with_notes(note))


def test_a_list_of_files_that_is_longer_than_its_note_is_refused() -> None:
    note = pack_note(b"CORE", 0x46494C45, struct.pack("<2Q", 1 << 60, PAGE_SIZE))
    header = with_notes(note)
    assert "list of files is longer" in refusal(header)


FACTS = provenance(account_of(MEMORY, [(0x10000, 0x11000)], {0x10000: "[heap]"})).facts()


def test_the_facts_are_those_of_the_note() -> None:
    assert parse(json.dumps(FACTS).encode()) == FACTS
    more = {**FACTS, "weather": [1.5, None]}
    assert parse(json.dumps(more).encode()) == more


NO_FACTS: list[tuple[str, Any]] = [
    ("version", 1), ("host", None), ("pid", "7"), ("pid", -1), ("pid", 1 << 64),
    ("stop_milliseconds", "1"), ("policy", []), ("threads", {}), ("threads", {"stopped": 1}),
    ("tids", {"zero": 7}), ("bytes", {**FACTS["bytes"], "mapped": 0.5}),
    ("bytes", {"mapped": 0}), ("zeros", {"area": 1 << 64, "shared": 0}), ("zeros", {}),
    ("left_out", {"filter": -1}), ("left_out", {"filter": "x"}), ("unreadable", ["1000"]),
    ("unreadable", [1]), ("unreadable", ["2000-1000"]), ("unreadable", ["1000-3000", "2000-4000"]),
    ("names", {"x": "[heap]"}), ("names", {"1000": 5}), ("names", {"1" * 17: "[heap]"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), NO_FACTS)
def test_a_note_that_we_would_not_write_is_refused(name: str, value: object) -> None:
    with pytest.raises(FactsError, match=name):
        parse(json.dumps({**FACTS, name: value}).encode())
    with pytest.raises(FactsError, match=name):
        parse(json.dumps({key: each for key, each in FACTS.items() if key != name}).encode())


def test_a_note_may_say_which_threads_got_no_cpu() -> None:
    assert parse(json.dumps({**FACTS, "no_cpu": [7]}).encode())["no_cpu"] == [7]
    with pytest.raises(FactsError, match="no_cpu"):
        parse(json.dumps({**FACTS, "no_cpu": 7}).encode())


XSTATE = {
    "layout": "standard", "size": 2688, "kernel_size": 2432, "kernel_features": "0xe7",
    "kernel_components": [[2, 256, 576]], "kept": 0,
}  # fmt: skip


def test_a_note_may_say_nothing_of_vector_registers() -> None:
    assert "xstate" not in FACTS
    assert parse(json.dumps({**FACTS, "xstate": XSTATE}).encode())["xstate"] == XSTATE


@pytest.mark.parametrize(
    "value", [None, [], {}, *({**XSTATE, name: None} for name in XSTATE), {**XSTATE, "size": "1"}]
)
def test_what_it_says_of_them_is_whole_or_refused(value: object) -> None:
    with pytest.raises(FactsError, match="xstate"):
        parse(json.dumps({**FACTS, "xstate": value}).encode())


@pytest.mark.parametrize("desc", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"1" * 10_000])
def test_a_note_that_is_no_object_of_json_is_refused(desc: bytes) -> None:
    with pytest.raises(FactsError, match="JSON"):
        parse(desc)
    assert "GCOREFS note" in refusal(with_notes(pack_note(b"GCOREFS", 0x47434F52, desc)))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_a_number_that_json_cannot_have_is_refused(number: str) -> None:
    """`gcorefs info --json` would write it, and no other parser takes that."""
    text = json.dumps({**FACTS, "stop_milliseconds": "HERE"}).replace('"HERE"', number)
    with pytest.raises(FactsError, match="JSON"):
        parse(text.encode())


def read_or_refuse(data: bytes, size: int | None = None) -> None:
    try:
        core = read_core(io.BytesIO(data), size)
    except CoreError as error:
        assert str(error).isprintable()
        return
    for before, after in pairwise(core.loads):
        assert before.vaddr + before.memsz <= after.vaddr


@given(st.binary(max_size=300))
def test_garbage_is_refused(data: bytes) -> None:
    read_or_refuse(data)
    read_or_refuse(b"\x7fELF\2\1\1" + data)


WHOLE = made(
    [HEAP, Segment(1 << 20, 1 << 20, 1 << 20, 6, array("Q", [1 << 20]), array("Q", [3 << 19]))],
    account_of(MEMORY, [(0x10000, 0x11000)]),
    files=[(mapped(0x10000, 0x12000), b"/file")],
).header


@given(
    st.lists(
        st.tuples(st.integers(0, len(WHOLE) - 8), st.binary(min_size=1, max_size=8)), max_size=5
    ),
    st.integers(0, 1 << 64),
)
@example([(79, b"\x80")], (1 << 63) + len(WHOLE))  # its notes lie where no file has bytes
def test_a_core_with_some_bytes_changed_is_read_or_refused(
    changes: list[tuple[int, bytes]], size: int
) -> None:
    data = bytearray(WHOLE)
    for at, piece in changes:
        data[at : at + len(piece)] = piece
    read_or_refuse(bytes(data), size)
    read_or_refuse(bytes(data)[: size % len(data)])


def test_more_segments_of_notes_than_any_core_has_are_refused() -> None:
    assert "more than 1024 segments" in refusal(with_segments(b"x", 1025))
