"""A process that has reserved much and touched little: the file depends on what it touched."""

import os
import re
import struct
import subprocess
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from gcorefs.kernel.proc import task_status
from tests.conftest import Mount, Target, text_of
from tests.mounted.conftest import eventually, is_free
from tests.readers.corefile import Core
from tests.readers.debuggers import gdb, lldb

PAGE, MIB, GIB = 4096, 1 << 20, 1 << 30
PAGES = 10_000


def number(target: Target, n: int) -> int:
    """The number, in the reserved memory, of the n-th page that was written (reserve.c)."""
    truth = target.truth
    return int(n * truth["step"] % (truth["size"] // PAGE))


def footprint(target: Target) -> dict[str, bytes]:
    status = task_status.status(target.pid)
    return {key: status[key] for key in ("VmPTE", "RssAnon", "RssShmem", "VmSwap", "VmSize")}


def populated(pid: int) -> int:
    status = task_status.status(pid)
    return sum(int(status[key].split()[0]) for key in ("RssAnon", "RssShmem", "VmSwap")) * 1024


@pytest.fixture
def target(spawn: Callable[..., Target]) -> Iterator[Target]:
    target = spawn("reserve", 100, PAGES)
    target.ask("ping")  # from now on it has all the memory that it needs to read a line
    yield target


@pytest.fixture
def copied(target: Target, mount: Mount, tmp_path: Path) -> Path:
    core = tmp_path / "core"
    subprocess.run(["cp", mount / target.pid, core], check=True)
    return core


def test_the_file_is_as_large_as_what_is_populated(target: Target, copied: Path) -> None:
    before = populated(target.pid)
    assert before < copied.stat().st_size < before * 1.5


def test_nothing_of_the_process_grows(target: Target, mount: Mount) -> None:
    before = footprint(target)
    with (mount / target.pid).open("rb", buffering=0) as file:
        while file.read(MIB):
            pass
        assert footprint(target) == before
    assert footprint(target) == before


def test_every_page_is_what_it_was(target: Target, copied: Path) -> None:
    core, data = Core(copied), copied.read_bytes()
    start, size = int(target.truth["start"], 16), target.truth["size"]
    pages = sorted(start + number(target, n) * PAGE for n in range(PAGES))
    at = start
    zeros = set()  # the places of segments without a written page: all are the same
    for load in core.loads:
        if not start <= load.vaddr < start + size:
            continue
        assert (load.vaddr, load.filesz) == (at, load.memsz)
        at = load.end
        own = pages[bisect_left(pages, load.vaddr) : bisect_left(pages, load.end)]
        if not own:
            zeros.add(load.offset)
            assert load.filesz <= len(data) - load.offset
            continue
        image = bytearray(load.filesz)
        for page in own:
            struct.pack_into("<Q", image, page - load.vaddr, page)
        assert data[load.offset : load.offset + load.filesz] == image, hex(load.vaddr)
    assert at == start + size
    (area,) = zeros
    assert area == max(load.offset for load in core.loads)
    assert not data[area:].strip(b"\0")


@pytest.mark.parametrize("how", ["copied", "mounted"])
def test_debuggers_read_pages_and_what_is_between_them(
    target: Target, mount: Mount, copied: Path, how: str
) -> None:
    core = copied if how == "copied" else mount / target.pid
    start = int(target.truth["start"], 16)
    written = {number(target, n) for n in range(PAGES)}
    pages = [number(target, n) for n in range(0, PAGES, PAGES // 7)]
    between = [page + 1 for page in pages if page + 1 not in written]
    asked = [start + page * PAGE for page in (*pages, *between)]
    expected = [start + page * PAGE if page in written else 0 for page in (*pages, *between)]
    text = gdb(target.argv[0], core, "--", *(f"x/1gx {address:#x}" for address in asked))
    assert [int(value, 16) for value in re.findall(r":\s+(0x\w+)$", text, re.MULTILINE)] == expected
    reads = [f"memory read -f x -s 8 -c 1 {address:#x}" for address in asked]
    text = lldb(Path(target.argv[0]), core, *reads)
    assert [int(value, 16) for value in re.findall(r"^0x\w+: (0x\w+)$", text, re.MULTILINE)] == (
        expected
    )


@pytest.mark.parametrize("tool", ["eu-readelf", "readelf"])
def test_no_reader_warns(copied: Path, tool: str) -> None:
    for option in ("-l", "-n", "-h"):
        done = subprocess.run([tool, option, copied], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        assert done.stdout


def test_a_piece_of_a_mapping_is_not_counted_as_a_mapping(
    target: Target, mount_with: Callable[..., Mount]
) -> None:
    mount = mount_with("user_memory=8")
    command = ["head", "-c", "64", mount / target.pid]
    header = subprocess.run(text_of(command), capture_output=True, check=True).stdout
    (count,) = struct.unpack_from("<H", header, 56)
    assert count > 2 * PAGES


@pytest.mark.parametrize(
    "pages",
    [
        64 * MIB // PAGE,
        pytest.param(3 * GIB // PAGE, marks=[pytest.mark.full, pytest.mark.timeout(600)]),
    ],
)
def test_of_a_tebibyte_only_what_was_touched_is_in_the_file(
    spawn: Callable[..., Target], mount: Mount, tmp_path: Path, pages: int
) -> None:
    target = spawn("reserve", 1024, pages)
    target.ask("ping")
    before, written = footprint(target), populated(target.pid)
    copied = tmp_path / "core"
    subprocess.run(["cp", mount / target.pid, copied], check=True)
    assert written < copied.stat().st_size < written * 1.5
    eventually(partial(is_free, target.pid))
    assert footprint(target) == before
    # Each is on its own page, and memory between them was never touched.
    start = int(target.truth["start"], 16)
    asked = [start + number(target, n) * PAGE for n in range(0, pages, pages // 100)]
    touched = {number(target, n) for n in range(pages)}
    untouched = [at + PAGE for at in asked if (at + PAGE - start) // PAGE not in touched]
    expected = [*asked, *(0 for _ in untouched)]
    assert words(copied, [*asked, *untouched]) == expected
    reads = (f"x/1gx {address:#x}" for address in [*asked, *untouched])
    text = gdb(target.argv[0], copied, "--", *reads)
    assert [int(value, 16) for value in re.findall(r":\s+(0x\w+)$", text, re.MULTILINE)] == expected


def words(core: Path, addresses: list[int]) -> list[int]:
    """The words at these addresses, by pyelftools.  There may be a million segments."""
    found: list[int] = []
    with core.open("rb") as file:
        elf = ELFFile(file)
        loads = range(1, elf.num_segments())
        for address in addresses:
            behind = bisect_right(loads, address, key=lambda n: elf.get_segment(n)["p_vaddr"])
            header = elf.get_segment(loads[behind - 1]).header
            at = address - header["p_vaddr"]
            assert at + 8 <= header["p_filesz"], f"{address:#x} is not in the core"
            found += struct.unpack("<Q", os.pread(file.fileno(), 8, header["p_offset"] + at))
    return found
