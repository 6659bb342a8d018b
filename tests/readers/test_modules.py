"""The process as a whole in debuggers: its mapped files, its auxiliary vector, and the libraries
that they find by the dynamic linker's own list (r_debug), which lies on the heap."""

import os
import re
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.conftest import Target
from tests.readers.debuggers import gdb, lldb, run


@pytest.fixture
def threads(spawn: Callable[..., Target]) -> Target:
    return spawn("threads", 2)


def mapped_files(pid: int) -> list[tuple[int, int, int, str]]:
    """Start, end, offset and path of each mapping of a file."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    rows = re.findall(r"^(\w+)-(\w+) \S+ (\w+) \S+ \d+ +(/.*)$", maps, re.MULTILINE)
    return [(*(int(word, 16) for word in row[:3]), row[3]) for row in rows]


def libraries(pid: int) -> dict[str, int]:
    """The first address of each mapped ELF file, by its true path; and of the vDSO."""
    found: dict[str, int] = {}
    for start, _, _, path in mapped_files(pid):
        if Path(path).read_bytes()[:4] == b"\x7fELF":
            found.setdefault(path, start)
    maps = Path(f"/proc/{pid}/maps").read_text()
    (start,) = re.findall(r"^(\w+)-.*\[vdso\]$", maps, re.MULTILINE)
    return found | {"vdso": int(start, 16)}


def by_true_path(rows: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Addresses by true path, from the names that a debugger gives, which go through links."""
    return {
        "vdso" if "vdso" in name else os.path.realpath(name): int(address, 16)
        for address, name in rows
    }


def test_gdb_lists_the_mapped_files(threads: Target, core_file: Callable[[int], Path]) -> None:
    out = gdb(threads.argv[0], core_file(threads.pid), "--", "info proc mappings")
    rows = re.findall(r"^ *(0x\w+) +(0x\w+) +0x\w+ +(0x\w+) +(/.*?) *$", out, re.MULTILINE)
    found = [(*(int(word, 16) for word in row[:3]), row[3]) for row in rows]
    assert found == mapped_files(threads.pid)


def test_gdb_shows_the_auxiliary_vector(threads: Target, core_file: Callable[[int], Path]) -> None:
    out = gdb(threads.argv[0], core_file(threads.pid), "--", "info auxv")
    rows = re.findall(r'^(\d+) +\S+ .* (0x\w+|\d+)(?: ".*")?$', out, re.MULTILINE)
    found = [(int(kind), int(value, 0)) for kind, value in rows]
    assert found == list(struct.iter_unpack("<QQ", Path(f"/proc/{threads.pid}/auxv").read_bytes()))


def test_gdb_finds_the_libraries(threads: Target, core_file: Callable[[int], Path]) -> None:
    out = gdb(threads.argv[0], core_file(threads.pid), "--", "info sharedlibrary")
    names = re.findall(r"^0x\w+ +0x\w+ +Yes .* (/\S+)$", out, re.MULTILINE)
    expected = libraries(threads.pid).keys() - {"vdso", os.path.realpath(threads.argv[0])}
    assert {os.path.realpath(name) for name in names} == expected


def test_lldb_finds_the_libraries(threads: Target, core_file: Callable[[int], Path]) -> None:
    out = lldb(Path(threads.argv[0]), core_file(threads.pid), "image list")
    rows = re.findall(r"^\[ *\d+\] [0-9A-F-]+ (0x\w+) (\S+)", out, re.MULTILINE)
    assert by_true_path(rows) == libraries(threads.pid)


def test_elfutils_find_the_libraries(threads: Target, core_file: Callable[[int], Path]) -> None:
    out, err = run("eu-unstrip", "-n", "--core", core_file(threads.pid), "-e", threads.argv[0])
    assert err == ""
    # Address and size, build id, file of the library, file of its symbols, name.  If drgn does not
    # find the list of the dynamic linker, there is no file; the vDSO never has one.
    rows = re.findall(r"^(0x\w+)\+0x\w+ \w+@0x\w+ (\S+) \S+ (\S+)$", out, re.MULTILINE)
    found = [(start, name if "vdso" in name else file) for start, file, name in rows]
    assert by_true_path(found) == libraries(threads.pid)
