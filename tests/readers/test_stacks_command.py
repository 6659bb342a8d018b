"""`gcorefs stacks`: what threads do, from whatever readers are installed, equal stacks folded."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TARGETS, Target, wait_until_asleep
from tests.mounted.conftest import assert_refused, gcorefs, is_free, run
from tests.readers.test_lost_files import build_library
from tests.readers.test_lost_files import start as start_user

Spawn = Callable[..., Target]

BOTH = pytest.mark.parametrize("reader", ["eu-stack", "gdb"])


def asked(*words: object) -> dict[str, Any]:
    """The answer of `gcorefs stacks --json`, which complains of nothing."""
    result = gcorefs("stacks", "--json", *words)
    assert (result.returncode, result.stderr) == (0, b"")
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def functions(entry: dict[str, Any], language: str) -> list[str]:
    return [frame.get("function", "") for frame in entry["frames"][language]]


def of_target(entry: dict[str, Any], language: str, target: Target) -> list[str]:
    """Those that the target has told."""
    return [each for each in functions(entry, language) if each in target.truth["functions"]]


@BOTH
def test_equal_stacks_are_one_entry(spawn: Spawn, reader: str) -> None:
    target = spawn("threads", 20)
    wait_until_asleep(target.pid)
    found = asked(target.pid, "--with", reader, "--ids")
    assert is_free(target.pid)
    assert (found["processes"], found["threads"], found["goroutines"]) == ({"threads": 1}, 21, [])
    workers, main = found["stacks"]
    assert (workers["count"], main["count"]) == (20, 1)
    threads = target.truth["threads"]
    assert workers["names"] == {thread["comm"]: 1 for thread in threads}
    assert sorted((each["tid"], each["name"]) for each in workers["ids"]) == sorted(
        (thread["tid"], thread["comm"]) for thread in threads
    )
    assert main["ids"] == [{"pid": target.pid, "tid": target.pid, "name": "threads"}]
    assert of_target(workers, "native", target) == target.truth["functions"]
    assert "main" in functions(main, "native")
    source = (TARGETS / "threads.c").read_text().splitlines()
    for frame in workers["frames"]["native"]:
        if frame["function"] in ("middle", "outer"):
            path, _, line = frame["source"].rpartition(":")
            assert Path(path).name == "threads.c"
            callee = {"middle": "inner(t)", "outer": "middle(t)"}[frame["function"]]
            assert f"return {callee}" in source[int(line) - 1]


def assert_equal_texts(first: Target, second: Target, *words: object) -> str:
    """Two processes in equal states, at other addresses and with other ids.  Their text."""
    assert first.pid != second.pid
    texts = []
    for target in (first, second):
        wait_until_asleep(target.pid)
        result = gcorefs("stacks", target.pid, *words)
        assert (result.returncode, result.stderr) == (0, b"")
        texts.append(result.stdout.decode())
    assert texts[0] == texts[1]
    return texts[0]


def code_of(pid: int) -> str:
    """Where the program of a process is mapped."""
    return Path(f"/proc/{pid}/maps").read_text().partition("-")[0]


@pytest.mark.parametrize("form", [(), ("--json",)])
@BOTH
def test_equal_states_at_other_addresses_give_equal_texts(
    spawn: Spawn, reader: str, form: tuple[str, ...]
) -> None:
    first, second = spawn("threads", 3), spawn("threads", 3)
    assert code_of(first.pid) != code_of(second.pid)
    text = assert_equal_texts(first, second, "--with", reader, *form)
    assert not re.search("0x[0-9a-f]{6}", text)
    ids = {thread["tid"] for target in (first, second) for thread in target.truth["threads"]}
    assert not ids & {int(number) for number in re.findall(r"\b\d{4,}\b", text)}


def test_equal_states_of_two_machines_give_equal_texts(spawn: Spawn) -> None:
    text = assert_equal_texts(spawn("threads", 3), spawn("threads", 3))
    first, second, third, *_ = text.splitlines()
    assert (first, second) == ("4 threads of 1 process: threads", "")
    assert third == "3 threads: worker-0, worker-1, worker-2"
    assert not re.search("0x[0-9a-f]{6}", text)


def test_threads_of_several_processes_are_folded(spawn: Spawn) -> None:
    first, second = spawn("threads", 2), spawn("threads", 3)
    for target in (first, second):
        wait_until_asleep(target.pid)
    result = gcorefs("stacks", "--json", first.pid, 1 << 22, second.pid)
    assert result.returncode == 1  # one has none, and the others have
    assert result.stderr.decode().startswith(f"Error: process {1 << 22}: there is no such process")
    found = json.loads(result.stdout)
    assert found["processes"] == {"threads": 2}
    assert [each["count"] for each in found["stacks"]] == [5, 2]
    assert found["stacks"][0]["names"] == {"worker-0": 2, "worker-1": 2, "worker-2": 1}


@pytest.mark.parametrize("is_replaced", [False, True])
def test_names_come_from_a_library_that_was_deleted(
    spawn: Spawn, tmp_path: Path, is_replaced: bool
) -> None:
    library = build_library(tmp_path / "library.so", "-Wl,--build-id=sha1")
    target = start_user(spawn, library)
    library.unlink()
    if is_replaced:
        build_library(library, "-Wl,--build-id=sha1", "-DOTHER", "-O0")
    (entry,) = asked(target.pid, "--with", "eu-stack")["stacks"]
    frames = [(each.get("function"), each["module"]) for each in entry["frames"]["native"]]
    at = frames.index(("sleep_in_library", "library.so"))
    assert frames[at + 1] == ("in_library", "library.so")
    assert frames[at + 2] == ("main", "libuser")


# The program lies on a file system that only its own mount namespace has.
IN_A_CONTAINER = """
mount -t tmpfs none "$1" && cp "$2" "$1/inside" && exec "$1/inside" 2
"""


@pytest.mark.parametrize("reader", ["auto", "eu-stack"])
def test_names_come_from_the_files_of_a_container(
    build: Callable[[str], Path], start: Callable[..., Target], tmp_path: Path, reader: str
) -> None:
    words = ("sh", "-c", IN_A_CONTAINER, "sh", tmp_path, build("threads"))
    target = start("unshare", "--mount", *words)
    wait_until_asleep(target.pid)
    assert not (tmp_path / "inside").exists()
    workers, main = asked("--exe", tmp_path / "inside", "--with", reader)["stacks"]
    assert (workers["count"], main["count"]) == (2, 1)
    assert of_target(workers, "native", target) == target.truth["functions"]


def test_python(start: Callable[..., Target]) -> None:
    target = start("/usr/bin/python3", TARGETS / "frames.py", 3)
    wait_until_asleep(target.pid)
    workers, main = asked(target.pid)["stacks"]
    assert (workers["count"], main["count"]) == (3, 1)
    assert list(workers["frames"]) == ["python", "native"]
    names = functions(workers, "python")
    assert names[:3] == target.truth["functions"]
    assert functions(main, "python") == ["<module>"]
    path, _, line = workers["frames"]["python"][0]["source"].rpartition(":")
    assert (path, line) == (str(TARGETS / "frames.py"), "28")
    again = start("/usr/bin/python3", TARGETS / "frames.py", 3)
    for form in ((), ("--json",)):
        assert "  Python\n" in assert_equal_texts(target, again, *form) or form
    # Its memory is not copied if that is not allowed.
    result = gcorefs("stacks", target.pid, "--heap", 1)
    assert result.returncode == 0
    assert re.fullmatch(
        rf"process {target.pid}: frames of Python need a copy of up to \d+ MiB of its memory, and "
        r"--heap allows 1\n",
        result.stderr.decode(),
    )
    assert b"  Python\n" not in result.stdout


@pytest.fixture(scope="module")
def goroutines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program in Go."""
    folder = tmp_path_factory.mktemp("go")
    program = folder / "goroutines"
    settings = {"GO111MODULE": "off", "GOPROXY": "off", "GOFLAGS": "", "GOCACHE": str(folder)}
    subprocess.run(
        ["go", "build", "-gcflags=-N -l", "-o", program, TARGETS / "goroutines.go"],
        env={**os.environ, **settings},
        check=True,
        timeout=100,
    )
    return program


