"""`gcorefs info` of a file or of a process: what a core is, or one line if it is not a core."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gcorefs.kernel.proc import task_stat, tasks
from tests.conftest import GCOREFS, Mount, Target, text_of
from tests.mounted.conftest import (
    AS_NOBODY,
    PAGE,
    assert_refused,
    eventually,
    gcorefs,
    is_free,
    opened,
    run,
    stops,
    whole,
)

Spawn = Callable[..., Target]


def facts_of(name: object) -> dict[str, Any]:
    result = gcorefs("info", "--json", name)
    assert (result.returncode, result.stderr) == (0, b"")
    facts: dict[str, Any] = json.loads(result.stdout)
    return facts


def lines_of(*words: object) -> list[str]:
    result = gcorefs("info", *words)
    assert (result.returncode, result.stderr) == (0, b"")
    return result.stdout.decode().splitlines()


def without_times(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts that all stops of a sleeping process have in common."""
    own = {**facts["gcorefs"], "stopped_at": "", "stop_milliseconds": 0}
    return {**facts, "gcorefs": own}


def assert_the_sums_are_those_of_the_note(facts: dict[str, Any]) -> None:
    counted, zeros = facts["gcorefs"]["bytes"], facts["gcorefs"]["zeros"]
    for name in ("in_file", "zeros", "left_out", "unreadable"):
        assert facts["bytes"][name] == sum(row[name] for row in facts["mappings"])
    assert facts["bytes"] == {
        "mapped": counted["mapped"],
        "in_file": counted["recorded"] + counted["zeros"] - zeros["shared"],
        "zeros": zeros["shared"],
        "left_out": counted["left_out"],
        "unreadable": counted["unreadable"],
    }


@pytest.fixture
def dumped(spawn: Spawn, tmp_path: Path) -> tuple[Target, Path]:
    """A sleeping target, and its core."""
    target, file = spawn("threads", 3), tmp_path / "core"
    assert gcorefs("dump", target.pid, "-o", file).returncode == 0
    return target, file


def test_a_file_says_what_the_process_was(dumped: tuple[Target, Path]) -> None:
    target, file = dumped
    facts = facts_of(file)
    assert facts["size"] == file.stat().st_size
    assert (facts["program"], facts["pid"], facts["threads"]) == ("threads", target.pid, 4)
    assert (facts["bits"], facts["machine"], facts["signal"]) == (64, "x64", 0)
    assert facts["arguments"] == " ".join(target.argv)[:79]
    assert facts["gcorefs"]["threads"] == {"stopped": 4, "partial": 0, "zero": 0, "omitted": 0}
    assert facts["gcorefs"]["host"] == os.uname().nodename
    assert facts["missing"] == 0
    assert_the_sums_are_those_of_the_note(facts)
    # The process itself says what it has mapped, and so does the kernel.
    maps = [
        line.split(None, 5) for line in Path(f"/proc/{target.pid}/maps").read_text().splitlines()
    ]
    known = {row["start"]: row for row in facts["mappings"]}
    for place, permissions, _, _, _, *name in maps:
        start, end = place.split("-")
        row = known[start]
        assert (row["end"], row["permissions"], row["name"]) == (
            end, permissions[:3], name[0].strip() if name else ""
        )  # fmt: skip
    assert len(maps) == len(facts["mappings"])


def test_a_process_says_the_same_and_goes_on(dumped: tuple[Target, Path]) -> None:
    target, file = dumped
    assert without_times(facts_of(target.pid)) == without_times(facts_of(file))
    assert is_free(target.pid)
    assert target.ask("ping") == {"pong": 1}


def test_a_mounted_file_says_the_same_and_is_closed(
    dumped: tuple[Target, Path], mount: Mount
) -> None:
    target, file = dumped
    assert without_times(facts_of(mount / target.pid)) == without_times(facts_of(file))
    eventually(lambda: is_free(target.pid))
    eventually(lambda: stops(mount, target.pid) == 1)  # it is logged a moment later
    with opened(mount / target.pid) as fd:
        size = len(whole(fd))
        assert facts_of(mount / target.pid)["size"] == size


