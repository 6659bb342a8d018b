"""TARGET: the commands take processes by pid, name, program, group or ancestor, and several at one
time."""

import os
import re
import shutil
import signal
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from gcorefs.elfcore.corefile import read_core
from gcorefs.kernel.proc import task_stat
from tests.cgroups import group_named
from tests.conftest import GCOREFS, Mount, Target, text_of
from tests.mounted.conftest import assert_refused, eventually, gcorefs, is_free, opened
from tests.mounted.test_arguments import invoke
from tests.readers.corefile import Core

Spawn = Callable[..., Target]


def everybody(team: Target) -> list[int]:
    truth = team.truth
    return sorted([truth["pid"], *truth["children"], truth["grandchild"]])


def pids_of(folder: Path, prefix: str = "core") -> list[int]:
    """The processes whose cores are in a folder, by what is in the cores."""
    found = []
    for path in folder.iterdir():
        with path.open("rb") as file:
            core = read_core(file)
        assert (path.name, core.missing) == (f"{prefix}.{core.pid}", 0)
        found.append(core.pid)
    return sorted(found)


def test_several_processes_have_a_core_each(spawn: Spawn, tmp_path: Path) -> None:
    team = spawn("team", 2)
    pids = everybody(team)
    result = gcorefs("dump", "--tree", team.pid, team.pid, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, b"")
    lines = result.stdout.decode().splitlines()
    # In the order in which they were named, each once.
    others = [pid for pid in pids if pid != team.pid]
    for pid, line in zip([team.pid, *others], lines, strict=True):
        line_ = rf"core\.{pid}: 1 thread, stopped for \d+\.\d ms, \d+ bytes"
        assert re.fullmatch(line_, line), line
    assert pids_of(tmp_path) == pids


def test_one_that_fails_does_not_keep_the_others(
    spawn: Spawn, strace: Callable[[int], int], tmp_path: Path
) -> None:
    traced, other = spawn("threads", 1), spawn("threads", 2)
    tracer = strace(traced.pid)
    name = uuid.uuid4().hex
    words = ["dump", traced.pid, 1 << 22, other.pid, "--name", name, "-o", "some"]
    result = gcorefs(*words, cwd=tmp_path)
    assert result.returncode == 1
    lines = result.stderr.decode().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"Error: process {1 << 22}: there is no such process")
    assert lines[1].startswith(f"Error: no process has the name {name} (")
    assert lines[2].startswith(f"Error: process {traced.pid}: ")
    assert f"(TracerPid {tracer}); gcorefs check {traced.pid} says who" in lines[2]
    assert result.stdout.decode().startswith(f"some.{other.pid}: 3 threads, ")
    assert pids_of(tmp_path, "some") == [other.pid]


@pytest.mark.parametrize("hold", ["stop", "copy"])
def test_together_the_cores_are_of_one_instant(spawn: Spawn, tmp_path: Path, hold: str) -> None:
    team = spawn("team", 3)
    result = gcorefs("dump", "--together", "--tree", team.pid, "--hold", hold, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, b"")
    assert pids_of(tmp_path) == everybody(team)
    address = int(team.truth["address"], 16)
    counts = {Core(path).read(address, address + 8) for path in tmp_path.iterdir()}
    assert len(counts) == 1
    assert all(is_free(pid) for pid in everybody(team))


def test_together_there_are_all_or_none(
    spawn: Spawn, strace: Callable[[int], int], tmp_path: Path
) -> None:
    team, traced = spawn("team", 2), spawn("threads", 1)
    tracer = strace(traced.pid)
    words = ["dump", "--together", "--tree", team.pid]
    assert_refused(gcorefs(*words, traced.pid, cwd=tmp_path), f"TracerPid {tracer}")
    assert_refused(gcorefs(*words, 1 << 22, cwd=tmp_path), f"process {1 << 22}: ")
    assert list(tmp_path.iterdir()) == []
    assert all(is_free(pid) for pid in everybody(team))


def test_a_signal_lets_all_go(spawn: Spawn, tmp_path: Path) -> None:
    # The vforker takes as long to stop as a thread may.
    team, slow = spawn("team", 2), spawn("vforker")
    command = [GCOREFS, "dump", "--together", "--stop-timeout", 60, slow.pid, "--tree", team.pid]
    with subprocess.Popen(text_of(command), cwd=tmp_path, stderr=subprocess.PIPE) as dumper:
        eventually(lambda: all(task_stat.stat(pid).state == "t" for pid in everybody(team)))
        dumper.send_signal(signal.SIGTERM)
        _, said = dumper.communicate(timeout=60)
    assert (dumper.returncode, said) == (128 + signal.SIGTERM, b"")
    assert list(tmp_path.iterdir()) == []
    assert all(is_free(pid) for pid in everybody(team))
    assert slow.ask("release") == {"released": True}