def test_go(start: Callable[..., Target], goroutines: Path) -> None:
    target = start(goroutines, 5)
    found = asked(target.pid)
    first = found["goroutines"][0]
    assert (first["count"], first["names"]) == (5, {"chan receive": 5})
    names = [f"main.{name}" for name in target.truth["functions"]]
    shown = [each for each in functions(first, "go") if each in names]
    assert shown == names
    (locked,) = (each for each in found["goroutines"] if "syscall.Read" in functions(each, "go")
                 and "main.inner" in functions(each, "go"))  # fmt: skip
    assert locked["count"] == 1
    assert any("main.inner" in functions(each, "native") for each in found["stacks"])


def test_java(start: Callable[..., Target]) -> None:
    target = start("java", "-Xmx64m", TARGETS / "Monitors.java", 4)
    found = asked(target.pid)
    of_java = [each for each in found["stacks"] if "java" in each["frames"]]
    (entry,) = (each for each in of_java if "Monitors.inner" in functions(each, "java"))
    assert (entry["count"], [*entry["names"]]) == (4, target.truth["threads"])
    names = [f"Monitors.{name}" for name in target.truth["functions"]]
    assert [each for each in functions(entry, "java") if each in names] == names


BROKEN = """#!/bin/sh
echo warning >&2
echo "  Error: it is broken" >&2
echo "  at a place" >&2
exit 2
"""


