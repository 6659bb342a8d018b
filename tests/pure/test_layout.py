"""The file of a core: every byte in one place, and headers on which two readers agree."""

import io
import random
import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, NamedTuple

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st

from gcorefs.arch.i386 import I386
from gcorefs.arch.page import PAGE_SIZE
from gcorefs.arch.x86_64 import X86_64
from gcorefs.elfcore import loads as making
from gcorefs.elfcore.elf import ELF32, pack_note
from gcorefs.elfcore.header_store import Pieces
from gcorefs.elfcore.layout import Extent, Layout, Source
from gcorefs.elfcore.segments import ZEROS, Segment, Segments, that_fit
from tests.pure.cores import load as load_segments

NOTES = pack_note(b"CORE", 1, b"desc") + pack_note(b"LINUX", 0x202, b"xstate")

# Elf64_Ehdr, Elf64_Phdr and Elf64_Shdr (elf(5)), written here again on purpose.
EHDR = struct.Struct("<4sBBBBB7xHHIQQQIHHHHHH")
PHDR = struct.Struct("<IIQQQQQQ")
SHDR = struct.Struct("<IIQQQQIIQQ")
# Elf32_Ehdr, Elf32_Phdr (with its flags in another place) and Elf32_Shdr.
EHDR_32 = struct.Struct("<4sBBBBB7xHHIIIIIHHHHHH")
PHDR_32 = struct.Struct("<IIIIIIII")
SHDR_32 = struct.Struct("<IIIIIIIIII")


NOISE = random.Random(1).randbytes(1 << 20)


