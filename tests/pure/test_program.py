"""Programs as they lie in memory, compared with pyelftools on this machine's own files."""

import struct
import sys
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.elfcore import program
from gcorefs.elfcore.elf import ELF32, ELF64, ElfClass

FILES = [Path(sys.executable).resolve(), Path("/bin/sh").resolve()]
BIAS = 0x7F0000000000


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_module_has_the_headers_of_its_file(path: Path) -> None:
    with path.open("rb") as file:
        elf = ELFFile(file)
        headers = [segment.header for segment in elf.iter_segments()]
        beginning = path.read_bytes()[:4096]
    first = next(each.p_vaddr for each in headers if each.p_type == "PT_LOAD")
    module = program.module_at(BIAS + first, beginning)
    assert module is not None
    assert module.bias == BIAS
    for name in ("PT_LOAD", "PT_DYNAMIC", "PT_GNU_EH_FRAME"):
        expected = [
            (BIAS + each.p_vaddr, BIAS + each.p_vaddr + each.p_memsz)
            for each in headers
            if each.p_type == name
        ]
        assert module.ranges(getattr(program, name)) == expected
    (start, _), *_ = module.ranges(program.PT_GNU_EH_FRAME)
    low, high = module.load_around(start)
    assert low <= start < high
    assert module.load_around(0) == (0, 0)


def test_a_program_says_where_its_headers_are() -> None:
    own = struct.pack("<IIQQQQQQ", program.PT_PHDR, 4, 64, 64, 64, 112, 112, 8)
    load = struct.pack("<IIQQQQQQ", program.PT_LOAD, 4, 0, 0, 0, 4096, 4096, 4096)
    found = program.module_of(BIAS + 64, own + load, ELF64)
    assert found is not None
    assert found.bias == BIAS
    assert found.ranges(program.PT_LOAD) == [(BIAS, BIAS + 4096)]
    assert program.module_of(BIAS + 64, load, ELF64) is None


@given(st.binary(max_size=300) | st.binary(max_size=200).map(b"\x7fELF\2\1".__add__))
def test_any_bytes_are_a_module_or_none(data: bytes) -> None:
    found = program.module_at(BIAS, data)
    assert found is None or found.headers


@given(st.binary(max_size=200), st.sampled_from([ELF32, ELF64]))
def test_pairs_end_at_the_first_of_kind_0(data: bytes, form: ElfClass) -> None:
    size = form.word_size
    found = list(program.pairs(data, form))
    expected = []
    for kind, value in struct.iter_unpack(
        f"<2{form.word}", data[: len(data) // (2 * size) * 2 * size]
    ):
        if kind == 0:
            break
        expected.append((kind, value))
    assert found == expected
    first: dict[int, int] = {}
    for kind, value in expected:
        first.setdefault(kind, value)
    assert program.values(data, form) == first
