"""A process that has reserved much and touched little: the file follows what it touched."""

import re
import struct
import subprocess
from bisect import bisect_left
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcorefs.process import procfs
from tests.conftest import Mount, Target
from tests.readers.corefile import Core
from tests.readers.debuggers import gdb, lldb

PAGE, MIB = 4096, 1 << 20
PAGES = 10_000


def number(target: Target, n: int) -> int:
    """Which page of the reserved memory is the n-th that was written (reserve.c)."""
    truth = target.truth
    return int(n * truth["step"] % (truth["size"] // PAGE))


def footprint(target: Target) -> dict[str, bytes]:
    status = procfs.status(target.pid)
    return {key: status[key] for key in ("VmPTE", "RssAnon", "RssShmem", "VmSwap", "VmSize")}


def populated(pid: int) -> int:
    status = procfs.status(pid)
    return sum(int(status[key].split()[0]) for key in ("RssAnon", "RssShmem", "VmSwap")) * 1024


@pytest.fixture
def target(spawn: Callable[..., Target]) -> Iterator[Target]:
    target = spawn("reserve", 100, PAGES)
    target.ask("ping")  # whatever it needs to read a line, it has from here on
    yield target


@pytest.fixture
def copied(target: Target, mount: Mount, tmp_path: Path) -> Path:
    core = tmp_path / "core"
    subprocess.run(["cp", mount / target.pid, core], check=True, timeout=60)
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
    zeros = set()  # where segments without a written page lie: all in one place
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