@pytest.mark.parametrize(
    ("output", "place"), [("-", "standard output"), ("/dev/null", "/dev/null"), ("/tmp", "/tmp")]
)
def test_several_cores_do_not_go_to_one_place(spawn: Spawn, output: str, place: str) -> None:
    team = spawn("team", 1)
    result = gcorefs("dump", "--tree", team.pid, "-o", output)
    assert_refused(result, f"several cores cannot go to {place}: with -o PREFIX they are files")


@pytest.fixture
def copy(build: Callable[[str], Path], tmp_path: Path) -> Path:
    """A program with a name of its own."""
    path = tmp_path / f"threads-{uuid.uuid4().hex}"
    shutil.copy(build("threads"), path)
    return path


def test_one_process_by_another_name_is_as_by_its_pid(
    copy: Path, mount: Mount, tmp_path: Path
) -> None:
    target = Target([str(copy), "2"])
    try:
        piped = gcorefs("dump", "--name", copy.name)
        assert (piped.returncode, piped.stderr, piped.stdout[:4]) == (0, b"", b"\x7fELF")
        info = gcorefs("info", "--exe", copy)
        assert (info.returncode, info.stderr) == (0, b"")
        assert f"process   {target.pid} on " in info.stdout.decode()
        with opened(mount / target.pid) as fd:
            assert os.read(fd, 4) == b"\x7fELF"
            released = gcorefs("release", "--name", copy.name, "--mount", mount.path)
            assert (released.returncode, released.stderr) == (0, b"")
            eventually(lambda: is_free(target.pid))
            mount.expect(f"process {target.pid}: it is not held")
            again = gcorefs("release", "--tree", target.pid, "--mount", mount.path)
            assert_refused(again, f"process {target.pid} is not held")
        watching = [GCOREFS, "watch", "--exe", copy, "--every", "1h", tmp_path]
        with subprocess.Popen(text_of(watching), stdout=subprocess.PIPE) as watch:
            assert watch.stdout is not None
            assert watch.stdout.readline().startswith(b"core.%d." % target.pid)
            watch.send_signal(signal.SIGTERM)
    finally:
        target.kill()


def test_a_container_is_dumped_together(spawn: Spawn, tmp_path: Path) -> None:
    first, second, other = (spawn("threads", 1) for _ in range(3))
    container, unit = uuid.uuid4().hex * 2, f"gcorefs-{uuid.uuid4().hex}"
    with group_named("v2", f"{unit}.service", f"docker-{container}.scope") as group:
        for target in (first, second):
            group.add(target.pid)
        words = ["--container", container[:12], "--unit", unit, "--cgroup", group.path]
        result = gcorefs("dump", "--together", *words, "--policy", "@stacks", cwd=tmp_path)
        assert (result.returncode, result.stderr) == (0, b"")
    assert pids_of(tmp_path) == sorted([first.pid, second.pid])
    assert is_free(other.pid)


def test_where_one_process_is_needed_the_line_names_those_that_are_meant(spawn: Spawn) -> None:
    team = spawn("team", 1)
    pids = ", ".join(map(str, everybody(team)))
    line = f"3 processes are meant, and the command takes one: {pids}"
    assert_refused(gcorefs("info", "--tree", team.pid), line)
    assert_refused(gcorefs("watch", "--tree", team.pid, "/tmp"), line)


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (["dump"], 2, "Which process?  Give its pid, or one of --name, --exe, --unit, "),
        (["info"], 2, "Which process?"),
        (["watch", "/tmp"], 2, "Give one process, and the directory of its cores: PID DIR."),
        (["watch", "x", "/tmp"], 2, "Invalid value: 'x' is not a valid integer"),
        (["dump", "--unit", "no-such-unit"], 1, "no process is in the unit no-such-unit ("),
        (["dump", "--container", "cafe"], 2, "--container: 'cafe' is no id of a container: 12 to"),
        (["dump", "--name", ""], 2, "--name: it cannot be empty"),
        (["dump", "--cgroup", "/no/such"], 1, "no process is in the control group /no/such ("),
        (["dump", "--exe", "/no/such"], 1, "no process runs the program /no/such ("),
        (["dump", "--tree", str(1 << 22)], 1, "--tree: there is no such process"),
        (["dump", "--name", "a\nb"], 1, "no process has the name a\\nb ("),
    ],
)
def test_no_process_is_one_clear_line(words: list[str], status: int, line: str) -> None:
    result = invoke(*words)
    assert result.exit_code == status
    assert result.stderr.splitlines()[-1].startswith(f"Error: {line}")
