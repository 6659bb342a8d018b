"""Thousands of mapped files with long and odd names, not all UTF-8: NT_FILE has each name as in the
kernel's core, to the byte, and ends where the kernel's ends."""

import itertools
import os
import re
import resource
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Target, wait_until_gone
from tests.readers.corefile import Core

PAGE = 4096
NAME_MAX, PATH_MAX = 255, 4096  # include/uapi/linux/limits.h; the latter with a NUL
LIMIT = Path("/proc/sys/kernel/core_file_note_size_limit")  # since Linux 6.10
MEBIBYTE = 1 << 20

ODD = [
    b"plain",
    b" spaces  before and behind ",
    b"\ttabs\t",
    b"new\nline",
    b"\n\n",
    b"backslash\\012",
    b"new\nline and backslash\\012",
    b"back\\slash\\",
    b"'single' and \"double\"",
    b"no \xff\xfe\x80\xc3\x28 UTF-8",
    "Übermäßig".encode(),
    b"\x01\x07\x1b[31m\x7f\r",
    b"alive (deleted)",
    b"[heap]",
    b"\nVmFlags: dd io\n",
    b"7f0000000000-7f0000001000 r--p 00000000 00:00 0 [stack]",
]


@pytest.fixture
def map_files(
    tmpfs: Path, tmp_path: Path, spawn: Callable[..., Target]
) -> Callable[[list[bytes], set[int]], tuple[Target, list[bytes]]]:
    """Map files with these names below a folder, then remove some, given by their numbers."""

    def make(names: list[bytes], removed: set[int]) -> tuple[Target, list[bytes]]:
        words: list[bytes] = []
        for name in names:
            folder, _, _ = name.rpartition(b"/")
            words += walk(os.fsencode(tmpfs), name)
            at = os.open(tmpfs, os.O_PATH)
            for part in folder.split(b"/") if folder else ():
                try_mkdir(part, at)
                below = os.open(part, os.O_PATH, dir_fd=at)
                os.close(at)
                at = below
            file = os.open(name.rpartition(b"/")[2], os.O_CREAT | os.O_WRONLY, dir_fd=at)
            os.write(file, b"here")
            os.close(file)
            os.close(at)
        (tmp_path / "list").write_bytes(b"".join(word + b"\0" for word in words))
        target = spawn("files", tmp_path / "list")
        paths = [os.fsencode(tmpfs) + b"/" + name for name in names]
        for number in removed:
            os.unlink(paths[number])
            paths[number] += b" (deleted)"
        return target, paths

    return make


def try_mkdir(part: bytes, at: int) -> None:
    try:
        os.mkdir(part, dir_fd=at)
    except FileExistsError:
        return


def walk(start: bytes, name: bytes) -> Iterator[bytes]:
    """The commands for files.c: a path that it can open, or directories to enter and a name."""
    whole = start + b"/" + name
    if len(whole) < PATH_MAX:
        yield whole
        return
    *folders, last = name.split(b"/")
    yield start + b"/"
    yield from (folder + b"/" for folder in folders)
    yield last


def padded(name: bytes, size: int = NAME_MAX) -> bytes:
    return name + b"x" * (size - len(name))


def short_names(count: int) -> list[bytes]:
    """Odd directories with odd files, of about 500 bytes each."""
    pairs = itertools.cycle(itertools.product(ODD, ODD))
    return [
        padded(folder) + b"/" + padded(b"%d" % number + file)
        for number, (folder, file) in zip(range(count), pairs, strict=False)
    ]


def long_names(count: int, start: int) -> list[bytes]:
    """Names whose paths, below a folder with a path of `start` bytes, have the maximum length."""
    folders = b"/".join(padded(word) for word in ODD[:14])
    rest = PATH_MAX - 1 - start - 1 - len(folders) - 1  # with a slash before and after
    parts = [padded(b"%d" % n, rest - NAME_MAX - 1) for n in range(4)]
    return [
        folders + b"/" + parts[n % 4] + b"/" + padded(b"%d" % n + ODD[n % len(ODD)])
        for n in range(count)
    ]


