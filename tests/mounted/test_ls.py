"""`gcorefs ls`: what can be taken and what it would cost, without a stop."""

import json
import os
import re
from collections.abc import Callable
from typing import Any

import pytest

from gcorefs.kernel.proc import task_stat, tasks
from tests.conftest import GCOREFS, Target, switches, wait_until_asleep
from tests.mounted.conftest import AS_NOBODY, gcorefs, run

Spawn = Callable[..., Target]


def listed(*words: object) -> dict[int, dict[str, Any]]:
    """By pid."""
    result = gcorefs("ls", "--json", *words)
    assert (result.returncode, result.stderr) == (0, b"")
    rows = json.loads(result.stdout)
    assert [row["pid"] for row in rows] == [*dict.fromkeys(row["pid"] for row in rows)]
    return {row["pid"]: row for row in rows}


def test_it_shows_every_process_and_stops_nobody(
    spawn: Spawn, strace: Callable[[int], int]
) -> None:
    target, traced = spawn("threads", 20), spawn("threads", 1)
    tracer = strace(traced.pid)
    wait_until_asleep(target.pid)
    before = switches(target.pid)
    found = listed()
    assert switches(target.pid) == before  # a stop would have woken each thread
    assert [*found] == sorted(found)
    assert os.getpid() in found
    assert not any(task_stat.stat(pid).is_kernel_thread for pid in found if _lives(pid))
    row, held = found[target.pid], found[traced.pid]
    assert (row["name"], row["threads"], row["refused"]) == ("threads", 21, None)
    assert row["stop_seconds"] > 0
    assert (held["stop_seconds"], held["threads"]) == (None, 2)
    assert held["refused"].endswith(f"(TracerPid {tracer})")
    # Nobody needs to be stopped for a glance.
    glance = listed(traced.pid, "--policy", "@glance")[traced.pid]
    assert (glance["stop_seconds"], glance["refused"]) == (0.0, None)


def _lives(pid: int) -> bool:
    return pid in tasks.pids()


@pytest.mark.parametrize("policy", ["memory=filter", "@threads"])
def test_the_size_is_at_least_that_of_the_core(spawn: Spawn, policy: str) -> None:
    target = spawn("threads", 20)
    size = listed(target.pid, "--policy", policy)[target.pid]["size"]
    core = gcorefs("dump", target.pid, "--policy", policy).stdout
    # Any of 16 threads may have the bitmap of ioperm(2), which nothing outside of it shows.
    assert len(core) <= size <= 4 * len(core) + 16 * (8 << 10)


def test_the_table_says_why_there_is_no_core(spawn: Spawn) -> None:
    target = spawn("threads", 1)
    head, row = gcorefs("ls", target.pid).stdout.decode().splitlines()
    assert head.split() == ["PID", "NAME", "THREADS", "SIZE", "STOP", "WHY", "NOT"]
    size, time = r"[\d.]+ [KM]iB", r"[\d.]+ ms"
    assert re.fullmatch(rf" *{target.pid}  threads +2  {size}  {time} *", row), row
    result = run(*AS_NOBODY, GCOREFS, "ls", target.pid)
    line = result.stdout.decode().splitlines()[-1]
    assert result.returncode == 0
    assert "  the kernel does not allow the opener to trace it" in line


def test_a_target_without_a_process_is_told(spawn: Spawn) -> None:
    target = spawn("threads", 1)
    result = gcorefs("ls", target.pid, 1 << 22, "--json")
    assert result.returncode == 1
    assert result.stderr.decode().startswith(f"Error: process {1 << 22}: there is no such process")
    assert [row["pid"] for row in json.loads(result.stdout)] == [target.pid]