def test_nobody_is_held_while_it_is_printed(spawn: Spawn, mount: Mount) -> None:
    # More than fits into a pipe that nobody reads.
    target = spawn("mappings", 3000)
    for name in (target.pid, mount / target.pid):
        command = [GCOREFS, "info", "--all", str(name)]
        with subprocess.Popen(text_of(command), stdout=subprocess.PIPE) as printing:
            assert printing.stdout is not None
            assert printing.stdout.read(7) == b"program"
            assert printing.poll() is None
            eventually(lambda: is_free(target.pid))
            assert printing.stdout.read().count(b"\n") > 3000
        assert printing.returncode == 0


def test_the_layout_of_the_vector_registers_is_told(spawn: Spawn) -> None:
    target = spawn("threads", 1)
    for option, is_raw in (("standard", False), ("raw", True)):
        lines = lines_of("--xstate", option, target.pid)
        facts = json.loads(gcorefs("info", "--json", "--xstate", option, target.pid).stdout)
        assert facts["gcorefs"]["policy"]["xstate"] == option
        xstate = facts["gcorefs"]["xstate"]
        size, kernels, layout = xstate["size"], xstate["kernel_size"], xstate["layout"]
        assert layout == "kernel" or not is_raw
        text = f"{layout} layout, {size} bytes"
        if layout == "kernel":
            assert size == kernels
        else:
            text += f" (the kernel's has {kernels})"
        assert f"vectors   {text}" in lines


def test_the_picture_of_a_process(spawn: Spawn) -> None:
    target = spawn("threads", 3)
    lines = lines_of(target.pid)
    heads = dict(re.split(r"\s\s+", line, maxsplit=1) for line in lines[: lines.index("")])
    assert heads["program"].startswith("threads (")
    assert heads["process"] == f"{target.pid} on {os.uname().nodename}"
    assert heads["threads"] == "4 (4 stopped)"
    assert re.fullmatch(r".* KiB, ELF64 x64, \d+ program headers", heads["file"])
    bar = lines[lines.index("") + 2]
    assert len(bar) == 78
    assert set(bar) == {"█", "·"}
    for name in ("[heap]", "[stack]", "[vdso]", target.argv[0], "libc.so.6"):
        assert sum(name in line for line in lines if "-" in line) >= 1, name
    (libc,) = (line for line in lines if line.endswith("libc.so.6"))
    assert re.match(r" *[0-9a-f]+-[0-9a-f]+ \dx ", libc)
    assert not any("smaller ones" in line for line in lines)


def test_zeros_are_told_from_what_is_in_the_file(spawn: Spawn, tmp_path: Path) -> None:
    target, file = spawn("reserve", 1, 64), tmp_path / "core"
    assert gcorefs("dump", target.pid, "-o", file).returncode == 0
    facts = facts_of(file)
    assert_the_sums_are_those_of_the_note(facts)
    assert facts["bytes"]["zeros"] > 900 << 20
    assert facts["size"] < 100 << 20
    (largest,) = (row for row in facts["mappings"] if row["zeros"])
    assert largest["name"] == ""
    (bar,) = (line for line in lines_of(file) if line.startswith(("█", "░")) and len(line) == 78)
    assert bar.count("░") > 60


def terminal(*words: object, columns: int, **environment: str) -> list[str]:
    """The output on a terminal with so many columns."""
    leader, follower = pty.openpty()
    with open(follower, "wb", buffering=0) as file:
        run("stty", "cols", columns, "rows", 24, stdin=file)
        without = {key: text for key, text in os.environ.items() if key != "COLUMNS"}
        command = [GCOREFS, "info", *map(str, words)]
        process = subprocess.Popen(
            text_of(command),
            stdout=file,
            stderr=file,
            env={**without, "TERM": "xterm", **environment},
        )
    shown = b""
    try:
        while piece := os.read(leader, 4096):
            shown += piece
    except OSError:  # EIO: the other end is closed (pty(7))
        pass
    finally:
        os.close(leader)
    assert process.wait(timeout=20) == 0
    return shown.decode().replace("\r", "").splitlines()


