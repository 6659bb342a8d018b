"""stop=gentle: a thread that sleeps in a system call is left asleep, and its registers are had all
the same.  stop=each: one thread after the other.  stop=none: nobody."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from gcorefs.arch import HOST
from gcorefs.elfcore.provenance import How
from gcorefs.kernel.proc import task_stat, task_status, tasks
from gcorefs.policy import Policy
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.sources.thread_record import ThreadRecord
from gcorefs.sources.tracer import Tracer
from gcorefs.steps import Step
from gcorefs.tuning import Tuning
from tests.conftest import Target, switches, wait_until_asleep
from tests.features import needs_call
from tests.live.accounts import held
from tests.live.test_interrupted_calls import EVERY, skip_if_it_cannot_be_seized
from tests.live.test_interrupted_calls import stopped as traced
from tests.mounted.conftest import eventually

Spawn = Callable[..., Target]
BOTH = pytest.mark.parametrize("use", ["auto", "off"])
"""Registers of a sleeper from BPF, and from /proc."""

ROUNDS = [10, pytest.param(1_000, marks=pytest.mark.full)]


@pytest.fixture(autouse=True)
def _programs(bpf: None) -> None:
    """BPF is loaded in this process."""


def stopped(pid: int, **options: Any) -> AbstractContextManager[Tracer]:
    return traced(pid, Policy(**{"stop": "gentle", "stop_timeout": 5.0, **options}))


def hows(records: list[ThreadRecord]) -> dict[int, How]:
    return {each.tid: each.how for each in records}


@pytest.mark.parametrize("rounds", ROUNDS)
@EVERY
def test_no_call_is_disturbed(program: str, name: str, rounds: int, spawn: Spawn) -> None:
    """Nobody wakes, and the registers of a sleeper are those that ptrace(2) shows, but for the
    result of the call."""
    needs_call(name.removeprefix("fuse_"))
    case = spawn(program, name)
    skip_if_it_cannot_be_seized(case, name)
    assert case.ask("blocked") == {"blocked": True}
    wait_until_asleep(case.pid)
    tid = case.truth["tid"]
    before = switches(case.pid)
    for _ in range(rounds):
        with stopped(case.pid) as tracer:
            gentle = {each.tid: each for each in tracer.records}
        with stopped(case.pid, bpf="off") as tracer:
            assert {each.how for each in tracer.records} == {How.PARTIAL}
    assert switches(case.pid) == before
    # The registers of a thread in execve(2) may be those of either program.
    assert gentle.pop(case.pid).how is How.BLOCKED
    assert gentle[tid].how is (How.PARTIAL if name.startswith("fuse_exec") else How.BLOCKED)
    blocked = int(task_status.status(case.pid, tid)["SigBlk"], 16)
    with stopped(case.pid, stop="all") as tracer:
        ptrace = {each.tid: each for each in tracer.records}[tid]
        machine = tracer.machine
    found = gentle[tid]
    if (found.how, ptrace.how) == (How.BLOCKED, How.STOPPED):
        assert found.registers.shape == ptrace.registers.shape
        for kind in ptrace.registers.shape.kinds:
            assert found.registers[kind] == ptrace.registers[kind], kind
        for word in machine.general:
            if word not in (machine.call_result, machine.call_number):
                mine = machine.word(found.registers.general, word)
                assert mine == machine.word(ptrace.registers.general, word), word
        # ptrace(2) gives the mask of after the call (kernel/ptrace.c, PTRACE_GETSIGMASK).
        assert (found.blocked, found.pending) == (blocked, ptrace.pending)
    assert case.ask("blocked") == {"blocked": True}
    counts = case.ask("counts")
    assert (counts["spurious"], counts["other"], counts["genuine"]) == (0, 0, 0), counts


PARTS = """
import os, socket, sys, threading
PIECE = 1 << 20
def wait_all():
    return len(waiting.recv(64, socket.MSG_WAITALL))
def write_pipe():
    return os.write(full, bytes(PIECE))
def write_socket():
    return writing.send(bytes(PIECE))
def send_file():
    return os.sendfile(sending.fileno(), file, 0, 16 * PIECE)
waiting, feeding = socket.socketpair()
feeding.send(bytes(10))
empty, full = os.pipe()
writing, reading = socket.socketpair()
listener = socket.create_server(("127.0.0.1", 0))
sending = socket.create_connection(listener.getsockname())
receiving, _ = listener.accept()
file = os.memfd_create("x")
os.truncate(file, 16 * PIECE)
results = {}
calls = [wait_all, write_pipe, write_socket, send_file]
threads = [
    threading.Thread(target=lambda call=call: results.update({call.__name__: call()}))
    for call in calls
]
for each in threads:
    each.start()
