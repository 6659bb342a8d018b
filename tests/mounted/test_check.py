"""`gcorefs check`: what works on this machine, and why a target has no core."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gcorefs.checkup.target import POLICIES
from gcorefs.kernel.proc import task_stat, task_status
from gcorefs.process.threads import NoThread
from tests.cgroups import Freezer, memory_group
from tests.conftest import GCOREFS, Mount, Target, switches, wait_until_asleep
from tests.mounted.conftest import (
    AS_NOBODY,
    NOBODY,
    assert_refused,
    eventually,
    gcorefs,
    opened,
    run,
)

Spawn = Callable[..., Target]


def lines(result: "subprocess.CompletedProcess[bytes]", status: int = 0) -> list[str]:
    assert (result.returncode, result.stderr) == (status, b""), result
    return result.stdout.decode().splitlines()


def line(found: list[str], mark: str, topic: str) -> str:
    """The fact and the step of the only line with this mark and topic."""
    start = f"{mark:8} {topic:13} "
    (text,) = (each.removeprefix(start) for each in found if each.startswith(start))
    return text


def test_this_machine_and_a_target_that_is_not_stopped(spawn: Spawn) -> None:
    target = spawn("threads", 20)
    wait_until_asleep(target.pid)
    before = switches(target.pid)
    found = lines(gcorefs("check", target.pid))
    assert switches(target.pid) == before
    machine, found = found[: found.index("")], found[found.index("") + 1 :]
    assert all(re.fullmatch(r"(ok|note) +\S+ +\S.*", each) for each in machine), machine
    assert line(machine, "ok", "FUSE") == "/dev/fuse can be opened"
    assert line(machine, "ok", "ptrace") == "ptrace(2) works on a child of ours"
    assert line(machine, "ok", "capabilities") == "all that gcorefs uses are there"
    assert found[0] == f"process {target.pid} (threads), 21 threads"
    assert line(found, "ok", "core") == "nothing is known that forbids one"
    cost = r"[\d.]+ [KM]iB; it stands still for about [\d.]+ ms"
    assert re.fullmatch(cost, line(found, "ok", "hold=stop"))
    assert line(found, "ok", "take") == (
        "--policy hold=stop: it is the simplest, and the process hardly stands still"
    )


def test_the_same_for_programs(spawn: Spawn) -> None:
    target = spawn("threads", 1)
    result = gcorefs("check", target.pid, "--json")
    assert (result.returncode, result.stderr) == (0, b""), result
    told: dict[str, Any] = json.loads(result.stdout)
    assert {each["mark"] for each in told["machine"]} <= {"ok", "note"}
    (row,) = told["targets"]
    assert (row["pid"], row["name"], row["threads"]) == (target.pid, "threads", 2)
    assert [each["policy"] for each in row["costs"]] == [*POLICIES]
    (listed,) = json.loads(gcorefs("ls", target.pid, "--json").stdout)
    stop = row["costs"][0]
    assert (stop["size"], stop["stop_seconds"]) == (listed["size"], listed["stop_seconds"])
    assert row["advice"]["policy"] == "hold=stop"
    assert row["findings"] == [
        {"topic": "core", "mark": "ok", "fact": "nothing is known that forbids one", "step": None}
    ]


def test_each_target_has_its_own_reason(spawn: Spawn, strace: Callable[[int], int]) -> None:
    target = spawn("threads", 1)
    tracer = strace(target.pid)
    with subprocess.Popen(["true"]) as child:
        eventually(lambda: task_stat.stat(child.pid).is_dead)
        result = gcorefs("check", target.pid, child.pid, 2)
    assert result.returncode == 1
    assert result.stderr == (
        b"Error: process 2: a kernel thread has no memory of its own; cat /proc/2/stack shows what "
        b"it does\n"
    )
    found = result.stdout.decode().splitlines()
    name = task_stat.stat(os.getpid()).comm.decode()
    assert found[found.index("") :] == [
        "",
        f"process {target.pid} (threads), 2 threads",
        "problem  core          another tracer holds it: detach that debugger first (TracerPid "
        f"{tracer}): strace; end that tracer; --policy @glance needs no stop",
        "",
        f"process {child.pid} (true)",
        "problem  core          it is a zombie: it has ended, has no memory, and process "
        f"{os.getpid()} ({name}) has not waited for it; look at that parent instead",
    ]


def test_another_users_process(spawn: Spawn) -> None:
    target = spawn("threads", 1)
    found = lines(run(*AS_NOBODY, GCOREFS, "check", target.pid), status=1)
    assert line(found, "problem", "core") == (
        "the kernel does not allow the opener to trace it "
        f"(/proc/{target.pid}/auxv: Permission denied): it belongs to uid 0, and you are uid "
        f"{NOBODY}; run it as root of the host, with CAP_SYS_PTRACE"
    )
    lost = [each for each in found if each.startswith("note     capabilities  no CAP_SYS_PTRACE: ")]
    assert lost == [
        "note     capabilities  no CAP_SYS_PTRACE: only your own processes can have a core, and of "
        "these none that is not dumpable or has more capabilities; run it as root"
    ]


def test_inside_a_pid_namespace() -> None:
    found = lines(run("unshare", "--pid", "--fork", "--mount-proc", GCOREFS, "check"))
    assert line(found, "note", "container") == (
        "we are in a pid namespace of our own: processes outside of it have no pid here; for those "
        "of the host: docker run --pid=host, hostPID: true, or nsenter -t PID -p -m"
    )


def test_with_the_proc_of_another_pid_namespace() -> None:
    assert lines(run("unshare", "--pid", "--fork", GCOREFS, "check"), status=1) == [
        "problem  /proc         /proc is not mounted, or is that of another pid namespace: no "
        "process can be found; mount -t proc proc /proc (unshare has --mount-proc for that)"
    ]


def test_limits_of_the_caller(spawn: Spawn) -> None:
    confined = ("prlimit", "--nofile=256", "--fsize=0", GCOREFS)
    found = lines(run(*confined, "check"), status=1)
    assert line(found, "note", "limits") == (
        "RLIMIT_NOFILE is 256: a mount holds fewer processes at one time; ulimit -Hn 65536, as root"
    )
    assert line(found, "problem", "limits") == (
        "RLIMIT_FSIZE is 0 bytes: gcorefs may write no file, not even in memory; "
        "ulimit -f unlimited"
    )
    # It is true: there is no dump.
    assert_refused(run(*confined, "dump", spawn("threads", 1).pid), "RLIMIT_FSIZE")


def test_a_filter_of_system_calls(spawn: Spawn, build: Callable[[str], Path]) -> None:
    target = spawn("threads", 1)
    found = lines(run(build("untracing"), GCOREFS, "check", target.pid), status=1)
    fact = (
        "ptrace(2) is denied even on a child of ours: Operation not permitted; allow ptrace in the "
        "seccomp filter (docker, podman: --cap-add SYS_PTRACE)"
    )
    assert line(found, "problem", "ptrace") == fact
    assert line(found, "problem", "core") == fact
    result = run(build("untracing"), GCOREFS, "dump", target.pid)  # it is true
    assert (result.returncode, result.stdout) == (1, b"")


def test_a_process_that_gcorefs_holds(spawn: Spawn, mount: Mount) -> None:
    target = spawn("threads", 1)
    with opened(mount / target.pid) as core:
        os.read(core, 1)
        tracer = task_status.tracer(target.pid, target.pid)
        found = lines(gcorefs("check", target.pid), status=1)
        dump = gcorefs("dump", target.pid, "-o", "-")
    held = f"gcorefs holds it already (TracerPid {tracer})"
    step = "gcorefs status shows who reads it, gcorefs release lets it go; a mount shares the stop"
    name = task_stat.stat(tracer).comm.decode()
    assert line(found, "problem", "core") == f"{held}: {name}; {step}"
    assert_refused(dump, f"process {target.pid}: {held}; {step}")


def test_a_control_group_with_a_limit() -> None:
    with memory_group() as group:
        group.limit(256 << 20)
        enter = ("sh", "-c", 'echo $$ > "$0" && exec "$@"', group.path / "cgroup.procs")
        found = lines(run(*enter, GCOREFS, "check"))
    notes = [each for each in found if each.startswith("note     memory ")]
    step = "take it with --hold precopy -o FILE, or with --spool DIR"
    wanted = (
        rf"note     memory        \d+ MiB are available, \d+ MiB of swap free: a copy may take "
        rf"(\d+) MiB, less than copy_limit \(\d+ MiB\); {step}",
        rf"note     memory        our control group may have 256 MiB, and (\d+) MiB are left; for "
        rf"a larger process, {step}",
    )
    matches = [re.fullmatch(pattern, each) for pattern, each in zip(wanted, notes, strict=True)]
    fits, left = (int(match[1]) for match in matches if match is not None)
    assert 0 < fits <= left - 16 < 256


def test_a_control_group_that_is_frozen(spawn: Spawn) -> None:
    target, freezer = spawn("threads", 1), Freezer("v2")
    try:
        freezer.add(target.pid)
        freezer.freeze()
        found = lines(gcorefs("check", target.pid))
    finally:
        freezer.remove()
    assert line(found, "note", "core") == (
        "its control group is frozen: it goes on when that is thawed"
    )


def with_proc(options: str, *command: object) -> "subprocess.CompletedProcess[bytes]":
    """Run a command with a /proc of its own that has these options."""
    script = f'mount -t proc -o {options} proc /proc && exec "$@"'
    return run("unshare", "--mount", "sh", "-c", script, "-", *command)


def test_options_of_proc(spawn: Spawn) -> None:
    target = spawn("threads", 1)
    found = lines(with_proc("subset=pid", GCOREFS, "check", target.pid))
    assert line(found, "note", "/proc") == (
        "subset=pid hides meminfo, locks and sys: leases are not known, so a memfd is read like "
        "any other memory; a copy must fit into memory that is unused now; mount /proc without "
        "subset=pid for gcorefs"
    )
    result = with_proc("hidepid=2", *AS_NOBODY, GCOREFS, "check", target.pid)
    assert line(result.stdout.decode().splitlines(), "note", "/proc") == (
        "hidepid=invisible hides processes that you may not trace; run it as root"
    )
    assert result.returncode == 1
    assert "see hidepid= in proc(5)" in result.stderr.decode()


@pytest.mark.parametrize("words", ["check", "ls", "stacks 1", "dump 1 -o /dev/null", "info 1"])
def test_no_further_process_or_thread_is_one_line(words: str) -> None:
    result = run(*AS_NOBODY, "prlimit", "--nproc=1", GCOREFS, *words.split())
    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr.decode() == f"Error: {NoThread().strerror}\n"
