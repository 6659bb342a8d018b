"""Stops of processes that change during the stop, and their state afterwards."""

import contextlib
import errno
import io
import json
import os
import select
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import NoteSegment

from gcorefs.arch.x86_64 import X86_64
from gcorefs.elfcore.layout import Source
from gcorefs.kernel import bell, ptrace, wait4
from gcorefs.kernel.proc import current_call, procfile, task_stat, task_status, tasks
from gcorefs.policy import Policy
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.sources.seizing import SEIZE_PATIENCE, Seizing
from gcorefs.sources.tracer import Tracer
from gcorefs.steps import Step
from gcorefs.tuning import Tuning
from tests.conftest import Target
from tests.snapshot import Snapshot, find

Spawn = Callable[..., Target]

CONTINUED = 0xFFFF
"""The wait status of a process that SIGCONT has continued (wait(2), WIFCONTINUED)."""


@contextlib.contextmanager
def held(target: Target, **options: Any) -> Iterator[Snapshot]:
    snapshot = Snapshot(find(target.pid), policy=Policy(**{"stop_timeout": 5.0, **options}))
    try:
        snapshot.take()
        yield snapshot
    finally:
        snapshot.close()


def assert_free(target: Target) -> None:
    states = target.states()
    assert {tracer for _, tracer in states.values()} <= {0}
    assert not {state for state, _ in states.values()} & set("tT")


def await_stopped(target: Target) -> None:
    """Wait until every thread is in a group-stop: after the release they return to it by
    themselves."""
    while set(target.states().values()) != {("T", 0)}:
        assert target.state_letters() <= set("RT")


def test_every_thread_is_recorded_and_let_go(spawn: Spawn) -> None:
    target = spawn("threads", 20)
    with held(target) as snapshot:
        assert snapshot.threads == 21
        assert set(target.states().values()) == {("t", os.getpid())}
    assert_free(target)
    assert target.ask("ping") == {"pong": 1}
    assert target.ask("wake") == {"woken": 20}


def test_threads_may_come_and_go(spawn: Spawn) -> None:
    target = spawn("churn", "threads")
    for _ in range(200):
        with held(target) as snapshot:
            states = target.states()
            stopped = [tid for tid, state in states.items() if state == ("t", os.getpid())]
            # A thread that is not stopped is about to exit.
            assert {state for state, _ in states.values()} <= set("tZX")
            assert len(stopped) == snapshot.threads >= 5
    assert_free(target)


def test_execve_may_replace_the_leader(spawn: Spawn) -> None:
    target = spawn("churn", "exec")
    for _ in range(200):
        with held(target) as snapshot:
            assert target.state_letters() == {"t"}
            assert snapshot.read(0, 4) == b"\x7fELF"
    assert_free(target)


@pytest.mark.parametrize("program", [["threads", "20"], ["churn", "leader"]], ids=" ".join)
def test_threads_are_counted_and_timed_as_they_are_listed(spawn: Spawn, program: list[str]) -> None:
    target = spawn(*program)
    with held(target):
        tids = tasks.tids(target.pid)
        assert tasks.thread_count(target.pid) == len(tids) >= 4
        # The leader has the times of all threads.
        files = ["stat" if tid == target.pid else f"task/{tid}/stat" for tid in tids]
        stats = [task_stat.parse_stat(procfile.read(f"{target.pid}/{file}")) for file in files]
        assert task_stat.task_times(target.pid, tids) == [
            (stat.utime, stat.stime, stat.cutime, stat.cstime) for stat in stats
        ]
        with pytest.raises(ProcessLookupError):
            task_stat.task_times(target.pid, [1])
    with pytest.raises(ProcessLookupError):
        tasks.thread_count(1 << 22)
    with pytest.raises(ProcessLookupError):
        task_stat.task_times(1 << 22, [])


def test_a_dead_leader_hides_nobody(spawn: Spawn) -> None:
    target = spawn("churn", "leader")
    tids = target.truth["tids"]
    with held(target) as snapshot:
        assert [record.tid for record in snapshot.records] == sorted(tids)
        assert all(target.states()[tid] == ("t", os.getpid()) for tid in tids)
        whole = snapshot.read(0, snapshot.size)
        assert len(whole) == snapshot.size
        assert b"/libc.so.6\0" in whole
    assert {tracer for _, tracer in target.states().values()} == {0}


