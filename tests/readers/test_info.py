"""`gcorefs info` of cores by other dumpers: the kernel's and gdb's."""

import json
import os
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import GCOREFS, TARGETS, Target, text_of, wait_until_asleep, wait_until_gone
from tests.readers.corefile import Core


def info(*words: object) -> str:
    command = [GCOREFS, "info", *map(str, words)]
    result = subprocess.run(
        text_of(command), capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stderr == ""
    return result.stdout


def assert_says_what_is_in_it(path: Path, target: Target) -> dict[str, Any]:
    """For every segment of pyelftools: how much of it is in the file, and how much is not."""
    core = Core(path)
    facts: dict[str, Any] = json.loads(info("--json", path))
    assert facts["gcorefs"] is None
    assert (facts["program"], facts["pid"], facts["threads"]) == ("threads", target.pid, 4)
    assert (facts["size"], facts["missing"]) == (path.stat().st_size, 0)
    assert [
        (int(row["start"], 16), int(row["end"], 16), row["in_file"], row["left_out"], row["zeros"])
        for row in facts["mappings"]
    ] == [(load.vaddr, load.end, load.filesz, load.memsz - load.filesz, 0) for load in core.loads]
    names = {row["name"] for row in facts["mappings"]}
    assert {"[stack]", "[vdso]", os.path.realpath(target.argv[0])} <= names
    assert sum(row["in_file"] for row in facts["mappings"]) == facts["bytes"]["in_file"]
    lines = info(path).splitlines()
    assert "made by   unknown: no GCOREFS note" in lines
    assert any(line.endswith("libc.so.6") for line in lines)
    return facts


def test_the_kernel_s_core(spawn: Callable[..., Target], core_pattern: Path) -> None:
    target = spawn("threads", 3)
    resource.prlimit(target.pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
    os.kill(target.pid, signal.SIGABRT)
    wait_until_gone(target.pid)
    path = Path(f"{core_pattern}.{target.pid}")
    assert assert_says_what_is_in_it(path, target)["signal"] == signal.SIGABRT
    assert "signal    6 (SIGABRT)" in info(path).splitlines()


def test_gdb_s_core(spawn: Callable[..., Target], tmp_path: Path) -> None:
    target = spawn("threads", 3)
    command = ["gcore", "-o", str(tmp_path / "core"), str(target.pid)]
    subprocess.run(command, capture_output=True, check=True, timeout=60)
    assert_says_what_is_in_it(tmp_path / f"core.{target.pid}", target)


def test_the_kernel_s_core_of_a_32_bit_process(core_pattern: Path, tmp_path: Path) -> None:
    program = tmp_path / "elf32"
    subprocess.run(["as", "--32", "-o", f"{program}.o", TARGETS / "elf32.s"], check=True)
    subprocess.run(["ld", "-m", "elf_i386", "-o", program, f"{program}.o"], check=True)
    with subprocess.Popen([program]) as process:
        wait_until_asleep(process.pid)
        resource.prlimit(process.pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
        process.send_signal(signal.SIGABRT)
    facts = json.loads(info("--json", f"{core_pattern}.{process.pid}"))
    assert (facts["bits"], facts["machine"], facts["signal"]) == (32, "x86", signal.SIGABRT)
    assert (facts["program"], facts["pid"], facts["threads"]) == ("elf32", process.pid, 1)
    assert str(program) in {row["name"] for row in facts["mappings"]}