print('{"pid": %d}' % os.getpid(), flush=True)
sys.stdin.readline()
feeding.send(bytes(54))
left = PIECE
while left:
    left -= len(os.read(empty, left))
left = PIECE
while left:
    left -= len(reading.recv(left))
left = 16 * PIECE
while left:
    left -= len(receiving.recv(left))
for each in threads:
    each.join()
import json
print(json.dumps(results), flush=True)
"""


@BOTH
def test_calls_that_come_back_in_part_after_a_stop_do_not(use: str) -> None:
    target = Target([sys.executable, "-c", PARTS])
    try:
        wait_until_asleep(target.pid)
        for _ in range(20):
            with stopped(target.pid, bpf=use) as tracer:
                assert len(tracer.records) == 5
        piece = 1 << 20
        assert target.ask("") == {
            "wait_all": 64, "write_pipe": piece, "write_socket": piece, "send_file": 16 * piece,
        }  # fmt: skip
    finally:
        target.kill()


@pytest.mark.parametrize("program", ["registers", "registers32"])
def test_a_thread_that_runs_is_stopped(program: str, spawn: Spawn) -> None:
    target = spawn(program, 3, "spin")
    eventually(lambda: state(target.pid, target.pid) == "S")
    spinning = {thread["tid"] for thread in target.truth["threads"]} - {target.pid}
    with stopped(target.pid) as tracer:
        found = hows(tracer.records)
        assert {tid for tid in found if found[tid] is How.STOPPED} == spinning
        assert found[target.pid] is How.BLOCKED
        account = tracer.xstate
    assert account is not None
    assert account.kept == 0


@BOTH
def test_a_thread_that_wakes_meanwhile_is_looked_at_again(
    use: str, spawn: Spawn, tune: Callable[[Tuning], None]
) -> None:
    target = spawn("threads", 5)
    wait_until_asleep(target.pid)
    looks = []

    def wake_once(step: Step, pid: int) -> None:
        if (step, pid) == (Step.LEFT_ASLEEP, target.pid):
            looks.append(step)
            if len(looks) == 1:
                assert target.ask("wake") == {"woken": 5}
                wait_until_asleep(pid)

    tune(Tuning(reach=wake_once))
    with held(target.pid, stop="gentle", bpf=use) as snapshot:
        assert {each.how for each in snapshot.records} == {
            How.BLOCKED if use == "auto" else How.PARTIAL
        }
        # The memory is that of after the wake, and so are the registers.
        (second,) = {each.registers.general for each in snapshot.records if each.tid == target.pid}
    assert len(looks) == 2
    with held(target.pid, stop="gentle", bpf=use) as snapshot:
        assert {each.registers.general for each in snapshot.records if each.tid == target.pid} == {
            second
        }


@BOTH
def test_a_thread_that_is_woken_again_and_again_is_stopped(
    use: str, spawn: Spawn, tune: Callable[[Tuning], None]
) -> None:
    target = spawn("threads", 2)
    wait_until_asleep(target.pid)

    def ping(step: Step, pid: int) -> None:
        if (step, pid) == (Step.LEFT_ASLEEP, target.pid) and target.pid not in stopped_by_us():
            target.ask("ping")
            wait_until_asleep(pid)

    def stopped_by_us() -> set[int]:
        return {tid for tid in tasks.tids(target.pid) if "t" in state(target.pid, tid)}

    tune(Tuning(reach=ping))
    with stopped(target.pid, bpf=use) as tracer:
        found = hows(tracer.records)
    assert found.pop(target.pid) is How.STOPPED
    assert set(found.values()) == {How.BLOCKED if use == "auto" else How.PARTIAL}


def state(pid: int, tid: int) -> str:
    return task_stat.stat(pid, tid).state


@BOTH
def test_a_thread_that_wakes_during_the_hold_is_stopped_and_counted(use: str, spawn: Spawn) -> None:
    target = spawn("threads", 3)
    wait_until_asleep(target.pid)
    with stopped(target.pid, bpf=use) as tracer:
        assert tracer.progress.woken == 0
        target.tell("ping")
        eventually(lambda: state(target.pid, target.pid) == "t")
        assert tracer.progress.woken == 1
        others = {state(target.pid, tid) for tid in tasks.tids(target.pid) if tid != target.pid}
        assert others == {"S"}
    assert target.line() == {"pong": 1}
    with stopped(target.pid, bpf=use) as tracer:
        pass
    assert tracer.progress.woken == 0


@BOTH
@pytest.mark.parametrize("name", ["pause", "epoll_pwait", "nanosleep"])
def test_a_signal_wakes_a_sleeper_during_the_hold(use: str, name: str, spawn: Spawn) -> None:
    case = spawn("eintr", name)
    assert case.ask("blocked") == {"blocked": True}
    wait_until_asleep(case.pid)
    tid = case.truth["tid"]
    with stopped(case.pid, bpf=use):
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.tgkill(case.pid, tid, signal.SIGUSR1) == 0
        eventually(lambda: state(case.pid, tid) == "t")
        assert state(case.pid, case.pid) == "S"
    assert case.ask("blocked") == {"blocked": True}
    counts = case.ask("counts")
    assert (counts["handled"], counts["genuine"], counts["spurious"], counts["other"]) == (
        1,
        1,
        0,
        0,
    )


@BOTH
def test_threads_that_are_started_during_the_hold_are_counted(
    use: str, spawn: Spawn, tune: Callable[[Tuning], None]
) -> None:
    target = spawn("churn", "born")
    wait_until_asleep(target.pid)

    def start_one(step: Step, pid: int) -> None:
        # Before the first look, which would stop the leader before it starts a thread.
        if (step, pid) == (Step.HOLDING, target.pid) and tasks.thread_count(pid) == 1:
            target.tell("go")
            eventually(lambda: tasks.thread_count(pid) == 2)

    tune(Tuning(reach=start_one))
    with held(target.pid, stop="gentle", bpf=use) as snapshot:
        eventually(lambda: snapshot.stop.woken == 2)
        eventually(lambda: state(target.pid, target.pid) == "t")
    assert snapshot.stop.woken == 2


def test_threads_that_start_others_are_stopped_in_the_end(
    spawn: Spawn, tune: Callable[[Tuning], None]
) -> None:
    target = spawn("churn", "born")
    wait_until_asleep(target.pid)

    def start_one(step: Step, pid: int) -> None:
        if (step, pid) == (Step.LEFT_ASLEEP, target.pid):
            before = tasks.thread_count(pid)
            target.tell("go")
            eventually(lambda: tasks.thread_count(pid) > before or state(pid, pid) == "t")

    tune(Tuning(reach=start_one))
    with stopped(target.pid) as tracer:
        assert {each.how for each in tracer.records} == {How.STOPPED}
        assert len(tracer.records) == tasks.thread_count(target.pid)
        assert target.state_letters() == {"t"}


@BOTH
@pytest.mark.parametrize(("words", "threads"), [(("bulk", 1), 1), (("threads", 3), 4)])
def test_a_signal_to_all_that_sleep_is_no_death(
    use: str, words: tuple[object, ...], threads: int, spawn: Spawn
) -> None:
    target = spawn(*words)
    wait_until_asleep(target.pid)
    with held(target.pid, stop="gentle", bpf=use) as snapshot:
        size = snapshot.size
        for tid in tasks.tids(target.pid):
            assert ctypes.CDLL(None).tgkill(target.pid, tid, signal.SIGWINCH) == 0  # ignored
        eventually(lambda: snapshot.stop.woken == threads)
        eventually(lambda: target.state_letters() == {"t"})
        assert not snapshot.stop.is_dead
        assert len(snapshot.read(size - 4096, 4096)) == 4096
    wait_until_asleep(target.pid)


@BOTH
def test_the_death_of_a_process_that_sleeps_is_told(use: str, spawn: Spawn) -> None:
    target = spawn("threads", 3, parent=True)
    wait_until_asleep(target.pid)
    with held(target.pid, stop="gentle", bpf=use) as snapshot:
        os.kill(target.pid, signal.SIGKILL)
        assert target.line() == {"wait": signal.SIGKILL}
        eventually(lambda: snapshot.stop.is_dead)


def test_each_thread_is_let_go_before_the_next(
    spawn: Spawn, tune: Callable[[Tuning], None]
) -> None:
    target = spawn("threads", 20)
    wait_until_asleep(target.pid)
    most = []

    def count(step: Step, pid: int) -> None:
        if (step, pid) == (Step.RECORDED_ONE, target.pid):
            most.append(sum(state(pid, tid) == "t" for tid in tasks.tids(pid)))

    tune(Tuning(reach=count))
    with stopped(target.pid, stop="each") as tracer:
        assert set(hows(tracer.records).values()) == {How.STOPPED}
        assert len(tracer.records) == 21
        assert {task_status.tracer(target.pid, tid) for tid in tasks.tids(target.pid)} == {0}
        assert target.ask("ping") == {"pong": 1}
    assert most == [1] * 21


def test_each_has_threads_that_do_not_stop_in_part(spawn: Spawn) -> None:
    target = spawn("vforker")
    eventually(lambda: "D" in {state(target.pid, tid) for tid in tasks.tids(target.pid)})
    with held(target.pid, stop="each", stop_timeout=0.05) as snapshot:
        assert How.STOPPED in {each.how for each in snapshot.records} | {How.STOPPED}
        late = [each for each in snapshot.records if each.how is How.ZERO]
        assert len(late) == 1
    target.ask("release")


@BOTH
@pytest.mark.parametrize("whom", ["gentle", "each", "none"])
@pytest.mark.parametrize("kind", ["threads", "leader"])
def test_threads_come_and_go_meanwhile(use: str, whom: str, kind: str, spawn: Spawn) -> None:
    target = spawn("churn", kind)
    for _ in range(20):
        with held(target.pid, stop=whom, memory="none", bpf=use) as snapshot:
            assert snapshot.records


@BOTH
@pytest.mark.parametrize("whom", ["gentle", "each", "none"])
def test_a_process_becomes_another_program_meanwhile(use: str, whom: str, spawn: Spawn) -> None:
    """There is a core of one program, or the program is gone; and nobody waits for the other."""
    target = spawn("churn", "exec")
    for _ in range(30):
        try:
            with held(target.pid, stop=whom, memory="none", bpf=use, stop_timeout=60) as snapshot:
                assert snapshot.records
        except ProcessError as error:
            assert error.reason in (Reason.DIED, Reason.GONE, Reason.DENIED), error


def test_what_sleeps_under_another_tracer_is_exact(spawn: Spawn) -> None:
    """stop=none, while a debugger holds the process."""
    target = spawn("registers", 4, "blocked")
    wait_until_asleep(target.pid)
    with stopped(target.pid, stop="all") as tracer:
        expected = {each.tid: each.registers.general for each in tracer.records}
        with held(target.pid, stop="none") as snapshot:
            found = {each.tid: each for each in snapshot.records}
    assert {each.how for each in found.values()} == {How.BLOCKED}
    assert {tid: each.registers.general for tid, each in found.items()} == expected


@pytest.mark.parametrize("program", ["registers", "registers32"])
def test_a_thread_that_runs_is_never_exact(program: str, spawn: Spawn) -> None:
    target = spawn(program, 2, "spin")
    eventually(lambda: state(target.pid, target.pid) == "S")
    spinning = {thread["tid"] for thread in target.truth["threads"]} - {target.pid}
    for _ in range(10):
        with held(target.pid, stop="none") as snapshot:
            found = hows([*snapshot.records])
        assert {found[tid] for tid in spinning} == {How.STALE}
        assert found[target.pid] is How.BLOCKED


def test_a_process_that_a_signal_has_stopped_says_which(spawn: Spawn) -> None:
    target = spawn("threads", 2)
    os.kill(target.pid, signal.SIGSTOP)
    eventually(lambda: {state(target.pid, tid) for tid in tasks.tids(target.pid)} == {"T"})
    try:
        with held(target.pid, stop="none") as snapshot:
            assert {each.how for each in snapshot.records} == {How.BLOCKED}
            assert {each.signal for each in snapshot.records} == {signal.SIGSTOP}
    finally:
        os.kill(target.pid, signal.SIGCONT)


@BOTH
def test_a_process_that_a_signal_has_stopped_stays_so(use: str, spawn: Spawn) -> None:
    target = spawn("threads", 2)
    os.kill(target.pid, signal.SIGSTOP)
    stands = {"T"}
    eventually(lambda: {state(target.pid, tid) for tid in tasks.tids(target.pid)} == stands)
    try:
        for whom in ("gentle", "each"):
            with stopped(target.pid, stop=whom, bpf=use) as tracer:
                assert {each.signal for each in tracer.records} <= {0, signal.SIGSTOP}
                assert len(tracer.records) == 3
            eventually(lambda: {state(target.pid, tid) for tid in tasks.tids(target.pid)} == stands)
    finally:
        os.kill(target.pid, signal.SIGCONT)
    assert target.ask("ping") == {"pong": 1}


def test_a_program_in_32_bit_code_has_all_its_registers(spawn: Spawn) -> None:
    assert HOST.native.saved_sets is not None
    target = spawn("registers32", 3, "blocked")
    wait_until_asleep(target.pid)
    with stopped(target.pid, stop="all") as tracer:
        expected = {each.tid: each for each in tracer.records}
        machine = tracer.machine
    with held(target.pid, stop="none") as snapshot:
        for each in snapshot.records:
            other = expected[each.tid].registers
            assert each.registers.shape == other.shape
            assert all(each.registers[kind] == other[kind] for kind in other.shape.kinds)
            result = {machine.call_result: 0}
            assert machine.with_words(each.registers.general, result) == machine.with_words(
                other.general, result
            )


def test_nothing_is_left_over_after_a_loader_ends() -> None:
    """The child that learns, and the child that it looks at, are gone."""
    script = (
        "from gcorefs.sources import bpf_choice; import os, time; bpf_choice.choose('auto');"
        "print(len(os.listdir('/proc/self/task')),"
        "open(f'/proc/self/task/{os.getpid()}/children').read().split())"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout == "1 []\n"
    assert not result.stderr