def test_what_is_not_installed_is_named(
    spawn: Spawn, start: Callable[..., Target], goroutines: Path, tmp_path: Path
) -> None:
    python = start("/usr/bin/python3", TARGETS / "frames.py", 1)
    go, java = start(goroutines, 1), spawn("mapper")
    (tmp_path / "libjvm.so").write_bytes(bytes(4096))
    java.ask(f"map {tmp_path}/libjvm.so 4096 0")
    target = spawn("threads", 1)
    for name in ("eu-stack",):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    # An interpreter without pystack beside it.
    alone = {"PATH": str(tmp_path)}
    code = "import sys; sys.executable = '/nowhere/python'; from gcorefs.cli import main; main()"
    command = [sys.executable, "-c", code, "stacks"]
    result = run(*command, python.pid, go.pid, java.pid, target.pid, env=alone)
    assert result.returncode == 0
    assert result.stderr.decode().splitlines() == [
        f"{reader} is not installed; it would show the frames of {language} ({how})"
        for reader, language, how in (
            ("pystack", "Python", "pipx install pystack"),
            ("dlv", "Go", "apt install delve"),
            ("jhsdb", "Java", "apt install default-jdk-headless, or the JDK of the program"),
        )
    ]
    assert_refused(run(*command, target.pid, "--with", "gdb", env=alone), "gdb is not installed")
    (tmp_path / "eu-stack").unlink()
    assert_refused(
        run(*command, target.pid, env=alone),
        "no reader of stacks is installed: apt install elfutils (eu-stack), or gdb",
    )
    (tmp_path / "eu-stack").write_text(BROKEN)
    (tmp_path / "eu-stack").chmod(0o755)
    assert_refused(
        run(*command, target.pid, env=alone),
        f"process {target.pid}: eu-stack failed with status 2: Error: it is broken",
    )


def test_what_a_reader_quotes_of_a_process_sends_nothing_to_the_terminal(
    spawn: Spawn, tmp_path: Path
) -> None:
    """A process chooses the names in a library of its own, and jhsdb(1) quotes them."""
    reader, library = tmp_path / "jhsdb", tmp_path / "libjvm.so"
    reader.write_text("#!/bin/sh\nprintf 'error: \\033]0;title\\007\\n' >&2; exit 1\n")
    reader.chmod(0o755)
    library.write_bytes(bytes(4096))
    target = spawn("mapper")
    target.ask(f"map {library} 4096 0")
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    result = gcorefs("stacks", target.pid, env=os.environ | path)
    assert result.returncode == 0
    assert b"jhsdb failed with status 1: error: \\x1b]0;title\\x07\n" in result.stderr
    assert b"\x1b" not in result.stdout + result.stderr
