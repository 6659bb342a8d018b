"""A process that is made to fork a child for its memory (hold=fork) is otherwise left as it was."""

import contextlib
import ctypes
import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcorefs.arch import HOST
from gcorefs.hold.copy import Copy
from gcorefs.hold.forked import HoldFork
from gcorefs.hold.room import Room
from gcorefs.kernel.proc import task_status, tasks
from gcorefs.policy import Policy
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.threads import NoThread
from gcorefs.steps import Step
from gcorefs.tuning import Tuning
from tests.cgroups import Freezer
from tests.conftest import Target, wait_until_asleep
from tests.mounted.conftest import eventually
from tests.snapshot import Snapshot, find

Spawn = Callable[..., Target]
Tune = Callable[[Tuning], None]

pytestmark = pytest.mark.skipif(
    HOST.native.injected is None, reason="no call is made in a process of this machine"
)

ALL = 4 << 30
FORK = Policy(hold="fork", stop_timeout=60.0)
AS_BEFORE = {"sigchld": 0, "wait": errno.ECHILD, "mask": 0}
TIMES = [5, pytest.param(200, marks=pytest.mark.full)]


@contextlib.contextmanager
def forked(pid: int, policy: Policy = FORK, room: int = ALL) -> Iterator[Snapshot]:
    """A process that stands still, and has a child for its memory if it can be forked."""
    # An old kernel lets no thread in user mode be used (ptrace(2), 6.4), and after its last answer
    # the first thread may be on its way to the next command.
    eventually(lambda: state(pid) in "ST")
    holder = HoldFork(lambda: Copy(Room(room)))
    snapshot = Snapshot(find(pid), policy=policy, holder=holder)
    try:
        snapshot.take()
        yield snapshot
    finally:
        snapshot.close()


def held(snapshot: Snapshot) -> tuple[str, str]:
    """How it is held, and why not as it should be."""
    facts = snapshot.holder.facts()
    assert facts["hold"] == "fork"
    return facts["held"], facts.get("held_why", "")


def let_go(snapshot: Snapshot) -> bytes:
    """Let the process run on.  Returns its core as it was in the stop."""
    whole = snapshot.read(0, snapshot.size)
    snapshot.copy()
    assert snapshot.is_copied
    snapshot.stop.wait_untraced()
    return whole


def children(pid: int) -> list[int]:
    """The children that have a process as their parent, however they came to be."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            number, _, rest = (each / "stat").read_text().partition(" (")
            if rest.rpartition(") ")[2].split()[1] == str(pid):
                found.append(int(number))
    return found


def pin(pid: int) -> None:
    """Let a process have one processor.  The kernel writes its number into struct rseq of a thread
    that has moved to another one, and the calls after the fork would be made on any."""
    for tid in tasks.tids(pid):
        os.sched_setaffinity(tid, {min(os.sched_getaffinity(0))})


@pytest.fixture
def start(spawn: Spawn, tmp_path: Path) -> Callable[..., Target]:
    def started(mode: str, program: str = "forked") -> Target:
        target = spawn(program, mode, tmp_path / "lock")
        pin(target.pid)
        return target

    return started


PROGRAMS = ["forked", "forked32"]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("mode", ["plain", "subreaper", "filtered", "busy"])
def test_every_byte_is_that_of_the_stop(start: Spawn, program: str, mode: str) -> None:
    target = start(mode, program)
    with forked(target.pid) as snapshot:
        assert held(snapshot) == ("fork", "")
        whole = let_go(snapshot)
        assert target.ask("write")["sum"] != target.truth["sum"]
        assert snapshot.read(0, snapshot.size) == whole
        for offset in range(0, snapshot.size - 5000, 99_991):
            assert snapshot.read(offset, 5000) == whole[offset : offset + 5000]
    assert target.ask("look") == AS_BEFORE
    assert children(target.pid) == []


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("mode", ["plain", "subreaper", "filtered", "busy"])
def test_nothing_of_it_is_left(start: Spawn, mode: str, times: int) -> None:
    target = start(mode)
    before = signals(target)
    for _ in range(times):
        with forked(target.pid) as snapshot:
            assert held(snapshot) == ("fork", "")
            let_go(snapshot)
            if mode != "subreaper":  # wait4(2) with __WALL shows a child without an exit signal
                assert target.ask("look") == AS_BEFORE
        assert children(target.pid) == []
    assert target.ask("look") == AS_BEFORE
    if mode != "filtered":
        assert target.ask("fork") == {"status": 7}
    if mode == "busy":
        assert target.ask("turns")["turns"]
    assert signals(target) == before


def signals(target: Target) -> list[str]:
    """The signals of the process (proc_pid_status(5)); SigQ counts those of all its user."""
    status = Path(f"/proc/{target.pid}/status").read_text().splitlines()
    return [each for each in status if each.startswith(("SigP", "SigB", "SigI", "SigC", "Shd"))]


def test_it_holds_no_file_of_the_process(start: Spawn, tmp_path: Path) -> None:
    target = start("plain")
    with forked(target.pid) as snapshot, (tmp_path / "lock").open() as file:
        let_go(snapshot)
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert target.ask("close") == {"eof": True}
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_first_process_of_a_namespace(start: Spawn, build: Callable[[str], Path]) -> None:
    """An orphan would become its child there."""
    target = Target(
        ["unshare", "--pid", "--fork", "--mount-proc", str(build("forked")), "plain", "/dev/null"]
    )
    try:
        (pid,) = children(target.popen.pid)
        assert target.pid == 1
        pin(pid)
        for _ in range(3):
            with forked(pid) as snapshot:
                assert held(snapshot) == ("fork", "")
                whole = let_go(snapshot)
                target.ask("write")
                assert snapshot.read(0, snapshot.size) == whole
            assert children(pid) == []
            assert target.ask("look") == AS_BEFORE
        assert target.ask("fork") == {"status": 7}
    finally:
        target.kill()


FIRST = """
import os, signal, subprocess, sys

