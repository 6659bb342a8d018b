"""`gcorefs watch`: the last cores of a process, and what is left when it has ended."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcorefs.elfcore.corefile import read_core
from tests.conftest import GCOREFS, Target
from tests.mounted.conftest import AS_NOBODY, eventually, gcorefs, is_free

Spawn = Callable[..., Target]

NAME = re.compile(r"core\.\d+\.\d{8}T\d{6}\.\d{3}Z")


@contextlib.contextmanager
def watching(target: Target, folder: Path, *words: object) -> Iterator["subprocess.Popen[str]"]:
    command = [GCOREFS, "watch", *words, target.pid, folder]
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def lines(process: "subprocess.Popen[str]", count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().rstrip("\n") for _ in range(count)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "cores"
    folder.mkdir()
    return folder


def test_the_last_cores_stay(spawn: Spawn, folder: Path) -> None:
    target = spawn("threads", 3)
    with watching(target, folder, "--every", "20ms", "--keep", "3") as process:
        told = lines(process, 6)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert rest[1] == ""
    told += rest[0].splitlines()
    for line in told:
        assert re.fullmatch(
            rf"{NAME.pattern}: 4 threads, stopped for \d+\.\d ms, \d+ bytes", line
        ), line
    kept = names(folder)
    assert 3 <= len(kept) <= 4  # the signal may come between a new one and the end of the oldest
    told_names = [line.partition(":")[0] for line in told]
    assert told_names == sorted(told_names)
    assert set(kept) >= set(told_names[-3:]) or set(kept) >= set(told_names[-2:])
    for name in kept:
        with (folder / name).open("rb") as file:
            core = read_core(file)
        assert (core.threads, core.missing) == (4, 0)
        assert (folder / name).stat().st_mode == 0o100600
    eventually(lambda: is_free(target.pid))


def test_a_directory_that_is_removed_ends_it(spawn: Spawn, folder: Path) -> None:
    """Else it would stop the process again and again, for nothing."""
    target = spawn("threads", 3)
    with watching(target, folder, "--every", "20ms") as process:
        lines(process, 1)

        def is_removed() -> bool:
            with contextlib.suppress(OSError):  # a core has come meanwhile
                shutil.rmtree(folder)
            return not folder.exists()

        eventually(is_removed)
        folder.mkdir()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.splitlines()[-1] == f"Error: {folder}: the directory has been removed"
    assert names(folder) == []
    eventually(lambda: is_free(target.pid))


def test_after_the_end_of_the_process_its_last_core_is_there(spawn: Spawn, folder: Path) -> None:
    target = spawn("threads", 3)
    with watching(target, folder, "--every", "1h", "--policy", "@stacks") as process:
        (told,) = lines(process, 1)
        target.kill()
        out, err = process.communicate(timeout=60)
    (name,) = names(folder)
    assert told.startswith(f"{name}: ")
    assert out == f"process {target.pid} has ended; the last core is {name}\n"
    assert (process.returncode, err) == (0, "")
    with (folder / name).open("rb") as file:
        core = read_core(file)
    assert core.facts is not None
    assert core.facts["policy"]["memory"] == "stacks"


def test_the_disk_has_no_more_than_it_may_take(spawn: Spawn, folder: Path) -> None:
    target = spawn("bulk", 1)
    words = ("--every", "20ms", "--policy", "memory=filter", "--space", "5")
    with watching(target, folder, *words) as process:
        lines(process, 8)
    taken = [(folder / name).stat().st_blocks * 512 for name in names(folder)]
    assert 2 <= len(taken) < 5
    assert sum(taken) <= 5 << 20


def test_a_core_that_is_too_large_is_not_written(spawn: Spawn, folder: Path) -> None:
    target = spawn("bulk", 4)
    words = ("--every", "20ms", "--policy", "memory=filter", "--space", "2")
    with watching(target, folder, *words) as process:
        for line in lines(process, 2):
            assert re.fullmatch(
                rf"{NAME.pattern}: its \d+ bytes are more than --space allows", line
            )
    assert names(folder) == []


def test_nothing_else_is_deleted(spawn: Spawn, folder: Path, tmp_path: Path) -> None:
    target = spawn("threads", 1)
    others = [
        f"core.{target.pid}", f"core.{target.pid}1.20200101T000000.000Z",
        f"core.{target.pid}.20200101T000000.000Z.old", "core.1.20200101T000000.000Z", "notes",
    ]  # fmt: skip
    for name in others:
        (folder / name).touch()
    precious = tmp_path / "precious"
    precious.touch()
    link = folder / f"core.{target.pid}.20200101T000000.000Z"
    link.symlink_to(precious)
    foreign = folder / f"core.{target.pid}.20200102T000000.000Z"
    foreign.touch()
    os.chown(foreign, 65534, 65534)
    with watching(target, folder, "--every", "20ms", "--keep", "1") as process:
        lines(process, 4)
    left = {*names(folder)} - {*others, link.name, foreign.name}
    assert {*others, link.name, foreign.name} <= {*names(folder)}
    assert len(left) in (1, 2)
    assert precious.exists()


def test_a_traced_process_is_tried_again(
    spawn: Spawn, folder: Path, strace: Callable[[int], int]
) -> None:
    target = spawn("threads", 1)
    with watching(target, folder, "--every", "50ms") as process:
        lines(process, 1)
        strace(target.pid)
        assert process.stderr is not None
        assert f"process {target.pid}: " in process.stderr.readline()
        assert process.poll() is None


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["--every", "0"], 2, "'0' is no time like 10s"),
        (["--every", "-1s"], 2, "'-1s' is no time like 10s"),
        (["--every", "1 s"], 2, "'1 s' is no time like 10s"),
        (["--keep", "0"], 2, "Invalid value for '--keep'"),
        (["--policy", "@none"], 2, "'@none' is no policy"),
        ([], 1, "/nowhere: No such file or directory"),
    ],
)
def test_a_wrong_word_gives_one_line(
    spawn: Spawn, words: list[str], status: int, text: str
) -> None:
    target = spawn("threads", 1)
    result = gcorefs("watch", *words, target.pid, "/nowhere")
    assert result.returncode == status
    assert text in result.stderr.decode()
    assert b"Traceback" not in result.stderr


def test_a_process_that_is_not_ours(spawn: Spawn, folder: Path) -> None:
    folder.chmod(0o777)
    target = spawn("threads", 1)
    words = [*AS_NOBODY, GCOREFS, "watch", target.pid, folder]
    result = subprocess.run(
        list(map(str, words)), capture_output=True, timeout=60, check=False, cwd="/"
    )
    assert result.returncode == 1
    assert result.stderr.count(b"\n") == 1
    assert names(folder) == []


def test_there_is_no_such_process(folder: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    result = gcorefs("watch", process.pid, folder)
    assert (result.returncode, result.stdout) == (1, b"")
    assert b"there is no such process" in result.stderr
