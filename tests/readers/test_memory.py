"""Every byte of every kind of memory, and the memory that coredump_filter leaves out."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Target
from tests.readers.corefile import Core
from tests.readers.debuggers import gdb, lldb

# core(5): the default filter takes private and shared anonymous memory, and the first page of ELF
# files.  Shared memory counts as anonymous if its file has no name.
LEFT_OUT_BY_DEFAULT = {
    "dontdump",  # madvise(2), MADV_DONTDUMP: always left out
    "reserved",  # never touched
    "file_shared_written",
    "file_shared",
    "file_short",
    "file_short_tail",
    "file_short_past_eof",
    "exe_text",
}
# By coredump_filter, and by the option: are the bytes of a lost file kept?
LEFT_OUT = {
    ("0x33", "filter"): LEFT_OUT_BY_DEFAULT,
    ("0x33", "kernel"): LEFT_OUT_BY_DEFAULT | {"file_deleted"},  # private, and never written
    ("0x7f", "filter"): {"dontdump", "reserved"},
    ("0x7f", "kernel"): {"dontdump", "reserved"},
    ("0x7f", "0x33"): LEFT_OUT_BY_DEFAULT,
    ("0x33", "filter+text"): LEFT_OUT_BY_DEFAULT - {"exe_text"},
    ("0x0", "all"): {"dontdump"},
    ("0x0", "all+dontdump"): set(),
}
ALONE = {"none": set(), "text": {"exe_text"}}
"""What these rules take, whatever coredump_filter says."""


BOTH = pytest.mark.parametrize("program", ["memory", "memory32"])


def bounds(region: dict[str, Any]) -> tuple[int, int]:
    return int(region["start"], 16), int(region["end"], 16)


def known(region: dict[str, Any], seed: int, page: int) -> bytes:
    """The bytes that the program wrote there, as it says (tests/targets/memory.c)."""
    start, end = bounds(region)

    def addresses(first: int, last: int) -> bytes:
        words = [address ^ seed for address in range(first, last, 8)]
        return struct.pack(f"<{len(words)}Q", *words)

    if region["pattern"] == "address":
        return addresses(start, end)
    if region["pattern"] == "holes":
        image = bytearray(end - start)
        for number in region["pages"]:
            at = number * page
            image[at : at + page] = addresses(start + at, start + at + page)
        return bytes(image)
    if region["pattern"] == "file":
        with Path(region["path"]).open("rb") as file:
            file.seek(int(region["offset"], 16))
            return file.read(end - start)
    assert region["pattern"] == "zero"
    return bytes(end - start)


def regions(target: Target) -> dict[str, tuple[dict[str, Any], bytes]]:
    """By name, each with its bytes; without those whose bytes are not known."""
    seed, page = int(target.truth["seed"], 16), target.truth["page_size"]
    return {
        region["name"]: (region, known(region, seed, page))
        for region in target.truth["regions"]
        if region["pattern"] != "unknown"
    }


@pytest.mark.parametrize(("mask", "memory"), sorted(LEFT_OUT))
@BOTH
def test_the_core_holds_exactly_what_the_filter_lets_through(
    spawn: Callable[..., Target],
    dump: Callable[..., Path],
    tmp_path: Path,
    program: str,
    mask: str,
    memory: str,
) -> None:
    target = spawn(program, tmp_path)
    Path(f"/proc/{target.pid}/coredump_filter").write_text(mask)
    core = Core(dump(target.pid, memory))
    left_out = set()
    for region in target.truth["regions"]:
        segment = core.segment(bounds(region)[0])
        assert segment.filesz in (0, segment.memsz)
        if segment.filesz == 0:
            left_out.add(region["name"])
    assert left_out == LEFT_OUT[mask, memory]
    for name, (region, expected) in regions(target).items():
        if name not in left_out:
            assert core.read(*bounds(region)) == expected, name


@pytest.mark.parametrize("memory", ALONE)
@BOTH
def test_nothing_else_is_in_a_core_without_data(
    spawn: Callable[..., Target],
    dump: Callable[..., Path],
    tmp_path: Path,
    program: str,
    memory: str,
) -> None:
    target = spawn(program, tmp_path)
    Path(f"/proc/{target.pid}/coredump_filter").write_text("0x7f")
    core = Core(dump(target.pid, memory))
    for region in target.truth["regions"]:
        in_core = core.segment(bounds(region)[0]).filesz > 0
        assert in_core == (region["name"] in ALONE[memory]), region["name"]
    if memory == "none":
        assert not any(load.filesz for load in core.loads)
        assert core.path.stat().st_size < 64 << 10
    counted = core.facts
    assert counted["left_out"]["policy"] > 0
    assert counted["left_out"]["dontdump"] > 0
    assert counted["left_out"]["filter"] == 0
    assert counted["bytes"]["left_out"] == sum(load.memsz - load.filesz for load in core.loads)


@pytest.mark.parametrize("memory", ["all", "filter+text", "none", "0x7f"])
def test_the_note_accounts_for_every_byte(
    spawn: Callable[..., Target], dump: Callable[..., Path], tmp_path: Path, memory: str
) -> None:
    core = Core(dump(spawn("memory", tmp_path).pid, memory))
    counted = core.facts["bytes"]
    assert counted["mapped"] == sum(load.memsz for load in core.loads)
    assert counted["left_out"] == sum(core.facts["left_out"].values())
    assert counted["recorded"] + counted["zeros"] == sum(load.filesz for load in core.loads)
    assert core.facts["policy"]["memory"] == memory
    assert (counted["beyond_kernel"] > 0) == (memory != "none")


def test_an_elf_file_that_is_left_out_keeps_its_first_page(
    spawn: Callable[..., Target], dump: Callable[[int], Path], tmp_path: Path
) -> None:
    target = spawn("memory", tmp_path)
    core = Core(dump(target.pid))
    program = Path(target.argv[0])
    start = next(
        int(line.split("-")[0], 16)
        for line in Path(f"/proc/{target.pid}/maps").read_text().splitlines()
        if line.endswith(str(program))
    )
    assert core.segment(start).filesz == 4096
    assert core.read(start, start + 4096) == program.read_bytes()[:4096]


def regions_in_the_core(target: Target) -> dict[str, tuple[dict[str, Any], bytes]]:
    return {n: r for n, r in regions(target).items() if n not in LEFT_OUT_BY_DEFAULT}


@BOTH
def test_gdb_reads_every_region_that_is_in_the_core(
    spawn: Callable[..., Target], dump: Callable[[int], Path], tmp_path: Path, program: str
) -> None:
    target = spawn(program, tmp_path)
    core = dump(target.pid)
    wanted = regions_in_the_core(target)
    commands = [
        "dump binary memory {} {:#x} {:#x}".format(tmp_path / name, *bounds(region))
        for name, (region, _) in wanted.items()
    ]
    region, expected = wanted["anon_private"]
    text = gdb(target.argv[0], core, "--", *commands, f"x/8gx {region['start']}")
    for name, (_, image) in wanted.items():
        assert (tmp_path / name).read_bytes() == image, name
    words = [word for line in text.splitlines()[-4:] for word in line.split(":")[1].split()]
    assert [int(word, 16) for word in words] == list(struct.unpack_from("<8Q", expected))


@BOTH
def test_lldb_reads_every_region_that_is_in_the_core(
    spawn: Callable[..., Target], dump: Callable[[int], Path], tmp_path: Path, program: str
) -> None:
    target = spawn(program, tmp_path)
    core = dump(target.pid)
    wanted = regions_in_the_core(target)
    commands = [
        "memory read --force --binary --outfile {} {:#x} {:#x}".format(
            tmp_path / name, *bounds(region)
        )
        for name, (region, _) in wanted.items()
    ]
    lldb(Path(target.argv[0]), core, *commands)
    for name, (_, image) in wanted.items():
        assert (tmp_path / name).read_bytes() == image, name
