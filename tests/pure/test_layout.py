"""The file of a core: every byte in one place, headers that two readers agree on."""

import io
import random
import struct
from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st

from gcorefs.elfcore.elf import PAGE_SIZE, pack_note
from gcorefs.elfcore.layout import Layout, Segment, Source
from gcorefs.elfcore.regsets import X86_64

NOTES = pack_note(b"CORE", 1, b"desc") + pack_note(b"LINUX", 0x202, b"xstate")

# Elf64_Ehdr, Elf64_Phdr and Elf64_Shdr (elf(5)), written here once more on purpose.
EHDR = struct.Struct("<4sBBBBB7xHHIQQQIHHHHHH")
PHDR = struct.Struct("<IIQQQQQQ")
SHDR = struct.Struct("<IIQQQQIIQQ")


NOISE = random.Random(1).randbytes(1 << 20)


def memory(address: int, length: int) -> bytes:
    """The memory of no process: a page's number tells its bytes, and no two look alike."""
    pages = range(address // PAGE_SIZE, -(-(address + length) // PAGE_SIZE))
    starts = (page * 4099 % (len(NOISE) - PAGE_SIZE) for page in pages)
    data = b"".join(NOISE[start : start + PAGE_SIZE] for start in starts)
    return data[address % PAGE_SIZE :][:length]


def read(layout: Layout, offset: int, length: int) -> bytes:
    return b"".join(
        layout.header[piece.at : piece.at + piece.length]
        if piece.source is Source.HEADER
        else memory(piece.at, piece.length)
        for piece in layout.extents(offset, length)
    )


def whole(layout: Layout) -> bytes:
    """The file as its rules say it, without its extents."""
    data = (memory(segment.vaddr, segment.filesz) for segment in layout.segments)
    return layout.header + b"".join(data)


@st.composite
def _segments(draw: st.DrawFn) -> list[Segment]:
    segments = []
    address = draw(st.integers(1, 1 << 50)) * PAGE_SIZE
    for _ in range(draw(st.integers(0, 8))):
        address += draw(st.integers(0, 3)) * PAGE_SIZE
        pages = draw(st.integers(1, 4))
        kept = draw(st.integers(0, pages))
        flags = draw(st.integers(0, 7))
        segments.append(Segment(address, pages * PAGE_SIZE, kept * PAGE_SIZE, flags))
        address += pages * PAGE_SIZE
    return segments


def _layout(segments: Sequence[Segment], notes: bytes = NOTES) -> Layout:
    return Layout(X86_64, segments, notes)


layouts = st.builds(_layout, _segments(), st.binary(max_size=9000))


@given(layouts, st.data())
def test_any_split_of_reads_gives_the_bytes_of_one_read(
    layout: Layout, data: st.DataObject
) -> None:
    cuts = data.draw(st.lists(st.integers(0, layout.size), max_size=12))
    borders = sorted({0, layout.size, *cuts})
    pieces = [read(layout, start, end - start) for start, end in pairwise(borders)]
    assert b"".join(pieces) == read(layout, 0, layout.size) == whole(layout)


@given(layouts, st.data())
def test_any_read_is_a_slice_of_the_file(layout: Layout, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, layout.size + 2 * PAGE_SIZE))
    length = data.draw(st.integers(0, layout.size + 2 * PAGE_SIZE))
    assert read(layout, offset, length) == whole(layout)[offset : offset + length]


def test_reads_that_begin_and_end_at_and_around_every_border() -> None:
    sizes = (3, 0, 1, 2, 0, 1)  # pages kept of four, with one unmapped page behind each
    layout = _layout(
        [
            Segment(i * 5 * PAGE_SIZE, 4 * PAGE_SIZE, n * PAGE_SIZE, 6)
            for i, n in enumerate(sizes, 1)
        ]
    )
    borders = [len(layout.header) + sum(sizes[:i]) * PAGE_SIZE for i in range(len(sizes) + 1)]
    near = sorted({border + step for border in (1, *borders) for step in (-1, 0, 1)})
    file = whole(layout)
    for start, end in product(near, near):
        assert read(layout, start, max(0, end - start)) == file[start:end]