def reap(*_):
    while os.waitpid(-1, os.WNOHANG)[0]:
        pass

child = subprocess.Popen(sys.argv[2:])
if sys.argv[1] == "reaps":
    signal.signal(signal.SIGCHLD, reap)
while True:
    signal.pause()
"""
"""The first process of a pid namespace."""


@pytest.mark.parametrize("first", ["reaps", "waits for nobody"])
def test_the_first_process_of_a_namespace_gets_orphans(
    build: Callable[[str], Path], first: str
) -> None:
    """One that waits for nobody would keep a zombie."""
    words = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    words += [sys.executable, "-c", FIRST, first, str(build("forked")), "plain", "/dev/null"]
    target = Target(words)
    try:
        (init,) = children(target.popen.pid)
        (pid,) = children(init)
        if first == "reaps":
            eventually(lambda: catches_sigchld(init))
        for _ in range(3):
            with forked(pid) as snapshot:
                assert held(snapshot) == ("fork", "")
                let_go(snapshot)
                assert len(children(pid)) == (first != "reaps")
            eventually(lambda: children(init) == [pid])
            assert children(pid) == []
        assert target.ask("look") == AS_BEFORE
    finally:
        target.kill()


def catches_sigchld(pid: int) -> bool:
    return bool(int(task_status.status(pid)["SigCgt"], 16) & 1 << (signal.SIGCHLD - 1))


def test_a_process_that_ends_leaves_its_memory(start: Spawn) -> None:
    target = start("plain")
    with forked(target.pid) as snapshot:
        whole = let_go(snapshot)
        target.kill()
        assert snapshot.read(0, snapshot.size) == whole


def test_a_child_that_was_killed_is_an_error(start: Spawn) -> None:
    target = start("plain")
    with forked(target.pid) as snapshot:
        let_go(snapshot)
        child = forked_child(target)
        os.kill(child, signal.SIGKILL)
        eventually(lambda: state(child) in "ZX")
        with pytest.raises(ProcessError) as caught:
            snapshot.read(0, snapshot.size)
        assert caught.value.reason is Reason.CHILD_GONE
    assert target.ask("look") == AS_BEFORE


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):  # it is reaped before or after the open
        return "X"


def forked_child(target: Target) -> int:
    """The process with the same program that this process traces."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            status = dict(
                line.split(":\t", 1) for line in (each / "status").read_text().splitlines()
            )
            is_ours = Path(f"/proc/self/task/{status['TracerPid']}").exists()
            if is_ours and status["Name"] == "forked" and int(each.name) != target.pid:
                found.append(int(each.name))
    (pid,) = found
    return pid


