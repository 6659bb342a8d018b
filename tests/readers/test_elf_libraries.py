"""pyelftools, lief, readelf, objdump, file(1) and strings(1) list what /proc lists, and read what
the process wrote."""

import re
import struct
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import lief
import pytest

from gcorefs.kernel.proc import current_call
from tests.conftest import Target
from tests.mounted.conftest import eventually
from tests.readers.corefile import Core
from tests.readers.debuggers import run

READ, WRITE, EXECUTE = 4, 2, 1
Mapping = tuple[int, int, int]
"""Start, end, and flags as in p_flags (elf(5))."""


def joined(rows: Iterable[tuple[int, int, int]]) -> list[Mapping]:
    """Merges rows that touch and have the same flags: a mapping may be several segments."""
    found: list[Mapping] = []
    for start, end, flags in rows:
        touches = bool(found) and found[-1][1:] == (start, flags)
        found.append((found.pop()[0] if touches else start, end, flags))
    return found


def mappings(pid: int) -> list[Mapping]:
    maps = Path(f"/proc/{pid}/maps").read_text()
    rows = re.findall(r"^(\w+)-(\w+) (...)", maps, re.MULTILINE)
    return joined((int(start, 16), int(end, 16), flags_of(flags)) for start, end, flags in rows)


def flags_of(text: str) -> int:
    """The flags in "r-x", "R E" and similar texts."""
    values = {"r": READ, "w": WRITE, "x": EXECUTE, "e": EXECUTE}
    return sum(values.get(letter, 0) for letter in text.lower())


def canaries(target: Target) -> dict[int, bytes]:
    """Eight bytes each, by address: on stacks, on the heap, in thread-local storage."""
    found = {}
    for thread in target.truth["threads"]:
        for canary in (*thread["canaries"].values(), thread["tls"], thread["counter"]):
            found[int(canary["address"], 16)] = struct.pack("<Q", int(canary["value"], 16))
    return found


def tids(target: Target) -> list[int]:
    return [target.pid, *(thread["tid"] for thread in target.truth["threads"])]


def stack_pointers_and_program_counters(target: Target) -> dict[int, tuple[int, int]]:
    """Those of every thread, when all threads sleep in their calls."""
    found: dict[int, tuple[int, int]] = {}

    def are_all_there() -> bool:
        for tid in tids(target):
            if call := current_call.system_call(target.pid, tid):
                found[tid] = call[2:]
        return len(found) == len(tids(target))

    eventually(are_all_there)
    return found


@pytest.fixture
def threads(spawn: Callable[..., Target]) -> Target:
    return spawn("threads", 5)


def test_pyelftools_lists_mappings_and_threads_and_reads_memory(
    threads: Target, core_file: Callable[[int], Path]
) -> None:
    core = Core(core_file(threads.pid))
    assert joined((load.vaddr, load.end, load.flags) for load in core.loads) == mappings(
        threads.pid
    )
    assert sorted(core.threads) == sorted(tids(threads))
    for address, expected in canaries(threads).items():
        assert core.read(address, address + 8) == expected


def test_lief_lists_mappings_and_threads_and_reads_memory(
    threads: Target, core_file: Callable[[int], Path]
) -> None:
    registers = stack_pointers_and_program_counters(threads)
    core = lief.ELF.parse(core_file(threads.pid))
    assert core is not None
    assert core.header.file_type == lief.ELF.Header.FILE_TYPE.CORE
    loads = [s for s in core.segments if s.type == lief.ELF.Segment.TYPE.LOAD]
    assert joined(
        (load.virtual_address, load.virtual_address + load.virtual_size, int(load.flags))
        for load in loads
    ) == mappings(threads.pid)
    found = {}
    for note in core.notes:
        if isinstance(note, lief.ELF.CorePrStatus):
            found[note.status.pid] = (note.sp, note.pc)
    assert found == registers
    for address, data in canaries(threads).items():
        assert bytes(core.get_content_from_virtual_address(address, 8)) == data