@given(layouts)
def test_extents_tile_the_file(layout: Layout) -> None:
    at = 0
    for piece in layout.extents(0, layout.size):
        assert piece.offset == at
        assert piece.length > 0
        at += piece.length
    assert at == layout.size


@given(layouts)
def test_memory_lies_on_page_borders_in_address_order(layout: Layout) -> None:
    pieces = [p for p in layout.extents(0, layout.size) if p.source is Source.MEMORY]
    assert all(p.offset % PAGE_SIZE == p.at % PAGE_SIZE == 0 for p in pieces)
    assert [p.at for p in pieces] == sorted(p.at for p in pieces)
    assert len(layout.header) % PAGE_SIZE == 0


@given(layouts)
def test_the_same_input_gives_the_same_bytes(layout: Layout) -> None:
    notes = layout.header[64 + 56 * (len(layout.segments) + 1) :]
    size = PHDR.unpack_from(layout.header, EHDR.size)[5]
    again = _layout(list(layout.segments), notes[:size])
    assert (again.header, again.size) == (layout.header, layout.size)


@given(layouts)
def test_each_program_header_tells_where_its_memory_lies(layout: Layout) -> None:
    note, *loads = PHDR.iter_unpack(layout.header[64 : 64 + 56 * (len(layout.segments) + 1)])
    kind, flags, offset, vaddr, paddr, filesz, memsz, align = note
    assert (kind, flags, vaddr, paddr, memsz, align) == (4, 0, 0, 0, 0, 4)
    assert offset == 64 + 56 * (len(layout.segments) + 1)
    assert not layout.header[offset + filesz :].strip(b"\0")
    border = offset + filesz
    for segment, load in zip(layout.segments, loads, strict=True):
        kind, flags, offset, vaddr, paddr, filesz, memsz, align = load
        assert (kind, paddr, align) == (1, 0, PAGE_SIZE)
        assert (flags, vaddr) == (segment.flags, segment.vaddr)
        assert (filesz, memsz) == (segment.filesz, segment.memsz)
        assert offset % PAGE_SIZE == 0
        assert offset >= border
        assert read(layout, offset, filesz) == memory(vaddr, filesz)
        border = offset + filesz
    assert border <= layout.size


@given(layouts, st.integers(0, 1 << 62))
def test_nothing_lies_past_the_end(layout: Layout, beyond: int) -> None:
    assert list(layout.extents(layout.size + beyond, 1 << 40)) == []
    assert len(read(layout, layout.size - 1, 1 << 40)) == 1


@given(layouts, st.integers(0, 1 << 20))
def test_an_empty_read_has_no_extents(layout: Layout, offset: int) -> None:
    assert list(layout.extents(offset, 0)) == []


@given(layouts)
def test_the_end_is_that_of_the_last_byte_kept(layout: Layout) -> None:
    assert layout.size == len(layout.header) + sum(s.filesz for s in layout.segments)


def test_a_process_without_memory_is_a_header() -> None:
    layout = _layout([])
    assert layout.size == len(layout.header) == PAGE_SIZE
    assert read(layout, 0, 1 << 20) == layout.header


def test_a_mapping_at_the_top_of_memory_is_like_any_other() -> None:
    top = Segment(0xFFFFFFFFFF600000, PAGE_SIZE, PAGE_SIZE, 1)
    layout = _layout([Segment(PAGE_SIZE, PAGE_SIZE, 0, 6), top])
    assert read(layout, PAGE_SIZE, PAGE_SIZE) == memory(top.vaddr, PAGE_SIZE)


