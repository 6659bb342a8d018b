"""Processes with more mappings than e_phnum can count: every reader finds all of them."""

import json
import mmap
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Mount, Target
from tests.mounted.conftest import gcorefs, opened
from tests.readers.corefile import Core
from tests.readers.debuggers import gdb, lldb, run

PAGE = 4096
PN_XNUM = 0xFFFF
COUNTS = [
    70_000,
    pytest.param(200_000, marks=[pytest.mark.full, pytest.mark.timeout(400)]),
]

DRGN = """
import drgn, json, sys
program = drgn.Program()
program.set_core_dump(sys.argv[1])
print(json.dumps([program.read_u64(int(address, 16)) for address in sys.argv[2:]]))
"""


@pytest.fixture(params=COUNTS)
def target(
    request: pytest.FixtureRequest,
    spawn: Callable[..., Target],
    sysctl: Callable[[str, int], None],
) -> Iterator[Target]:
    sysctl("vm/max_map_count", request.param + 1000)
    yield spawn("mappings", request.param)


def pages(target: Target) -> range:
    """The places of the mappings of one page each (mappings.c)."""
    start, count = int(target.truth["start"], 16), target.truth["count"]
    return range(start, start + count * 2 * PAGE, 2 * PAGE)


def some(target: Target) -> list[int]:
    """The first, the last, and those near the limits of e_phnum and of 16 bits."""
    numbers = (0, 1, 4711, PN_XNUM - 1, PN_XNUM, 65_536, target.truth["count"] - 1)
    return [pages(target)[number] for number in numbers]


def test_every_reader_finds_every_mapping(target: Target, mount: Mount, tmp_path: Path) -> None:
    core = tmp_path / "core"
    with opened(mount / target.pid):  # one stop for all
        subprocess.run(["cp", mount / target.pid, core], check=True, timeout=100)
        assert_debuggers_read(target, mount / target.pid)
    assert_every_page_is_there(target, core)
    assert_no_reader_warns(target, core)
    assert_debuggers_read(target, core)


def assert_every_page_is_there(target: Target, copied: Path) -> None:
    core = Core(copied)
    wanted = pages(target)
    assert core.header["e_phnum"] == PN_XNUM
    assert len(core.order) == len(core.loads) + 1 > len(wanted)
    found = [load for load in core.loads if wanted[0] <= load.vaddr <= wanted[-1]]
    assert [(load.vaddr, load.memsz, load.filesz) for load in found] == [
        (page, PAGE, PAGE) for page in wanted
    ]
    rest = bytes(PAGE - 8)
    with copied.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
        for load in found:
            page = data[load.offset : load.offset + PAGE]
            assert page == struct.pack("<Q", load.vaddr) + rest, hex(load.vaddr)
    # The kernel would write no NT_FILE for more than 65,535 mappings.
    assert target.argv[0].encode() in core.note("NT_FILE")


def assert_no_reader_warns(target: Target, core: Path) -> None:
    owners = ["CORE"] * 5 + ["LINUX"] * 2 + ["GCOREFS"]
    for tool in ("readelf", "eu-readelf"):
        for option in ("-h", "-l", "-n"):
            out, err = run(tool, option, core)
            assert err == "", (tool, option)
            assert out
            if option == "-n":
                assert re.findall(r"^  (CORE|LINUX|GCOREFS) ", out, re.MULTILINE) == owners
            elif option == "-l":
                addresses = re.findall(r"^  LOAD +0x\w+ (0x\w+)", out, re.MULTILINE)
                assert {*pages(target)} < {int(address, 16) for address in addresses}


def assert_debuggers_read(target: Target, core: Path) -> None:
    asked = some(target)
    text = gdb(target.argv[0], core, "--", "bt", *(f"x/1gx {address:#x}" for address in asked))
    assert re.search(r"^#\d+ +(0x\w+ in )?main \(", text, re.MULTILINE)
    assert [int(value, 16) for value in re.findall(r":\s+(0x\w+)$", text, re.MULTILINE)] == asked
    reads = [f"memory read -f x -s 8 -c 1 {address:#x}" for address in asked]
    text = lldb(Path(target.argv[0]), core, "bt", *reads)
    assert re.search(r"^ +frame #\d+: .*`main\b", text, re.MULTILINE)
    assert [int(value, 16) for value in re.findall(r"^0x\w+: (0x\w+)$", text, re.MULTILINE)] == (
        asked
    )
    out, _ = run(sys.executable, "-c", DRGN, core, *map(hex, asked))
    assert json.loads(out) == asked


@pytest.mark.full
def test_as_many_as_debian_allows_are_no_silence_of_proc(
    spawn: Callable[..., Target], sysctl: Callable[[str, int], None]
) -> None:
    sysctl("vm/max_map_count", 1 << 20)  # Debian 13
    target = spawn("mappings", 1_000_000)
    for command in ("check", "ls"):
        result = gcorefs(command, target.pid)
        assert (result.returncode, result.stderr) == (0, b""), result
        assert b"did not answer" not in result.stdout, result