def memory(address: int, length: int) -> bytes:
    """The memory of an imaginary process: the number of a page gives its bytes, all different."""
    pages = range(address // PAGE_SIZE, -(-(address + length) // PAGE_SIZE))
    starts = (page * 4099 % (len(NOISE) - PAGE_SIZE) for page in pages)
    data = b"".join(NOISE[start : start + PAGE_SIZE] for start in starts)
    return data[address % PAGE_SIZE :][:length]


def read(layout: Layout, offset: int, length: int) -> bytes:
    def piece_of(piece: Extent) -> bytes:
        if piece.source is Source.HEADER:
            return layout.header[piece.at : piece.at + piece.length]
        if piece.source is Source.ZEROS:
            return bytes(piece.length)
        return memory(piece.at, piece.length)

    return b"".join(map(piece_of, layout.extents(offset, length)))


@dataclass(frozen=True)
class Made:
    """A layout and the mappings from which it was made."""

    layout: Layout
    mappings: Sequence[Segment]

    def contents(self, mapping: Segment) -> bytes:
        """The bytes of a mapping in the core."""
        data = bytearray(memory(mapping.vaddr, mapping.filesz))
        for start, end in zip(mapping.hole_starts, mapping.hole_ends, strict=True):
            data[start - mapping.vaddr : end - mapping.vaddr] = bytes(end - start)
        return bytes(data)

    def whole(self) -> bytes:
        """The file according to its program headers, without its extents."""
        file = bytearray(self.layout.header.ljust(self.layout.size, b"\0"))
        at = {m.vaddr + i: p for m in self.mappings for i, p in _pages(self.contents(m))}
        for load in loads(self.layout):
            for page in range(0, load.filesz, PAGE_SIZE):
                start = load.offset + page
                file[start : start + PAGE_SIZE] = at[load.vaddr + page]
        return bytes(file)


def _pages(data: bytes) -> Iterator[tuple[int, bytes]]:
    return ((at, data[at : at + PAGE_SIZE]) for at in range(0, len(data), PAGE_SIZE))


class Load(NamedTuple):
    kind: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int
    align: int


def loads(layout: Layout) -> list[Load]:
    end = EHDR.size + PHDR.size * layout.phnum
    _, *found = map(Load._make, PHDR.iter_unpack(layout.header[EHDR.size : end]))
    return found


@st.composite
def _segments(draw: st.DrawFn) -> list[Segment]:
    segments = []
    address = draw(st.integers(1, 1 << 50)) * PAGE_SIZE
    for _ in range(draw(st.integers(0, 8))):
        address += draw(st.integers(0, 3)) * PAGE_SIZE
        # Some are so large that not all holes can be zeros between other bytes.
        pages = draw(st.integers(1, 4) | st.integers(300, 600))
        kept = draw(st.integers(0, pages) if pages < 5 else st.just(pages))
        flags = draw(st.integers(0, 7))
        borders = draw(st.lists(st.integers(0, kept), unique=True, max_size=6))
        borders = sorted(borders)[: len(borders) // 2 * 2]
        ends = array("Q", [address + number * PAGE_SIZE for number in borders])
        sizes = pages * PAGE_SIZE, kept * PAGE_SIZE
        segments.append(Segment(address, *sizes, flags, ends[::2], ends[1::2]))
        address += pages * PAGE_SIZE
    return segments


def _layout(segments: Sequence[Segment], notes: bytes = NOTES) -> Layout:
    return Layout(X86_64, load_segments(segments), Pieces([notes]))


def _made(segments: Sequence[Segment], notes: bytes = NOTES) -> Made:
    return Made(_layout(segments, notes), segments)


lists_of_segments = _segments()
makings = st.builds(_made, lists_of_segments, st.binary(max_size=9000))
layouts = makings.map(lambda made: made.layout)


@given(makings, st.data())
def test_any_split_of_reads_gives_the_bytes_of_one_read(made: Made, data: st.DataObject) -> None:
    layout = made.layout
    cuts = data.draw(st.lists(st.integers(0, layout.size), max_size=12))
    borders = sorted({0, layout.size, *cuts})
    pieces = [read(layout, start, end - start) for start, end in pairwise(borders)]
    assert b"".join(pieces) == read(layout, 0, layout.size) == made.whole()


@given(makings, st.data())
def test_any_read_is_a_slice_of_the_file(made: Made, data: st.DataObject) -> None:
    layout = made.layout
    offset = data.draw(st.integers(0, layout.size + 2 * PAGE_SIZE))
    length = data.draw(st.integers(0, layout.size + 2 * PAGE_SIZE))
    assert read(layout, offset, length) == made.whole()[offset : offset + length]


def test_reads_that_begin_and_end_at_and_around_every_border() -> None:
    sizes = (3, 0, 1, 2, 0, 1)  # pages kept of four; one unmapped page follows each
    made = _made(
        [
            Segment(i * 5 * PAGE_SIZE, 4 * PAGE_SIZE, n * PAGE_SIZE, 6)
            for i, n in enumerate(sizes, 1)
        ]
    )
    layout = made.layout
    borders = [len(layout.header) + sum(sizes[:i]) * PAGE_SIZE for i in range(len(sizes) + 1)]
    near = sorted({border + step for border in (1, *borders) for step in (-1, 0, 1)})
    file = made.whole()
    for start, end in product(near, near):
        assert read(layout, start, max(0, end - start)) == file[start:end]


@given(layouts, st.data())
def test_memory_in_a_row_is_the_same_as_its_extents(layout: Layout, data: st.DataObject) -> None:
    if layout.size == layout.memory_offset:
        return
    offset = data.draw(st.integers(layout.memory_offset, layout.size - 1))
    length = data.draw(st.integers(1, layout.size - offset))
    pieces = [
        (piece.at if piece.source is Source.MEMORY else ZEROS, piece.length)
        for piece in layout.extents(offset, length)
    ]
    assert [*zip(*layout.memory(offset, length), strict=True)] == pieces


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


@given(makings)
def test_the_same_input_gives_the_same_bytes(made: Made) -> None:
    layout = made.layout
    notes = layout.header[64 + 56 * layout.phnum :]
    size = PHDR.unpack_from(layout.header, EHDR.size)[5]
    again = _layout(made.mappings, notes[:size])
    assert (again.header, again.size) == (layout.header, layout.size)
    assert list(again.extents(0, again.size)) == list(layout.extents(0, layout.size))


@given(layouts)
def test_the_notes_stand_behind_the_program_headers(layout: Layout) -> None:
    note = Load._make(PHDR.unpack_from(layout.header, EHDR.size))
    assert note == (4, 0, 64 + 56 * layout.phnum, 0, 0, note.filesz, 0, 4)
    assert not layout.header[note.offset + note.filesz :].strip(b"\0")


@given(makings)
def test_program_headers_tell_where_the_memory_of_each_mapping_lies(made: Made) -> None:
    layout = made.layout
    rest = iter(loads(layout))
    border = len(layout.header)
    for mapping in made.mappings:
        address, end = mapping.vaddr, mapping.vaddr + mapping.memsz
        contents = b""
        while address < end:
            load = next(rest)
            assert (load.kind, load.paddr, load.align) == (1, 0, PAGE_SIZE)
            assert (load.flags, load.vaddr) == (mapping.flags, address)
            assert load.offset % PAGE_SIZE == 0
            assert 0 <= load.filesz <= load.memsz > 0
            assert load.filesz == load.memsz or load.vaddr + load.memsz == end
            data = read(layout, load.offset, load.filesz)
            assert len(data) == load.filesz
            contents += data
            if data.strip(b"\0"):  # memory, in address order
                assert load.offset >= border
                border = load.offset + load.filesz
            address += load.memsz
        assert address == end
        assert contents == made.contents(mapping)
    assert next(rest, None) is None
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
    ends = [load.offset + load.filesz for load in loads(layout) if load.filesz]
    assert layout.size == max([len(layout.header), *ends])


def test_a_process_without_memory_is_a_header() -> None:
    layout = _layout([])
    assert layout.size == len(layout.header) == PAGE_SIZE
    assert read(layout, 0, 1 << 20) == layout.header


def test_a_mapping_at_the_top_of_memory_is_like_any_other() -> None:
    top = Segment(0xFFFFFFFFFF600000, PAGE_SIZE, PAGE_SIZE, 1)
    layout = _layout([Segment(PAGE_SIZE, PAGE_SIZE, 0, 6), top])
    assert read(layout, PAGE_SIZE, PAGE_SIZE) == memory(top.vaddr, PAGE_SIZE)


@given(makings)
@settings(max_examples=50)
def test_pyelftools_reads_the_same_headers(made: Made) -> None:
    file = made.whole()
    elf = ELFFile(io.BytesIO(file))
    assert (elf["e_type"], elf["e_machine"], elf["e_version"]) == (
        "ET_CORE",
        "EM_X86_64",
        "EV_CURRENT",
    )
    assert (elf.elfclass, elf.little_endian, elf.num_sections()) == (64, True, 0)
    note, *segments = elf.iter_segments()
    assert note["p_type"] == "PT_NOTE"
    fields = ("p_flags", "p_offset", "p_vaddr", "p_paddr", "p_filesz", "p_memsz", "p_align")
    assert [tuple(segment[name] for name in fields) for segment in segments] == [
        load[1:] for load in loads(made.layout)
    ]
    contents = b"".join(segment.data() for segment in segments)
    assert contents == b"".join(map(made.contents, made.mappings))


def test_the_elf_header_of_a_core() -> None:
    fields = EHDR.unpack_from(_layout([Segment(PAGE_SIZE, PAGE_SIZE, 0, 4)]).header)
    magic, class_, data, version, abi, abi_version, *rest = fields
    assert (magic, class_, data, version, abi, abi_version) == (b"\x7fELF", 2, 1, 1, 0, 0)
    assert rest == [4, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0]


def _many(count: int) -> Made:
    # Every third is kept, so that there is memory behind the headers too.
    return _made(
        [
            Segment(i * 2 * PAGE_SIZE, PAGE_SIZE, PAGE_SIZE * (i % 3 == 0), 6)
            for i in range(1, count + 1)
        ]
    )


def test_65534_program_headers_are_still_counted_in_the_elf_header() -> None:
    layout = _many(65533).layout
    fields = EHDR.unpack_from(layout.header)
    assert fields[-9:] == (64, 0, 0, 64, 56, 65534, 0, 0, 0)
    elf = ELFFile(io.BytesIO(layout.header))
    assert (elf.num_segments(), elf.num_sections()) == (65534, 0)


@pytest.mark.parametrize("count", [65534, 65535, 70000])
def test_more_are_counted_in_a_section_and_the_notes_have_one_too(count: int) -> None:
    made = _many(count)
    layout = made.layout
    phnum = count + 1
    shoff = 64 + 56 * phnum
    fields = EHDR.unpack_from(layout.header)
    assert fields[-9:] == (64, shoff, 0, 64, 56, 0xFFFF, 64, 2, 0)

    null, notes = SHDR.iter_unpack(layout.header[shoff : shoff + 128])
    assert null == (0, 0, 0, 0, 0, 2, 0, phnum, 0, 0)
    assert notes == (0, 7, 0, 0, shoff + 128, len(NOTES), 0, 0, 4, 0)
    assert layout.header[shoff + 128 :].startswith(NOTES)

    note, *found = PHDR.iter_unpack(layout.header[64:shoff])
    assert note == (4, 0, shoff + 128, 0, 0, len(NOTES), 0, 4)
    offset = len(layout.header)
    for segment, load in zip(made.mappings, found, strict=True):
        size = (segment.filesz, segment.memsz)
        assert load == (1, segment.flags, offset, segment.vaddr, 0, *size, PAGE_SIZE)
        offset += segment.filesz
    assert layout.size == offset


@pytest.mark.parametrize("count", [65534, 65535, 70000])
def test_pyelftools_counts_more_than_65534_program_headers(count: int) -> None:
    layout = _many(count).layout
    elf: Any = ELFFile(io.BytesIO(layout.header))
    assert (elf.num_segments(), elf.num_sections()) == (count + 1, 2)
    last = elf.get_segment(count)
    assert (last["p_type"], last["p_vaddr"]) == ("PT_LOAD", count * 2 * PAGE_SIZE)
    notes = list(elf.get_section(1).iter_notes())
    assert [(n["n_name"], n["n_desc"]) for n in notes] == [
        (n["n_name"], n["n_desc"]) for n in elf.get_segment(0).iter_notes()
    ]
    assert [n["n_name"] for n in notes] == ["CORE", "LINUX"]


def test_any_piece_of_a_file_of_70000_segments_is_found() -> None:
    made = _many(70000)
    layout, file = made.layout, made.whole()
    for offset in range(0, layout.size, 7 * PAGE_SIZE * 101 + 4093):
        assert read(layout, offset, 5000) == file[offset : offset + 5000]


@pytest.mark.parametrize("count", [5, 65533, 65534, 70000])
def test_the_headers_of_a_32_bit_core(count: int) -> None:
    segments = [
        Segment(i * 2 * PAGE_SIZE, PAGE_SIZE, PAGE_SIZE * (i % 3 == 0), i % 8)
        for i in range(1, count + 1)
    ]
    layout = Layout(I386, load_segments(segments), Pieces([NOTES]))
    is_extended = count >= 65534
    shoff = 52 + 32 * (count + 1)
    magic, class_, data, version, abi, abi_version, *rest = EHDR_32.unpack_from(layout.header)
    assert (magic, class_, data, version, abi, abi_version) == (b"\x7fELF", 1, 1, 1, 0, 0)
    sections = (shoff, 40, 2) if is_extended else (0, 0, 0)
    phnum = 0xFFFF if is_extended else count + 1
    assert rest == [4, 3, 1, 0, 52, sections[0], 0, 52, 32, phnum, *sections[1:], 0]
    at = shoff + (80 if is_extended else 0)
    if is_extended:
        null, notes = SHDR_32.iter_unpack(layout.header[shoff:at])
        assert null == (0, 0, 0, 0, 0, 2, 0, count + 1, 0, 0)
        assert notes == (0, 7, 0, 0, at, len(NOTES), 0, 0, 4, 0)
    assert layout.header[at:].startswith(NOTES)
    note, *loads = PHDR_32.iter_unpack(layout.header[52:shoff])
    assert note == (4, at, 0, 0, len(NOTES), 0, 0, 4)
    offset = len(layout.header)
    for segment, load in zip(segments, loads, strict=True):
        size = (segment.filesz, segment.memsz)
        assert load == (1, offset, segment.vaddr, 0, *size, segment.flags, PAGE_SIZE)
        offset += segment.filesz
    assert layout.size == offset
    elf: Any = ELFFile(io.BytesIO(layout.header))
    assert (elf.elfclass, elf["e_machine"]) == (32, "EM_386")
    assert (elf.num_segments(), elf.num_sections()) == (count + 1, 2 * is_extended)
    last = elf.get_segment(count)
    assert (last["p_type"], last["p_vaddr"]) == ("PT_LOAD", segments[-1].vaddr)


def test_what_lies_behind_four_gibibytes_of_a_32_bit_file_is_not_in_it() -> None:
    """p_offset cannot give its place.  A process with so much memory has none left."""
    low = Segment(PAGE_SIZE, 0xFFF00000, 0xFFF00000, 6)
    stack = Segment(0xFFF7E000, 0x80000, 0x80000, 6)
    high = Segment(0xFFFFE000, PAGE_SIZE, PAGE_SIZE, 6)
    notes = pack_note(b"CORE", 1, bytes(0x80000))
    kept = that_fit(ELF32, Segments.of([low, stack, high, high]), 52 + 32 + len(notes))
    layout = Layout(I386, making.load(kept), Pieces([notes]))
    offsets = [row[1:6] for row in PHDR_32.iter_unpack(layout.header[52 : 52 + 5 * 32])][1:]
    start = len(layout.header)
    assert offsets == [
        (start, low.vaddr, 0, low.memsz, low.memsz),
        (start + low.memsz, stack.vaddr, 0, 0, stack.memsz),
        (start + low.memsz, high.vaddr, 0, PAGE_SIZE, PAGE_SIZE),
        (start + low.memsz + PAGE_SIZE, high.vaddr, 0, PAGE_SIZE, PAGE_SIZE),
    ]
    assert layout.size == start + low.memsz + 2 * PAGE_SIZE
    assert [piece.at for piece in layout.extents(layout.size - PAGE_SIZE, PAGE_SIZE)] == [
        high.vaddr
    ]
