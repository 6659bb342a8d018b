"""@gentle (stop=gentle), and what BPF adds to @glance: all registers of threads that sleep."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gcorefs.kernel.proc import task_stat, tasks
from tests.conftest import Mount, Target, switches, wait_until_asleep
from tests.features import needs_bpf_registers
from tests.mounted.conftest import eventually, gcorefs, is_free, note_of, opened, whole
from tests.readers.corefile import Core
from tests.readers.debuggers import gdb_threads

Spawn = Callable[..., Target]
RESULTS = {"registers": "rax", "registers32": "eax"}


def assert_only(facts: dict[str, dict[str, object]], how: str, tids: set[int]) -> None:
    counts = {"stopped": 0, "partial": 0, "zero": 0, "omitted": 0, how: len(tids)}
    assert facts["threads"] == counts
    assert facts["tids"] == {how: sorted(tids)}


@pytest.mark.parametrize("profile", ["@gentle", "@glance", "@glance,hold=copy"])
@pytest.mark.parametrize("program", RESULTS)
def test_a_thread_that_sleeps_has_all_its_registers(
    program: str, profile: str, spawn: Spawn, mount: Mount, tmp_path: Path
) -> None:
    needs_bpf_registers()
    target = spawn(program, 3, "blocked")
    wait_until_asleep(target.pid)
    before = switches(target.pid)
    path = tmp_path / "asleep"
    path.write_bytes((mount.path / profile / str(target.pid)).read_bytes())
    eventually(lambda: is_free(target.pid))
    assert switches(target.pid) == before
    assert_only(note_of(path.read_bytes()), "blocked-exact", set(tasks.tids(target.pid)))
    stopped = tmp_path / "stopped"
    stopped.write_bytes((mount / target.pid).read_bytes())
    asleep, result = Core(path), RESULTS[program]
    for tid, thread in Core(stopped).threads.items():
        found = asleep.threads[tid]
        assert found.regsets == thread.regsets
        assert {**found.status, result: 0} == {**thread.status, result: 0}


@pytest.mark.parametrize("option", ["bpf=auto", "bpf=off"])
def test_nobody_is_woken(option: str, spawn: Spawn, mount_with: Callable[..., Mount]) -> None:
    mount = mount_with(option)
    target = spawn("threads", 20)
    wait_until_asleep(target.pid)
    before = switches(target.pid)
    for profile in ("@gentle", "@gentle,hold=stop", "@stacks,stop=gentle", "@all,stop=gentle"):
        with opened(mount.path / profile / str(target.pid)) as fd:
            assert whole(fd)
            assert os.getxattr(fd, "user.gcorefs.threads.woken") == b"0"
        eventually(lambda: is_free(target.pid))
    assert switches(target.pid) == before
    assert target.ask("ping") == {"pong": 1}


def test_one_that_wakes_during_the_hold_is_counted(spawn: Spawn, mount: Mount) -> None:
    target = spawn("threads", 3)
    wait_until_asleep(target.pid)
    with opened(mount.path / "@gentle,hold=stop" / str(target.pid)) as fd:
        assert whole(fd)
        target.tell("ping")
        eventually(lambda: task_stat.stat(target.pid, target.pid).state == "t")
        assert os.getxattr(fd, "user.gcorefs.threads.woken") == b"1"
    assert target.line() == {"pong": 1}


@pytest.mark.parametrize("profile", ["@gentle", "@gentle,hold=stop", "@threads"])
def test_a_stop_of_all_threads_serves_a_lesser_one(
    profile: str, spawn: Spawn, mount: Mount
) -> None:
    target = spawn("threads", 3)
    with opened(mount / target.pid) as fd:
        facts = note_of(whole(fd))
        other = note_of((mount.path / profile / str(target.pid)).read_bytes())
        assert other["stopped_at"] == facts["stopped_at"]
        assert other["threads"] == facts["threads"]
        assert other["policy"]["stop"] == "all"
    eventually(lambda: is_free(target.pid))


def test_a_gentle_stop_that_is_held_serves_no_stop_of_all(
    spawn: Spawn, mount_with: Callable[..., Mount]
) -> None:
    mount = mount_with("max_stop=1")
    target = spawn("threads", 3)
    wait_until_asleep(target.pid)
    with opened(mount.path / "@gentle,hold=stop" / str(target.pid)) as fd:
        assert whole(fd)
        mount.expect("it was stopped for 1 s")
        # It waits until the other is let go.
        assert note_of((mount / target.pid).read_bytes())["threads"]["stopped"] == 4
    assert target.ask("ping") == {"pong": 1}


def test_a_thread_that_runs_is_stale_without_a_stop(mount: Mount, tmp_path: Path) -> None:
    needs_bpf_registers()
    with subprocess.Popen(["/bin/sh", "-c", "while :; do :; done"]) as process:
        try:
            eventually(lambda: task_stat.stat(process.pid).utime > 0)
            facts = note_of((mount.path / "@glance" / str(process.pid)).read_bytes())
        finally:
            process.kill()
    assert_only(facts, "stale", {process.pid})


def test_gdb_shows_the_same_backtraces(spawn: Spawn, mount: Mount, tmp_path: Path) -> None:
    needs_bpf_registers()
    target = spawn("threads", 3)
    wait_until_asleep(target.pid)
    found = []
    for number, profile in enumerate(("@glance", "@gentle", "@all")):
        path = tmp_path / str(number)
        path.write_bytes((mount.path / profile / str(target.pid)).read_bytes())
        found.append(gdb_threads(target.argv[0], path, "--", "thread apply all bt"))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 4


@pytest.mark.parametrize("policy", ["@gentle", "@glance", "@threads"])
def test_a_dump_does_the_same(policy: str, spawn: Spawn, tmp_path: Path) -> None:
    needs_bpf_registers()
    target = spawn("registers", 3, "blocked")
    wait_until_asleep(target.pid)
    path = tmp_path / "core"
    result = gcorefs("dump", target.pid, "-o", path, "--policy", policy)
    assert (result.returncode, result.stderr) == (0, b"")
    how = "stopped" if policy == "@threads" else "blocked-exact"
    assert note_of(path.read_bytes())["threads"][how] == 4
    text = gcorefs("info", path).stdout.decode()
    assert f"4 ({4} {how})" in text
