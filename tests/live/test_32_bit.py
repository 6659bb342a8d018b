"""32-bit processes, stopped in the same way, and threads that run code of both sizes."""

import errno
import os
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gcorefs.arch import MACHINES
from gcorefs.arch.i386 import I386
from gcorefs.arch.x86_64 import X86_64
from gcorefs.kernel import robust_list
from gcorefs.kernel.proc import address_space, current_call, task_stat, tasks
from gcorefs.policy import Policy
from gcorefs.process import admission
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.sources.tracer import Tracer
from gcorefs.tuning import Tuning
from tests.conftest import Target
from tests.live.accounts import assert_free, await_free, held
from tests.live.test_tracer import await_stopped, notes
from tests.snapshot import Snapshot, find

Spawn = Callable[..., Target]

STOPS = 100
ELF32, ELF64 = b"\x7fELF\x01", b"\x7fELF\x02"
NT_386_TLS = 0x200
SYS_VFORK = 190  # arch/x86/entry/syscalls/syscall_32.tbl


def prstatus(snapshot: Snapshot) -> dict[int, bytes]:
    """By thread id, which is at byte 24 of a 32-bit PRSTATUS and at byte 32 of a 64-bit one."""
    at = 24 if snapshot.layout.header[4] == 1 else 32
    found = [desc for _, kind, desc in notes(snapshot) if kind == "NT_PRSTATUS"]
    return {int.from_bytes(desc[at : at + 4], "little"): desc for desc in found}


@contextmanager
def asleep(*argv: str | Path) -> Iterator[int]:
    """A program that prints nothing, when it sleeps in the pause(2) of 32 bits."""
    process = subprocess.Popen(argv)
    try:
        while (call := current_call.system_call(process.pid, process.pid)) is None or call[0] != 29:
            assert process.poll() is None
        yield process.pid
    finally:
        process.kill()
        process.wait()


def test_a_32_bit_process_at_work_counts_on(spawn: Spawn) -> None:
    target = spawn("counter32")
    for _ in range(STOPS):
        with held(target.pid) as snapshot:
            assert snapshot.read(0, 5) == ELF32
    report = target.ask("report")
    assert (report["errors"], report["epoll_eintr"]) == (0, 0)
    assert_free(target.pid)


def test_every_thread_of_a_32_bit_process_is_recorded(spawn: Spawn) -> None:
    target = spawn("threads32", 20)
    tids = {target.pid, *(thread["tid"] for thread in target.truth["threads"])}
    with held(target.pid) as snapshot:
        assert set(target.states().values()) == {("t", os.getpid())}
        assert prstatus(snapshot).keys() == tids
        assert (snapshot.threads, snapshot.unresponsive_threads) == (len(tids), 0)
    assert_free(target.pid)
    assert target.ask("wake") == {"woken": 20}


def test_a_dead_32_bit_leader_hides_nobody(spawn: Spawn) -> None:
    target = spawn("churn32", "leader")
    with held(target.pid) as snapshot:
        assert snapshot.read(0, 5) == ELF32
        assert list(prstatus(snapshot)) == sorted(target.truth["tids"])
        assert b"/libc.so.6\0" in snapshot.read(0, snapshot.size)
    assert {tracer for _, tracer in target.states().values()} == {0}


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTSTP])
def test_a_32_bit_process_that_is_stopped_stays_so_and_its_core_says_by_what(
    spawn: Spawn, number: int
) -> None:
    target = spawn("threads32", 3, parent=True)
    os.kill(target.pid, number)
    assert target.line() == {"wait": number << 8 | 0x7F}
    for _ in range(STOPS):
        with held(target.pid) as snapshot:
            for desc in prstatus(snapshot).values():
                si_signo, cursig = struct.unpack_from("<i8xh", desc)
                assert (si_signo, cursig) == (number, number)
            (siginfo,) = (desc for _, kind, desc in notes(snapshot) if kind == "NT_SIGINFO")
            assert siginfo == struct.pack("<i124x", number)
        await_stopped(target)
    os.kill(target.pid, signal.SIGCONT)
    assert target.line() == {"wait": 0xFFFF}  # WIFCONTINUED
    assert target.ask("ping") == {"pong": 1}


def test_a_32_bit_thread_that_does_not_stop_is_recorded_in_part(spawn: Spawn) -> None:
    target = spawn("vforker32")
    vfork_tid = target.truth["vfork_tid"]
    with held(target.pid, stop_timeout=0.2) as snapshot:
        desc = prstatus(snapshot)[vfork_tid]
        call = current_call.system_call(target.pid, vfork_tid)
        assert call is not None
        number, arguments, sp, pc = call
        words = {name: I386.word(desc[72:140], name) & 0xFFFFFFFF for name in I386.general}
        assert words["orig_eax"] == number == SYS_VFORK
        assert (words["esp"], words["eip"]) == (sp, pc)
        names = ("ebx", "ecx", "edx", "esi", "edi", "ebp")
        assert [words[name] for name in names] == arguments
        assert desc[140:] == bytes(4)  # pr_fpvalid: no floating point registers
        assert snapshot.provenance is not None
        assert snapshot.provenance.others == {vfork_tid: "partial"}
    assert target.ask("release") == {"released": True}
    assert_free(target.pid)


