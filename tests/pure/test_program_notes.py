"""The end of the notes of a mapped program, from its first page."""

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.elf import (
    ELF32,
    ELF64,
    ET_CORE,
    ET_DYN,
    PT_LOAD,
    PT_NOTE,
    ElfClass,
    ProgramHeader,
    notes_end,
)

BOTH = pytest.mark.parametrize("form", [ELF64, ELF32])


def program(form: ElfClass, *segments: tuple[int, int, int]) -> bytes:
    """The first page of a file with these program headers: type, offset, size."""
    headers = b"".join(
        form.pack_phdr(ProgramHeader(kind, 4, offset, offset, size, size, 4))
        for kind, offset, size in segments
    )
    page = bytearray(form.pack_ehdr(62, len(segments), 0, 0) + headers)
    struct.pack_into("<H", page, 16, ET_DYN)
    return bytes(page.ljust(PAGE_SIZE, b"\0"))


@BOTH
def test_the_last_of_them_counts(form: ElfClass) -> None:
    page = program(form, (PT_LOAD, 0, 9000), (PT_NOTE, 5000, 36), (PT_NOTE, 4800, 100))
    assert notes_end(page) == 5036


@BOTH
def test_a_program_without_notes(form: ElfClass) -> None:
    assert notes_end(program(form, (PT_LOAD, 0, 9000))) == 0
    assert notes_end(program(form)) == 0


@BOTH
def test_headers_behind_the_page_are_not_looked_at(form: ElfClass) -> None:
    most = (PAGE_SIZE - form.ehdr_size) // form.phdr_size
    notes = [(PT_NOTE, 100 * n, 10) for n in range(most + 3)]
    assert notes_end(program(form, *notes)[:PAGE_SIZE]) == 100 * (most - 1) + 10


def test_a_core_is_not_a_program() -> None:
    page = bytearray(program(ELF64, (PT_NOTE, 5000, 36)))
    struct.pack_into("<H", page, 16, ET_CORE)
    assert notes_end(bytes(page)) == 0


def test_what_is_no_little_endian_elf_file_has_none() -> None:
    page = program(ELF64, (PT_NOTE, 5000, 36))
    for other in (b"", b"#!/bin/sh", page[:63], page[:5] + b"\2" + page[6:], bytes(PAGE_SIZE)):
        assert notes_end(other) == 0


@given(st.binary(max_size=400), st.sampled_from([ELF64, ELF32]))
def test_any_bytes_give_a_number(rest: bytes, form: ElfClass) -> None:
    ident = form.pack_ehdr(62, 0, 0, 0)[:16]
    assert notes_end(ident + rest) >= 0


@given(st.lists(st.tuples(st.sampled_from([PT_NOTE, PT_LOAD]), st.integers(0, 1 << 31),
                          st.integers(0, 1 << 30)), max_size=20))  # fmt: skip
def test_more_headers_never_make_it_less(segments: list[tuple[int, int, int]]) -> None:
    ends = [notes_end(program(ELF64, *segments[:n])) for n in range(len(segments) + 1)]
    assert all(a <= b for a, b in pairwise(ends))