def test_a_terminal_of_80_columns_is_not_overrun(
    spawn: Spawn, build: Callable[[str], Path], tmp_path: Path
) -> None:
    program = tmp_path / ("long\x1b[2J" + "n" * 200)
    program.write_bytes(build("threads").read_bytes())
    program.chmod(0o755)
    target = Target([str(program), "1"])
    try:
        colored = terminal(target.pid, columns=80)
        plain = [re.sub(r"\x1b\[\d+m", "", line) for line in colored]
        assert any("\x1b[32m" in line for line in colored)
        assert max(map(len, plain)) <= 80
        assert all(line.isprintable() for line in plain)
        assert any(re.search(r" \S+\.\.\S+n$", line) for line in plain)
        assert not any("\x1b" in line for line in terminal(target.pid, columns=80, NO_COLOR="1"))
        wide = terminal(target.pid, columns=400, NO_COLOR="1")
        assert any(re.search(r"long\\x1b\[2Jn{200}$", line) for line in wide)
        assert any(re.search(r"long\\x1b\[2Jn{200}$", line) for line in lines_of(target.pid))
        eventually(lambda: is_free(target.pid))
    finally:
        target.kill()


def test_with_ascii_only_the_picture_is_ascii_too(
    build: Callable[[str], Path], tmp_path: Path
) -> None:
    program = tmp_path / "naïve"
    program.write_bytes(build("threads").read_bytes())
    program.chmod(0o755)
    target = Target([str(program), "1"])
    try:
        environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
        result = gcorefs("info", target.pid, env=environment)
    finally:
        target.kill()
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.isascii()
    assert b"####" in result.stdout
    assert b"/na\\xefve\n" in result.stdout


COUNT = 60_000  # with the program's own mappings, fewer than max_map_count