@given(layouts)
@settings(max_examples=50)
def test_pyelftools_reads_the_same_headers(layout: Layout) -> None:
    elf = ELFFile(io.BytesIO(whole(layout)))
    assert (elf["e_type"], elf["e_machine"], elf["e_version"]) == (
        "ET_CORE",
        "EM_X86_64",
        "EV_CURRENT",
    )
    assert (elf.elfclass, elf.little_endian, elf.num_sections()) == (64, True, 0)
    note, *loads = elf.iter_segments()
    assert note["p_type"] == "PT_NOTE"
    seen = [Segment(s["p_vaddr"], s["p_memsz"], s["p_filesz"], s["p_flags"]) for s in loads]
    assert seen == list(layout.segments)
    assert [s.data() for s in loads] == [memory(s.vaddr, s.filesz) for s in layout.segments]


def test_the_elf_header_of_a_core() -> None:
    fields = EHDR.unpack_from(_layout([Segment(PAGE_SIZE, PAGE_SIZE, 0, 4)]).header)
    magic, class_, data, version, abi, abi_version, *rest = fields
    assert (magic, class_, data, version, abi, abi_version) == (b"\x7fELF", 2, 1, 1, 0, 0)
    assert rest == [4, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0]


def _many(count: int) -> Layout:
    # Every third is kept, so that there is memory behind the headers too.
    return _layout(
        [
            Segment(i * 2 * PAGE_SIZE, PAGE_SIZE, PAGE_SIZE * (i % 3 == 0), 6)
            for i in range(1, count + 1)
        ]
    )


def test_65534_program_headers_are_still_counted_in_the_elf_header() -> None:
    layout = _many(65533)
    fields = EHDR.unpack_from(layout.header)
    assert fields[-9:] == (64, 0, 0, 64, 56, 65534, 0, 0, 0)
    elf = ELFFile(io.BytesIO(layout.header))
    assert (elf.num_segments(), elf.num_sections()) == (65534, 0)


@pytest.mark.parametrize("count", [65534, 65535, 70000])
def test_more_are_counted_in_a_section_and_the_notes_have_one_too(count: int) -> None:
    layout = _many(count)
    phnum = count + 1
    shoff = 64 + 56 * phnum
    fields = EHDR.unpack_from(layout.header)
    assert fields[-9:] == (64, shoff, 0, 64, 56, 0xFFFF, 64, 2, 0)

    null, notes = SHDR.iter_unpack(layout.header[shoff : shoff + 128])
    assert null == (0, 0, 0, 0, 0, 2, 0, phnum, 0, 0)
    assert notes == (0, 7, 0, 0, shoff + 128, len(NOTES), 0, 0, 4, 0)
    assert layout.header[shoff + 128 :].startswith(NOTES)

    note, *loads = PHDR.iter_unpack(layout.header[64:shoff])
    assert note == (4, 0, shoff + 128, 0, 0, len(NOTES), 0, 4)
    offset = len(layout.header)
    for segment, load in zip(layout.segments, loads, strict=True):
        size = (segment.filesz, segment.memsz)
        assert load == (1, segment.flags, offset, segment.vaddr, 0, *size, PAGE_SIZE)
        offset += segment.filesz
    assert layout.size == offset


@pytest.mark.parametrize("count", [65534, 65535, 70000])
def test_pyelftools_counts_more_than_65534_program_headers(count: int) -> None:
    layout = _many(count)
    elf: Any = ELFFile(io.BytesIO(layout.header))
    assert (elf.num_segments(), elf.num_sections()) == (count + 1, 2)
    last = elf.get_segment(count)
    assert (last["p_type"], last["p_vaddr"]) == ("PT_LOAD", layout.segments[-1].vaddr)
    notes = list(elf.get_section(1).iter_notes())
    assert [(n["n_name"], n["n_desc"]) for n in notes] == [
        (n["n_name"], n["n_desc"]) for n in elf.get_segment(0).iter_notes()
    ]
    assert [n["n_name"] for n in notes] == ["CORE", "LINUX"]


def test_any_piece_of_a_file_of_70000_segments_is_found() -> None:
    layout = _many(70000)
    file = whole(layout)
    for offset in range(0, layout.size, 7 * PAGE_SIZE * 101 + 4093):
        assert read(layout, offset, 5000) == file[offset : offset + 5000]
