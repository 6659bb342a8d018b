"""eu-readelf and readelf read the file without a complaint."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gcorefs.kernel.proc import task_stat, tasks
from tests.conftest import Target
from tests.readers.corefile import Core
from tests.readers.debuggers import run

BOTH = pytest.mark.parametrize("program", ["threads", "threads32"])


@BOTH
@pytest.mark.parametrize("tool", ["eu-readelf", "readelf"])
@pytest.mark.parametrize("option", ["-n", "-l", "-h"])
def test_no_reader_warns(
    spawn: Callable[..., Target],
    core_file: Callable[[int], Path],
    program: str,
    tool: str,
    option: str,
) -> None:
    path = core_file(spawn(program, 5).pid)
    out, err = run(tool, option, path)
    assert out
    assert err == ""


@BOTH
def test_eu_readelf_lists_the_threads_of_the_process(
    spawn: Callable[..., Target], core_file: Callable[[int], Path], program: str
) -> None:
    target = spawn(program, 5)
    out, _ = run("eu-readelf", "-n", core_file(target.pid))
    # The heading of PRSTATUS, then signal lines, then the ids (PRPSINFO has a pid line too).
    found = re.findall(r"PRSTATUS\n(?:.*\n){3} +pid: (\d+), ppid: (\d+)", out)
    parent = task_stat.stat(target.pid).ppid
    assert found == [(str(tid), str(parent)) for tid in tasks.tids(target.pid)]


@BOTH
def test_program_headers_are_the_mappings_of_the_process(
    spawn: Callable[..., Target], dump: Callable[[int], Path], program: str
) -> None:
    target = spawn(program, 5)
    path = dump(target.pid)
    out, _ = run("eu-readelf", "-l", path)
    rows = re.findall(
        r"^  LOAD +0x\w+ (0x\w+) 0x\w+ 0x\w+ (0x\w+) ([R ][W ][E ]) 0x1000$", out, re.MULTILINE
    )
    found = [
        (int(vaddr, 16), int(vaddr, 16) + int(memsz, 16), flags.replace(" ", "-").replace("E", "x"))
        for vaddr, memsz, flags in rows
    ]
    maps = Path(f"/proc/{target.pid}/maps").read_text()
    expected = [
        (int(start, 16), int(end, 16), flags.upper().replace("X", "x"))
        for start, end, flags in re.findall(r"^(\w+)-(\w+) (...)", maps, re.MULTILINE)
    ]
    # A mapping is several if its never-populated parts are zeros that the file has only once.
    assert {start for start, _, _ in expected} <= {start for start, _, _ in found}
    assert joined(found) == joined(expected)


def joined(ranges: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """The same, with adjacent ranges of equal flags merged."""
    whole: list[tuple[int, int, str]] = []
    for start, end, flags in ranges:
        begin = start
        if whole and whole[-1][1:] == (start, flags):
            begin, _, _ = whole.pop()
        whole.append((begin, end, flags))
    return whole


def test_pyelftools_lists_a_note_segment_and_then_memory(
    spawn: Callable[..., Target], dump: Callable[[int], Path]
) -> None:
    target = spawn("threads", 5)
    core = Core(dump(target.pid))
    assert core.order == ["PT_NOTE"] + ["PT_LOAD"] * len(core.loads)
    kinds = ["NT_PRSTATUS", "NT_PRPSINFO", "NT_AUXV", "NT_FILE", "NT_FPREGSET", 0x202]
    others = ["NT_PRSTATUS", "NT_FPREGSET", 0x202]
    assert [note.kind for note in core.notes] == [*kinds, *others * 5, 0x205]
    assert [note.kind for note in core.own_notes] == [int.from_bytes(b"GCOR")]