def test_lief_lists_the_mapped_files(threads: Target, core_file: Callable[[int], Path]) -> None:
    core = lief.ELF.parse(core_file(threads.pid))
    assert core is not None
    (note,) = (note for note in core.notes if isinstance(note, lief.ELF.CoreFile))
    maps = Path(f"/proc/{threads.pid}/maps").read_text()
    rows = re.findall(r"^(\w+)-(\w+) \S+ \w+ \S+ \d+ +(/.*)$", maps, re.MULTILINE)
    assert [(file.start, file.end, file.path) for file in note.files] == [
        (int(start, 16), int(end, 16), path) for start, end, path in rows
    ]


@pytest.mark.parametrize("tool", ["readelf", "objdump"])
def test_binutils_list_the_mappings(
    threads: Target, core_file: Callable[[int], Path], tool: str
) -> None:
    pattern = {
        "readelf": r"^  LOAD +0x\w+ (0x\w+) 0x\w+\s+0x\w+ (0x\w+)  (...) +0x1000$",
        "objdump": r"LOAD off +0x\w+ vaddr (0x\w+) paddr 0x\w+ align 2\*\*12\n"
        r" +filesz 0x\w+ memsz (0x\w+) flags (...)$",
    }[tool]
    options = {"readelf": "-lhn", "objdump": "-p"}[tool]
    out, err = run(tool, options, core_file(threads.pid))
    assert err == ""
    found = re.findall(pattern, out, re.MULTILINE)
    assert joined(
        (int(start, 16), int(start, 16) + int(size, 16), flags_of(flags))
        for start, size, flags in found
    ) == mappings(threads.pid)


def test_objdump_makes_a_section_of_each_segment_and_thread(
    threads: Target, core_file: Callable[[int], Path]
) -> None:
    core = Core(core_file(threads.pid))
    out, err = run("objdump", "-h", core.path)
    assert err == ""
    sections = re.findall(r"^ *\d+ \.reg/(\d+) ", out, re.MULTILINE)
    assert sorted(map(int, sections)) == sorted(tids(threads))
    rows = re.findall(r"^ *\d+ load\w+ +(\w+) +(\w+) .*\n +(.*)$", out, re.MULTILINE)
    found = [
        (int(address, 16), int(address, 16) + int(size, 16), int("CONTENTS" in words))
        for size, address, words in rows
    ]
    # Two sections if only a part of a segment is in the file.
    expected = []
    for load in core.loads:
        border = load.vaddr + load.filesz
        expected += [(load.vaddr, border, 1), (border, load.end, 0)]
    assert joined(found) == joined(row for row in expected if row[0] < row[1])


def test_objdump_shows_memory(threads: Target, core_file: Callable[[int], Path]) -> None:
    path = core_file(threads.pid)
    for address, expected in canaries(threads).items():
        limits = (f"--start-address={address:#x}", f"--stop-address={address + 8:#x}")
        out, err = run("objdump", "-s", *limits, path)
        assert err == ""
        (row,) = re.findall(rf"^ {address:x} (\w{{8}}) (\w{{8}}) ", out, re.MULTILINE)
        assert bytes.fromhex("".join(row)) == expected


def test_file_tells_what_it_is(threads: Target, core_file: Callable[[int], Path]) -> None:
    out, _ = run("file", "--brief", core_file(threads.pid))
    program = threads.argv[0]
    assert out.startswith("ELF 64-bit LSB core file, x86-64, version 1 (SYSV), SVR4-style, from ")
    assert f"execfn: '{program}', platform: 'x86_64'" in out


def test_strings_finds_what_the_program_wrote(
    spawn: Callable[..., Target], core_file: Callable[[int], Path]
) -> None:
    target = spawn("threads", 5, "canary")
    pipe = 'strings -a "$1" | grep -x "canary-[0-9]"'
    done = subprocess.run(
        ["sh", "-c", pipe, "sh", core_file(target.pid)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    names = {thread["comm"] for thread in target.truth["threads"]}
    assert set(done.stdout.split()) == names