def listed(desc: bytes) -> list[tuple[int, int, int, bytes]]:
    """Start, end, page offset and path of each entry (fs/binfmt_elf.c, fill_files_note)."""
    count, page_size = struct.unpack_from("<QQ", desc)
    assert page_size == PAGE
    names = desc[16 + 24 * count :].split(b"\0")
    assert len(names) == count + 1
    assert names.pop() == b""
    rows = struct.iter_unpack("<QQQ", desc[16 : 16 + 24 * count])
    return [(*row, name) for row, name in zip(rows, names, strict=True)]


def assert_lists(desc: bytes, target: Target, paths: list[bytes]) -> None:
    starts = [int(address, 16) for address in target.truth["addresses"]]
    found = {start: row for start, *row in listed(desc)}
    for start, path in zip(starts, paths, strict=True):
        assert found[start] == [start + PAGE, 0, path]


def kernels_core(target: Target, pattern: Path) -> Core:
    resource.prlimit(target.pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
    os.kill(target.pid, signal.SIGABRT)
    wait_until_gone(target.pid)
    return Core(Path(f"{pattern}.{target.pid}"))


def file_notes(core: Core) -> list[bytes]:
    return [note.desc for note in core.notes if note.kind == "NT_FILE"]


def gdb_mappings(target: Target, core: Path) -> bytes:
    command = ["gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off", target.argv[0]]
    command += [str(core), "-ex", "info proc mappings"]
    return subprocess.run(command, capture_output=True, check=True, timeout=100).stdout


def test_names_are_those_of_the_kernels_own_core(
    map_files: Callable[..., tuple[Target, list[bytes]]],
    core_pattern: Path,
    dump: Callable[[int], Path],
) -> None:
    """4,000 files; one of seven is removed."""
    target, paths = map_files(short_names(4000), set(range(0, 4000, 7)))
    ours = Core(dump(target.pid))
    (desc,) = file_notes(ours)
    assert_lists(desc, target, paths)
    shown = gdb_mappings(target, ours.path)
    rows = {int(at, 16): path for at, path in zip(target.truth["addresses"], paths, strict=True)}
    at = 0
    for start, path in sorted(rows.items()):
        # Versions of gdb differ in the width of their columns.
        numbers = " +".join(f"0x0*{number:x}" for number in (start, start + PAGE, PAGE, 0))
        row = re.compile(rf"^ *{numbers} +".encode() + re.escape(path) + rb" *$", re.MULTILINE)
        match = row.search(shown, at)
        assert match is not None
        at = match.end()
    assert file_notes(kernels_core(target, core_pattern)) == [desc]


def test_paths_longer_than_a_system_call_takes(
    map_files: Callable[..., tuple[Target, list[bytes]]],
    core_pattern: Path,
    dump: Callable[[int], Path],
) -> None:
    folders = b"/".join(padded(name) for name in ODD if b"\\012" not in name)
    names = [f"{n}/".encode() + folders + b"/" + folders + b"/file" for n in range(3)]
    assert len(names[0]) > PATH_MAX
    target, paths = map_files(names, set())
    (desc,) = file_notes(Core(dump(target.pid)))
    assert_lists(desc, target, paths)
    assert file_notes(kernels_core(target, core_pattern)) == [desc]


@pytest.mark.parametrize(("count", "limit"), [(4000, 4 * MEBIBYTE), (3000, 16 * MEBIBYTE)])
def test_the_list_may_be_as_large_as_the_kernels(
    map_files: Callable[..., tuple[Target, list[bytes]]],
    core_pattern: Path,
    dump: Callable[[int], Path],
    sysctl: Callable[[str, int], None],
    tmpfs: Path,
    count: int,
    limit: int,
) -> None:
    if LIMIT.exists():
        sysctl("kernel/core_file_note_size_limit", limit)
        limit = int(LIMIT.read_text())
    else:
        limit = 4 * MEBIBYTE
    target, paths = map_files(long_names(count, len(os.fsencode(tmpfs))), set())
    assert {len(path) for path in paths} == {PATH_MAX - 1}
    found = file_notes(Core(dump(target.pid)))
    assert len(found) == (count * PATH_MAX < limit)
    for desc in found:
        assert_lists(desc, target, paths)
    assert file_notes(kernels_core(target, core_pattern)) == found