@pytest.mark.parametrize("delay", range(0, 4000, 100))
def test_a_kill_at_any_moment_is_an_error_or_a_whole_core(spawn: Spawn, delay: int) -> None:
    """SIGKILL after `delay` microseconds of the stop; the parent hears of it meanwhile."""
    target = spawn("threads", 20, parent=True)
    killer = kill_later(target.pid, delay)
    try:
        with held(target) as snapshot:
            assert target.line() == {"wait": signal.SIGKILL}
            assert len(snapshot.read(0, 4096)) == 4096
            with pytest.raises(ProcessError) as caught:
                snapshot.read(snapshot.size - 1, 1)
            assert caught.value.reason is Reason.DIED
            assert caught.value.errno == errno.EIO
    except ProcessError as error:
        assert error.reason in (Reason.GONE, Reason.DIED)
        assert target.line() == {"wait": signal.SIGKILL}
    finally:
        os.waitpid(killer, 0)


@pytest.mark.parametrize("last", ["leader", "other"])
def test_a_death_is_noticed_whichever_thread_stopped_last(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    target = spawn("threads", 3, parent=True)
    tids = set(target.states())
    late = target.pid if last == "leader" else max(tids)
    stopped: set[int] = set()
    poll_status = wait4.poll_status

    def poll_late(tid: int) -> int | None:
        if tid == late and stopped < tids - {late}:
            return None
        status = poll_status(tid)
        if status is not None:
            stopped.add(tid)
        return status

    monkeypatch.setattr(wait4, "poll_status", poll_late)
    with held(target) as snapshot:
        assert stopped == tids
        os.kill(target.pid, signal.SIGKILL)
        assert target.popen.stdout is not None
        assert select.select([target.popen.stdout], [], [], 20)[0]
        assert target.line() == {"wait": signal.SIGKILL}
        assert snapshot.is_dead


def test_a_death_is_reported_if_no_thread_had_stopped(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = spawn("threads", 3, parent=True)
    told = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(ptrace, "interrupt", lambda tid: None)
        snapshot = Snapshot(find(target.pid), policy=Policy(stop_timeout=0.1), on_end=told.set)
        snapshot.take()
    try:
        assert snapshot.unresponsive_threads == snapshot.threads == 4
        os.kill(target.pid, signal.SIGKILL)
        assert told.wait(200)
        assert snapshot.is_dead
        assert target.line() == {"wait": signal.SIGKILL}
    finally:
        snapshot.close()


@pytest.mark.parametrize("stop", ["all", "each"])
def test_a_leader_that_ends_after_its_seize_is_not_waited_for(
    spawn: Spawn, tune: Callable[[Tuning], None], stop: str
) -> None:
    target = spawn("crasher", 1, parent=True)
    told = threading.Event()

    def end_leader(step: Step, pid: int) -> None:
        if step is Step.SEIZED_ONE and not told.is_set():
            told.set()
            target.tell("exit")
            while task_stat.stat(pid, pid).state != "Z":
                pass

    tune(Tuning(reach=end_leader))
    with held(target, stop=stop, unresponsive="fail", stop_timeout=60.0) as snapshot:
        assert told.is_set()
        assert (snapshot.threads, snapshot.unresponsive_threads) == (4, 0)
    assert_free(target)
    os.kill(target.pid, signal.SIGKILL)
    assert target.line() == {"wait": signal.SIGKILL}


def test_a_death_is_not_held_up_by_each_that_is_gone(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the first seize: we must reap that thread, and the parent waits for it."""
    target = spawn("threads", 500, parent=True)
    seize, sleep = ptrace.seize, time.sleep
    naps = []

    def seize_and_kill(tid: int) -> None:
        seize(tid)
        os.kill(target.pid, signal.SIGKILL)
        while len(tasks.tids(target.pid)) > 2:  # the leader, and our tracee
            pass

    def nap(seconds: float) -> None:
        naps.append(seconds)
        sleep(seconds)

    monkeypatch.setattr(ptrace, "seize", seize_and_kill)
    monkeypatch.setattr(time, "sleep", nap)
    with pytest.raises(ProcessError) as caught, held(target):
        pass
    assert caught.value.reason is Reason.GONE
    assert len(naps) < 50
    assert target.line() == {"wait": signal.SIGKILL}


def test_a_tracer_sleeps_while_it_holds(spawn: Spawn) -> None:
    target = spawn("threads", 3)
    with held(target):
        await_call(tracer_of(target), SYS_WAITID)
    assert_free(target)


def test_a_tracer_that_misses_the_bell_is_rung_again(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = spawn("threads", 3)
    ring = bell.ring
    rings = []

    def ring_later(tid: int) -> None:
        rings.append(tid)
        if len(rings) > 2:
            ring(tid)

    monkeypatch.setattr(bell, "ring", ring_later)
    with held(target):
        await_call(tracer_of(target), SYS_WAITID)
    assert len(rings) > 2
    assert_free(target)


def test_a_tracer_hears_the_bell_whatever_is_blocked(spawn: Spawn) -> None:
    target = spawn("threads", 3)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGSTKFLT})
    try:
        with held(target):
            pass
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGSTKFLT})
    assert_free(target)


def test_a_thread_that_was_not_interrupted_is_not_waited_for(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = spawn("threads", 3)
    monkeypatch.setattr(task_status, "is_dumping_core", lambda pid: True)
    refused = Tracer(find(target.pid), Policy(stop_timeout=5))
    refused.start()
    with pytest.raises(ProcessError) as caught:
        refused.wait()
    assert caught.value.reason is Reason.DUMPING
    refused.join()
    assert refused.late == ()
    assert refused.join_late(0)
    assert_free(target)


SYS_WAITID = 247


def tracer_of(target: Target) -> int:
    tid = int(task_status.status(target.pid)["TracerPid"])  # a thread id, in spite of its name
    assert Path(f"/proc/self/task/{tid}/comm").read_text() == f"tracer-{target.pid}\n"
    return tid


def await_call(tid: int, number: int) -> None:
    """Wait until a thread of ours sleeps in a system call."""
    while (call := current_call.system_call(os.getpid(), tid)) is None or call[0] != number:
        time.sleep(0.001)


@pytest.fixture
def slow_seize(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each seize takes so long that the thread that waits for the stop looks for the dead."""
    looks = []
    seize, look = ptrace.seize, Seizing.reap_for_seize

    def look_and_count(self: Seizing) -> None:
        look(self)
        looks.append(time.monotonic())

    def seize_slowly(tid: int) -> None:
        seize(tid)
        # At least one look comes after the patience has run out.
        begin = time.monotonic()
        while not looks or looks[-1] < begin + 3 * SEIZE_PATIENCE:
            time.sleep(0.001)

    monkeypatch.setattr(Seizing, "reap_for_seize", look_and_count)
    monkeypatch.setattr(ptrace, "seize", seize_slowly)


@pytest.mark.usefixtures("slow_seize")
def test_the_look_for_dead_threads_takes_no_stop(spawn: Spawn) -> None:
    target = spawn("threads", 3, parent=True)
    os.kill(target.pid, signal.SIGSTOP)
    assert target.line() == {"wait": signal.SIGSTOP << 8 | 0x7F}
    with held(target, stop_timeout=1) as snapshot:
        assert [record.signal for record in snapshot.records] == [signal.SIGSTOP] * 4
    await_stopped(target)
    os.kill(target.pid, signal.SIGCONT)
    assert target.line() == {"wait": CONTINUED}


@pytest.mark.usefixtures("slow_seize")
def test_the_look_for_dead_threads_takes_no_signal(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = spawn("ledger")
    seize_slowly = ptrace.seize
    seen = []
    tids = tasks.tids
    monkeypatch.setattr(tasks, "tids", lambda pid: tids(pid)[::-1])

    def seize_and_signal(tid: int) -> None:
        seize_slowly(tid)
        seen.append(tid)
        if tid == target.truth["taker"]:
            os.kill(target.pid, signal.SIGRTMIN)

    monkeypatch.setattr(ptrace, "seize", seize_and_signal)
    with held(target, stop_timeout=1) as snapshot:
        assert seen[0] == target.truth["taker"]
        assert snapshot.unresponsive_threads == 0
    assert target.ask("wake") == {"woken": 3}
    assert target.ask("account")["handled"] == 1


def kill_later(pid: int, microseconds: int) -> int:
    """A child that sends SIGKILL after so many microseconds."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            signal.setitimer(signal.ITIMER_REAL, 1e-6 + microseconds / 1e6)
            signal.sigwait({signal.SIGALRM})
            os.kill(pid, signal.SIGKILL)
        os._exit(0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    return child


def test_a_thread_that_does_not_stop_is_recorded_in_part(spawn: Spawn) -> None:
    target = spawn("vforker")
    vfork_tid = target.truth["vfork_tid"]
    with held(target, stop_timeout=0.2) as snapshot:
        states = target.states()
        assert states.pop(vfork_tid)[0] == "D"
        assert {state for state, _ in states.values()} == {"t"}
        prstatus = next(note for note in prstatus_notes(snapshot) if tid_of(note) == vfork_tid)
        general = prstatus[112:-8]
        call = current_call.system_call(target.pid, vfork_tid)
        assert call is not None
        number, arguments, sp, pc = call
        assert X86_64.word(general, "orig_rax") == number == 58  # vfork
        assert X86_64.word(general, "rsp") == sp
        assert X86_64.word(general, "rip") == pc
        assert X86_64.word(general, "rdi") == arguments[0]
        assert prstatus[-8:] == bytes(8)  # pr_fpvalid: no floating point registers
        assert hows(snapshot) == {**dict.fromkeys(states, "stopped"), vfork_tid: "partial"}
    assert {tracer for _, tracer in target.states().values()} == {0}
    assert target.ask("release") == {"released": True}
    assert_free(target)


@pytest.mark.parametrize("unresponsive", ["zero", "omit"])
def test_a_thread_that_does_not_stop_is_zeros_or_left_out(spawn: Spawn, unresponsive: str) -> None:
    target = spawn("vforker")
    vfork_tid = target.truth["vfork_tid"]
    with held(target, stop_timeout=0.2, unresponsive=unresponsive) as snapshot:
        found = {tid_of(note): note[112:-8] for note in prstatus_notes(snapshot)}
        assert found.keys() == set(target.states()) - (
            {vfork_tid} if unresponsive == "omit" else set()
        )
        if unresponsive == "zero":
            assert found[vfork_tid] == bytes(X86_64.general_size)
        stopped = dict.fromkeys(target.states(), "stopped")
        expected = {"zero": "zero", "omit": "omitted"}[unresponsive]
        assert hows(snapshot) == {**stopped, vfork_tid: expected}
    assert target.ask("release") == {"released": True}
    assert_free(target)


def test_a_thread_that_does_not_stop_may_rule_the_core_out(spawn: Spawn) -> None:
    target = spawn("vforker")
    with (
        pytest.raises(ProcessError) as caught,
        held(target, stop_timeout=0.2, unresponsive="fail"),
    ):
        pass
    assert caught.value.reason is Reason.UNRESPONSIVE
    assert caught.value.errno == errno.EBUSY
    assert str(target.truth["vfork_tid"]) in str(caught.value)
    assert {tracer for _, tracer in target.states().values()} == {0}
    assert target.ask("release") == {"released": True}


def notes(snapshot: Snapshot) -> list[tuple[str, object, bytes]]:
    core = ELFFile(io.BytesIO(snapshot.layout.header))
    (segment,) = core.iter_segments("PT_NOTE")
    assert isinstance(segment, NoteSegment)
    return [(note["n_name"], note["n_type"], note["n_descdata"]) for note in segment.iter_notes()]


def prstatus_notes(snapshot: Snapshot) -> list[bytes]:
    return [desc for _, kind, desc in notes(snapshot) if kind == "NT_PRSTATUS"]


def hows(snapshot: Snapshot) -> dict[int, str]:
    """How each thread was recorded, by the core itself: its last note."""
    owner, _, desc = notes(snapshot)[-1]
    assert owner == "GCOREFS"
    facts = json.loads(desc)
    found = {tid: how for how, tids in facts["tids"].items() for tid in tids}
    found |= {tid_of(note): "stopped" for note in prstatus_notes(snapshot)} | found
    for how, count in facts["threads"].items():
        assert list(found.values()).count(how) == count
    return found


def tid_of(prstatus: bytes) -> int:
    return int(struct.unpack_from("<i", prstatus, 32)[0])


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN])
def test_a_stopped_process_stays_stopped(spawn: Spawn, number: signal.Signals) -> None:
    target = spawn("threads", 3, parent=True)
    os.kill(target.pid, number)
    assert target.line() == {"wait": number << 8 | 0x7F}
    for _ in range(20):
        with held(target) as snapshot:
            assert {record.signal for record in snapshot.records} == {number}
    await_stopped(target)
    os.kill(target.pid, signal.SIGCONT)
    # The next status that its parent gets, after one stop: there was no second stop.
    assert target.line() == {"wait": CONTINUED}
    assert target.ask("ping") == {"pong": 1}


def test_sigcont_while_held_is_not_lost(spawn: Spawn) -> None:
    target = spawn("threads", 3, parent=True)
    os.kill(target.pid, signal.SIGSTOP)
    target.line()
    with held(target):
        os.kill(target.pid, signal.SIGCONT)
    assert target.line() == {"wait": CONTINUED}
    assert target.ask("ping") == {"pong": 1}
    assert_free(target)


def test_sigstop_while_held_stops_afterwards(spawn: Spawn) -> None:
    target = spawn("threads", 3, parent=True)
    with held(target):
        os.kill(target.pid, signal.SIGSTOP)
    assert target.line() == {"wait": signal.SIGSTOP << 8 | 0x7F}
    await_stopped(target)
    os.kill(target.pid, signal.SIGCONT)
    assert target.line() == {"wait": CONTINUED}
    assert target.ask("ping") == {"pong": 1}


def test_a_process_at_work_counts_on(spawn: Spawn) -> None:
    target = spawn("counter")
    for _ in range(100):
        with held(target) as snapshot:
            assert snapshot.read(0, 4) == b"\x7fELF"
    report = target.ask("report")
    assert (report["errors"], report["epoll_eintr"]) == (0, 0)


def test_what_was_let_go_is_an_error_and_never_zeros(spawn: Spawn) -> None:
    target = spawn("threads", 3)
    with held(target) as snapshot:
        header = snapshot.read(0, 4096)
        snapshot.let_go()
        assert snapshot.read(0, 4096) == header
        with pytest.raises(ProcessError) as caught:
            snapshot.read(snapshot.size - 4096, 4096)
        assert caught.value.errno == errno.EIO
    assert_free(target)


def test_zeros_cannot_be_read_after_the_release_either(spawn: Spawn) -> None:
    # They are at the end of the file, and known.  But a read of a core must be of its stop.
    target = spawn("reserve", 1, 10)
    with held(target) as snapshot:
        assert snapshot.read(snapshot.size - 4096, 4096) == bytes(4096)
        assert [each.source for each in snapshot.layout.extents(snapshot.size - 1, 1)] == [
            Source.ZEROS
        ]
        snapshot.let_go()
        with pytest.raises(ProcessError) as caught:
            snapshot.read(snapshot.size - 4096, 4096)
        assert caught.value.reason is Reason.LET_GO
    assert_free(target)


def test_many_threads_and_many_mappings(spawn: Spawn) -> None:
    crowd = spawn("threads", 2_000)
    with held(crowd) as snapshot:
        assert snapshot.threads == 2_001
    assert_free(crowd)
    scattered = spawn("mappings", 30_000)
    with held(scattered) as snapshot:
        start, count = int(scattered.truth["start"], 16), scattered.truth["count"]
        held_pages = {
            load["p_vaddr"]: (load["p_filesz"], load["p_memsz"])
            for load in ELFFile(io.BytesIO(snapshot.layout.header)).iter_segments()
        }
        for page in range(start, start + count * 8192, 8192):
            assert held_pages[page] == (4096, 4096)
    assert_free(scattered)


@pytest.mark.parametrize(
    ("pid", "reason"),
    [(os.getpid(), Reason.OURSELVES), (2, Reason.KERNEL_THREAD), (4194304, Reason.GONE)],
    ids=lambda value: value.name if isinstance(value, Reason) else "",
)
def test_what_cannot_be_dumped_is_refused(pid: int, reason: Reason) -> None:
    with pytest.raises(ProcessError) as caught:
        Snapshot(find(pid)).take()
    assert caught.value.reason is reason
    assert caught.value.errno == reason.errno
    assert str(pid) in str(caught.value)
