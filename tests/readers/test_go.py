"""delve on the core of a Go program: its threads, the stacks and variables of its goroutines, its
memory."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gcorefs.kernel.proc import tasks
from tests.conftest import TARGETS, Target
from tests.readers.debuggers import run


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """goroutines.go, compiled so that delve finds its variables (-N -l)."""
    folder = tmp_path_factory.mktemp("go")
    # One file and the standard library: no module, and no download.
    settings = {"GO111MODULE": "off", "GOPROXY": "off", "GOFLAGS": "", "GOCACHE": str(folder)}
    subprocess.run(
        ["go", "build", "-gcflags=-N -l", "-o", folder / "goroutines", TARGETS / "goroutines.go"],
        env={**os.environ, **settings},
        check=True,
        timeout=100,
    )
    return folder / "goroutines"


def delve(program: Path, core: Path, folder: Path, *commands: str) -> str:
    script = folder / "commands"
    script.write_text("\n".join([*commands, "exit"]) + "\n")
    words = ("--allow-non-terminal-interactive=true", "--check-go-version=false", "--init", script)
    # Newer ones colour what they print, unless the terminal cannot show it.
    out, err = run("env", "TERM=dumb", "dlv", "core", program, core, *words)
    assert err == ""
    return out


def test_delve_lists_the_threads(
    program: Path,
    start: Callable[..., Target],
    core_file: Callable[[int], Path],
    tmp_path: Path,
) -> None:
    target = start(program, 5)
    out = delve(program, core_file(target.pid), tmp_path, "threads")
    found = re.findall(r"^[ *] Thread (\d+) at ", out, re.MULTILINE)
    assert sorted(map(int, found)) == sorted(tasks.tids(target.pid))


def test_delve_shows_stacks_and_variables_of_every_goroutine(
    program: Path,
    start: Callable[..., Target],
    core_file: Callable[[int], Path],
    tmp_path: Path,
) -> None:
    target = start(program, 5)
    goroutines = target.truth["goroutines"]
    commands = [f"goroutine {goroutine['id']} stack 20 -full" for goroutine in goroutines]
    out = delve(program, core_file(target.pid), tmp_path, *commands)
    stacks = re.split(r"^ *0  0x", out, flags=re.MULTILINE)[1:]
    assert len(stacks) == len(goroutines)
    names = "|".join(target.truth["functions"])
    for goroutine, stack in zip(goroutines, stacks, strict=True):
        frames = re.findall(rf" in main\.({names})$", stack, re.MULTILINE)
        assert frames == target.truth["functions"]
        for function, value in goroutine["canaries"].items():
            assert f" {function}Canary = {value}\n" in stack


def test_delve_knows_which_thread_a_goroutine_runs_on(
    program: Path,
    start: Callable[..., Target],
    core_file: Callable[[int], Path],
    tmp_path: Path,
) -> None:
    target = start(program, 5)
    out = delve(program, core_file(target.pid), tmp_path, "goroutines")
    found = {
        int(number): int(tid or 0)
        for number, tid in re.findall(
            r"^[ *] Goroutine (\d+) - .*?(?: \(thread (\d+)\))?(?: \[.*\])?$", out, re.MULTILINE
        )
    }
    for goroutine in target.truth["goroutines"]:
        assert found[goroutine["id"]] == goroutine["tid"]


def test_delve_reads_memory(
    program: Path,
    start: Callable[..., Target],
    core_file: Callable[[int], Path],
    tmp_path: Path,
) -> None:
    target = start(program, 1)
    memory = target.truth["memory"]
    command = f"examinemem -fmt hex -size 8 -count {len(memory['words'])} {memory['address']}"
    out = delve(program, core_file(target.pid), tmp_path, command)
    rows = re.findall(r"^0x[0-9a-f]+:(.*)$", out, re.MULTILINE)
    assert [int(word, 16) for row in rows for word in row.split()] == memory["words"]