def test_a_process_reaps_its_child_when_it_can_be_stopped(start: Spawn, tune: Tune) -> None:
    """There may be no thread for the second stop at first."""
    target = start("subreaper")
    failures = [NoThread(), NoThread()]

    def refuse(step: Step, pid: int) -> None:
        if (step, pid) == (Step.STARTING, target.pid) and failures:
            raise failures.pop()

    with forked(target.pid) as snapshot:
        let_go(snapshot)
        tune(Tuning(reach=refuse))
    assert (failures, children(target.pid)) == ([], [])
    assert target.ask("look") == AS_BEFORE


FROZEN = """
import sys
import gcorefs
with gcorefs.stop(int(sys.argv[1]), gcorefs.Policy(hold="fork")) as stop:
    core = stop.core()
    print(core.facts["policy"]["held"], flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_a_process_that_is_frozen_makes_no_more_calls(start: Spawn, kind: str) -> None:
    """It cannot reap the child.  Its thread has its own registers when the program ends."""
    target = start("subreaper")
    eventually(lambda: state(target.pid) == "S")
    freezer = Freezer(kind)
    try:
        freezer.add(target.pid)
        command = [sys.executable, "-c", FROZEN, str(target.pid)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as program:
            assert program.stdout is not None
            assert program.stdout.readline() == b"fork\n"
            freezer.freeze()
            assert program.communicate(b"\n") == (b"", b"")
        freezer.thaw()
        look = target.ask("look")
        assert (look["mask"], look["sigchld"]) == (0, 0)
    finally:
        freezer.remove()


WITHOUT_ROOT = """
import os, sys
import gcorefs
with gcorefs.stop(int(sys.argv[1]), gcorefs.Policy(hold="fork")) as stop:
    core = stop.core()
    assert core.facts["policy"]["held"] == "fork"
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
print("ended", flush=True)
sys.stdin.read()
"""


def test_a_program_that_gives_up_root_leaves_no_child(start: Spawn) -> None:
    """It may not kill the child any more, but the kernel does when its tracer ends."""
    target = start("plain")
    eventually(lambda: state(target.pid) == "S")
    before = relatives(target.pid)
    command = [sys.executable, "-c", WITHOUT_ROOT, str(target.pid)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"ended\n"
        eventually(lambda: relatives(target.pid) <= before)
        assert program.communicate() == (b"", b"")
    assert target.ask("write")


def relatives(pid: int) -> set[int]:
    """The processes with the arguments of this one, which run or stand still."""
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
    found = set()
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (each / "cmdline").read_bytes() == arguments and state(int(each.name)) not in "ZX":
                found.add(int(each.name))
    return found


@pytest.mark.parametrize("mode, space", [("elsewhere", "pid"), ("timens", "time")])
def test_a_process_that_cannot_be_forked_is_copied(start: Spawn, mode: str, space: str) -> None:
    target = start(mode)
    with forked(target.pid) as snapshot:
        why = f"its children come into another {space} namespace (unshare(2))"
        assert held(snapshot) == ("copy", why)
        whole = let_go(snapshot)
        target.ask("write")
        assert snapshot.read(0, snapshot.size) == whole
    assert target.ask("look") == AS_BEFORE
    if mode == "timens":  # with the first child, the clocks of its namespace are set for ever
        assert target.ask("clocks") == {"clocks": 0}


@pytest.mark.parametrize("stop", ["gentle", "each", "none"])
def test_only_a_process_that_stands_still_is_forked(start: Spawn, stop: str) -> None:
    target = start("plain")
    wait_until_asleep(target.pid)
    with forked(target.pid, Policy(hold="fork", stop=stop)) as snapshot:  # type: ignore[arg-type]
        assert held(snapshot) == ("copy", "not all of its threads stand still")
    assert target.ask("look") == AS_BEFORE


def test_job_control_has_stopped_it(start: Spawn) -> None:
    target = start("plain")
    os.kill(target.pid, signal.SIGSTOP)
    eventually(lambda: state(target.pid) == "T")
    with forked(target.pid) as snapshot:
        assert held(snapshot) == ("copy", "job control has stopped it")
    eventually(lambda: state(target.pid) == "T")
    os.kill(target.pid, signal.SIGCONT)
    assert target.ask("look") == AS_BEFORE


@pytest.mark.parametrize("last", [signal.SIGSTOP, signal.SIGCONT])
def test_job_control_stops_it_meanwhile(start: Spawn, tune: Tune, last: signal.Signals) -> None:
    """SIGSTOP comes before the calls, and SIGCONT after them."""
    target = start("plain")

    def send(step: Step, pid: int) -> None:
        if pid == target.pid and step is Step.FORKING:
            os.kill(pid, signal.SIGSTOP)
        elif pid == target.pid and step is Step.FORKED and last is signal.SIGCONT:
            os.kill(pid, last)

    tune(Tuning(reach=send))
    with forked(target.pid) as snapshot:
        assert held(snapshot) == ("fork", "")
        let_go(snapshot)
        if last is signal.SIGSTOP:
            eventually(lambda: state(target.pid) == "T")
            os.kill(target.pid, signal.SIGCONT)
        eventually(lambda: state(target.pid) not in "Tt")
        assert target.ask("look") == AS_BEFORE


@pytest.mark.parametrize("moment", [Step.FORKING, Step.INJECTING, Step.FORKED])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_process_is_killed_meanwhile(
    spawn: Spawn, tune: Tune, moment: Step, threads: int
) -> None:
    """Nobody is told of the death of a leader while its threads are not reaped.  So the tracer must
    not wait for that either."""
    target = spawn("threads", threads, parent=True)
    wait_until_asleep(target.pid)

    def kill(step: Step, pid: int) -> None:
        if (step, pid) == (moment, target.pid):
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: state(pid) == "Z")

    tune(Tuning(reach=kill))
    with pytest.raises(ProcessError) as caught, forked(target.pid) as snapshot:
        let_go(snapshot)
    assert caught.value.reason in (Reason.DIED, Reason.GONE)
    assert target.line() == {"wait": signal.SIGKILL}


def test_memory_that_somebody_supplies(spawn: Spawn) -> None:
    target = spawn("uffd")
    with forked(target.pid) as snapshot:
        assert held(snapshot) == ("copy", "it has memory of userfaultfd(2)")


def test_what_the_child_lacks_needs_room(start: Spawn) -> None:
    target = start("plain")
    with forked(target.pid, room=1 << 20) as snapshot:
        assert held(snapshot) == ("fork", "")
        snapshot.copy()
        assert not snapshot.is_copied
        assert "MiB" in snapshot.not_copied or "copy_limit" in snapshot.not_copied
    assert target.ask("look") == AS_BEFORE
    assert children(target.pid) == []


def test_a_tracer_that_dies_takes_the_child_with_it(start: Spawn) -> None:
    target = start("plain")
    script = (
        "import os, sys\n"
        "from gcorefs.api import stop\n"
        "from gcorefs.policy import Policy\n"
        "with stop(int(sys.argv[1]), Policy(hold='fork')) as stopped:\n"
        "    core = stopped.core()\n"
        "    assert not core.not_copied\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    libc = ctypes.CDLL(None)
    before = children(os.getpid())  # an earlier test may have left a zygote that has ended
    assert libc.prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER: we see what is left
    try:
        words = [sys.executable, "-c", script, str(target.pid)]
        assert subprocess.run(words, check=False, timeout=60).returncode == -signal.SIGKILL
        (child,) = (each for each in children(os.getpid()) if each not in before)
        assert os.waitpid(child, 0) == (child, signal.SIGKILL)
    finally:
        libc.prctl(36, 0, 0, 0, 0)
    assert target.ask("look") == AS_BEFORE


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_process_that_may_only_read_and_write(start: Spawn, program: str) -> None:
    """Strict mode kills a thread for each other call, also for ours."""
    target = start("strict", program)
    with forked(target.pid) as snapshot:
        assert held(snapshot) == ("fork", "")
        let_go(snapshot)
    assert target.ask("write")["sum"] != target.truth["sum"]