def test_very_many_mappings_are_a_page_and_all_of_them_if_wanted(
    spawn: Spawn, tmp_path: Path
) -> None:
    target, file = spawn("mappings", COUNT), tmp_path / "core"
    assert gcorefs("dump", target.pid, "-o", file).returncode == 0
    facts = facts_of(file)
    assert_the_sums_are_those_of_the_note(facts)
    start = int(target.truth["start"], 16)
    known = {row["start"]: row for row in facts["mappings"]}
    for number in (0, 1, COUNT // 2, COUNT - 2):
        row = known[f"{start + number * 2 * PAGE:x}"]
        assert (row["in_file"], row["permissions"]) == (PAGE, "rw-")
    for name in (target.pid, file):
        lines = lines_of(name)
        rows = lines[1 + next(at for at, line in enumerate(lines) if "ADDRESS" in line) :]
        assert len(rows) <= 40
        (more,) = re.findall(r"\.\.\. (\d+) smaller ones", "\n".join(rows))
        assert int(more) > COUNT - 40
    assert len(lines_of("--all", file)) > COUNT


def test_digits_are_a_process_and_a_file_has_a_path(
    dumped: tuple[Target, Path], spawn: Spawn, tmp_path: Path
) -> None:
    target, file = dumped
    other = spawn("threads", 1)
    file.rename(tmp_path / str(other.pid))
    words = (GCOREFS, "info", "--json")
    assert json.loads(run(*words, other.pid, cwd=tmp_path).stdout)["pid"] == other.pid
    assert json.loads(run(*words, f"./{other.pid}", cwd=tmp_path).stdout)["pid"] == target.pid


def test_a_file_that_is_not_a_core_gives_one_line(
    dumped: tuple[Target, Path], tmp_path: Path
) -> None:
    _, core = dumped
    data = core.read_bytes()
    files = {"empty": b"", "text": b"x" * 10_000, "short": data[:100], "header": data[:3000]}
    for name, contents in files.items():
        (tmp_path / name).write_bytes(contents)
    os.mkfifo(tmp_path / "fifo")
    reasons = {
        tmp_path / "empty": "it is no ELF file",
        tmp_path / "text": "it is no ELF file",
        tmp_path / "short": "it is cut off",
        tmp_path / "header": "it is cut off",
        tmp_path / "fifo": "it is no regular file",
        tmp_path / "missing": "No such file or directory",
        tmp_path / "mis\nsing": "No such file or directory",
        tmp_path: "it is no regular file",
        Path("/bin/ls"): "it is no core, but ET_DYN",
        Path("/dev/zero"): "it is no regular file",
    }
    for file, reason in reasons.items():
        for words in ([], ["--json"], ["--all"]):
            result = gcorefs("info", *words, file)
            assert_refused(result, reason)
            assert result.stdout == b""


def test_a_core_that_is_cut_off_is_shown_and_refused(dumped: tuple[Target, Path]) -> None:
    _, file = dumped
    size = file.stat().st_size
    expected = facts_of(file)
    os.truncate(file, size - 5000)
    assert_refused(gcorefs("info", file), f"{file}: it is cut off, 5000 bytes are missing")
    result = gcorefs("info", "--json", file)
    assert_refused(result, "cut off")
    assert json.loads(result.stdout) == {**expected, "size": size - 5000, "missing": 5000}


def test_a_process_without_a_core_gives_one_line(
    spawn: Spawn, strace: Callable[[int], int]
) -> None:
    kernel = next(pid for pid in tasks.pids() if task_stat.stat(pid).is_kernel_thread)
    traced, dead = spawn("threads", 1), spawn("threads", 1)
    tracer = strace(traced.pid)
    dead.popen.kill()
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
    reasons = {
        "0": "there is no such process",
        "4194305": "there is no such process",
        "9" * 5000: "there is no such process",
        str(kernel): "a kernel thread has no memory of its own",
        str(traced.pid): f"TracerPid {tracer}",
        str(dead.pid): "no thread of it lives",
    }
    for name, reason in reasons.items():
        assert_refused(gcorefs("info", name), f"process {name}: ", reason)


def test_somebody_else_s_process_and_core_are_refused(
    dumped: tuple[Target, Path], everybodys: Mount
) -> None:
    target, file = dumped
    for name, reason in (
        (target.pid, "the kernel does not allow"),
        (file, "Permission denied"),
        (everybodys / target.pid, "Permission denied"),
    ):
        assert_refused(run(*AS_NOBODY, GCOREFS, "info", name), reason)
        assert is_free(target.pid)


def test_a_thread_that_does_not_stop_is_named(spawn: Spawn) -> None:
    target = spawn("vforker")
    (tid,) = facts_of(target.pid)["gcorefs"]["tids"]["partial"]
    assert tid in tasks.tids(target.pid)
    lines = lines_of(target.pid)
    assert any(line.startswith("threads") and "1 partial" in line for line in lines)
    assert any(line.split() == ["partial", str(tid)] for line in lines)
    assert target.ask("release") == {"released": True}


def test_if_nobody_reads_there_is_no_traceback(dumped: tuple[Target, Path]) -> None:
    _, file = dumped
    # Without a buffer each line would fail separately.
    environment = {key: text for key, text in os.environ.items() if key != "PYTHONUNBUFFERED"}
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [GCOREFS, "info", file]
        result = subprocess.run(
            text_of(command),
            env=environment,
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    assert (result.returncode, result.stderr) == (1, b"")


TRUNCATED = """
import json, mmap, os, sys, time
file = open(sys.argv[1], "w+b")
file.truncate(4 * mmap.PAGESIZE)
memory = mmap.mmap(file.fileno(), 4 * mmap.PAGESIZE)
memory[:] = b"x" * len(memory)
file.truncate(mmap.PAGESIZE)
open("/proc/self/coredump_filter", "w").write("0x3f")
print(json.dumps({"pid": os.getpid()}), flush=True)
sys.stdin.read()
"""


def test_unreadable_memory_is_shown_at_its_place(tmp_path: Path) -> None:
    file = tmp_path / "data"
    target = Target([os.path.realpath(sys.executable), "-c", TRUNCATED, str(file)])
    try:
        facts = facts_of(target.pid)
        (row,) = (row for row in facts["mappings"] if row["name"] == str(file))
        assert (row["in_file"], row["unreadable"]) == (4 * PAGE, 3 * PAGE)
        assert facts["bytes"]["unreadable"] == 3 * PAGE
        assert_the_sums_are_those_of_the_note(facts)
        (line,) = (line for line in lines_of(target.pid) if line.endswith(str(file)))
        assert "██!!!!!!" in line
    finally:
        target.kill()