def test_if_no_thread_stops_the_program_gives_the_word_size(spawn: Spawn) -> None:
    """For example if its only thread sleeps in state D: there are no registers to look at."""
    target = spawn("vforker32")
    process = find(target.pid)
    tracer = Tracer(process, Policy(stop_timeout=0))
    tracer.start()
    try:
        tracer.wait()
        assert tracer.machine is I386
    finally:
        tracer.release()
        tracer.join()
    assert target.ask("release") == {"released": True}
    # If it got no CPU meanwhile, it is waited for (process/late.py).
    await_free(target.pid)


def test_a_program_without_thread_local_storage_has_no_note_of_it(
    build: Callable[[str], Path],
) -> None:
    with asleep(build("elf32")) as pid:
        with held(pid) as snapshot:
            assert snapshot.read(0, 5) == ELF32
            kinds = [kind for _, kind, _ in notes(snapshot)]
        assert NT_386_TLS not in kinds
        assert kinds.count("NT_PRSTATUS") == 1
        assert_free(pid)


def test_a_process_that_becomes_a_32_bit_program_before_the_stop_has_a_core_of_it(
    build: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It calls execve(2) after the first checks: the core is of the program at the stop."""
    ask_before = admission.refuse_early

    def refuse_early(*arguments: Any, **named: Any) -> None:
        ask_before(*arguments, **named)
        assert process.stdin is not None
        process.stdin.close()
        while (call := current_call.system_call(process.pid, process.pid)) is None or call[0] != 29:
            assert process.poll() is None

    script = f'read line; exec "{build("elf32")}"'
    process = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE)
    try:
        monkeypatch.setattr("gcorefs.stopped.refuse_early", refuse_early)
        with held(process.pid) as snapshot:
            assert snapshot.read(0, 5) == ELF32
            assert len(prstatus(snapshot)[process.pid]) == 144
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("mode", ["segment", "number"])
def test_a_thread_of_a_64_bit_process_that_is_half_a_32_bit_one(spawn: Spawn, mode: str) -> None:
    """It runs in a 32-bit code segment, or uses i386's call numbers.  Its registers have 64 bits
    like those of the others, and its calls are restarted."""
    target = spawn("mixed", mode)
    tid = target.truth["tid"]
    for number in range(STOPS):
        while (call := current_call.system_call(target.pid, tid)) is None or call[0] != 256:
            pass
        with held(target.pid) as snapshot:
            assert snapshot.read(0, 5) == ELF64
            desc = prstatus(snapshot)[tid]
            assert len(desc) == 336
            wanted = target.truth["regs"]
            general = desc[112:328]
            assert {name: X86_64.word(general, name) for name in wanted} == wanted
            assert X86_64.word(general, "rax") == -errno.EINTR, number
            sizes = {kind: len(desc) for _, kind, desc in notes(snapshot) if kind == "NT_FPREGSET"}
            assert sizes == {"NT_FPREGSET": 512}
    assert target.ask("count") == {"interrupted": 0}
    assert_free(target.pid)


def test_a_32_bit_process_that_runs_64_bit_code_is_refused_and_let_go_at_once(
    spawn: Spawn, tune: Callable[[Tuning], None]
) -> None:
    """No 32-bit register set is to be had of it (ptrace.c, task_user_regset_view)."""
    tune(Tuning(last_look=3600))
    target = spawn("mixed32", "segment")
    tracer = Tracer(find(target.pid), Policy(stop_timeout=3600))
    tracer.start()
    with pytest.raises(ProcessError) as caught:
        tracer.wait()
    assert (caught.value.reason, caught.value.errno) == (Reason.FOREIGN, errno.EINVAL)
    tracer.join()
    assert_free(target.pid)
    assert target.ask("count") == {"interrupted": 0}


@pytest.mark.parametrize(
    ("program", "case", "is_opening"),
    [
        ("eintr", "open_fifo", True),
        ("eintr32", "open_fifo", True),
        ("eintr", "read_pipe", False),
        ("eintr32", "read_pipe", False),
    ],
)
def test_an_open_is_known_by_the_numbers_of_the_program(
    spawn: Spawn, program: str, case: str, is_opening: bool
) -> None:
    target = spawn(program, case)
    assert target.ask("blocked") == {"blocked": True}
    assert current_call.is_opening(target.truth["tid"]) is is_opening


@pytest.mark.parametrize(("program", "is_32_bit"), [("threads", False), ("threads32", True)])
def test_libc_of_32_bits_tells_the_kernel_of_locks_in_another_list(
    spawn: Spawn, program: str, is_32_bit: bool
) -> None:
    """It is in task->compat_robust_list, which we cannot ask for.  We read stat instead."""
    target = spawn(program, 2)
    for tid in tasks.tids(target.pid):
        assert address_space.is_32_bit(tid) is is_32_bit
        assert robust_list.has_robust_list(tid) is not is_32_bit
        assert not task_stat.stat(target.pid, tid).is_worker


def test_what_no_machine_is_known_for_is_refused_before_it_is_stopped(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = spawn("threads32", 1)
    monkeypatch.delitem(MACHINES, ("x86_64", True))
    snapshot = Snapshot(find(target.pid))
    with pytest.raises(ProcessError) as caught:
        snapshot.take()
    assert (caught.value.reason, caught.value.errno) == (Reason.FOREIGN, errno.EINVAL)
    assert snapshot.stopped_seconds == 0
