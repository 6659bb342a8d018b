"""What a core says about the signal that stopped its process, and how gdb and lldb show it."""

import os
import re
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Mount, Target
from tests.live.test_tracer import await_stopped
from tests.readers.corefile import Core
from tests.readers.debuggers import gdb, lldb

STOP_SIGNALS = [signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU]
SIGNO = "print $_siginfo.si_signo"
REST = "print $_siginfo.si_code + $_siginfo._sifields._kill.si_pid"

Spawn = Callable[..., Target]


def stop(target: Target, number: signal.Signals) -> None:
    os.kill(target.pid, number)
    assert target.line() == {"wait": number << 8 | 0x7F}
    await_stopped(target)


def cont(target: Target) -> None:
    os.kill(target.pid, signal.SIGCONT)
    assert target.line() == {"wait": 0xFFFF}
    assert target.ask("ping") == {"pong": 1}


def assert_readers_say(program: Path, core: Path, number: signal.Signals) -> None:
    text = gdb(program, core, "--", SIGNO, REST)
    assert re.search(rf"^Program terminated with signal {number.name}, ", text, re.MULTILINE)
    assert text.endswith(f"$1 = {number.value}\n$2 = 0\n")
    first, *_ = re.findall(r"^\* thread #1: .*", lldb(program, core, "thread list"), re.MULTILINE)
    # lldb 21 adds what si_code 0 means.
    assert re.search(rf"stop reason = (signal )?{number.name}(: .*)?$", first)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stopped_process_says_by_which_signal(
    spawn: Spawn, build: Callable[[str], Path], dump: Callable[[int], Path], number: signal.Signals
) -> None:
    target = spawn("threads", 3, parent=True)
    stop(target, number)
    path = dump(target.pid)
    core = Core(path)
    assert len(core.threads) == 4
    for thread in core.threads.values():
        assert (thread.status["si_signo"], thread.status["cursig"]) == (number, number)
        assert (thread.status["si_code"], thread.status["si_errno"]) == (0, 0)
    # It is no longer known who sent it and how.
    assert core.note("NT_SIGINFO") == struct.pack("<i124x", number)
    assert_readers_say(build("threads"), path, number)
    await_stopped(target)
    cont(target)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTTIN])
def test_the_mounted_file_says_so_too(
    spawn: Spawn, build: Callable[[str], Path], mount: Mount, number: signal.Signals
) -> None:
    target = spawn("threads", 3, parent=True)
    stop(target, number)
    assert_readers_say(build("threads"), mount / target.pid, number)
    cont(target)


def test_if_the_leader_is_dead_the_first_thread_says_so(
    spawn: Spawn, dump: Callable[[int], Path]
) -> None:
    target = spawn("churn", "leader", parent=True)
    os.kill(target.pid, signal.SIGSTOP)
    assert target.line() == {"wait": signal.SIGSTOP << 8 | 0x7F}
    path = dump(target.pid)
    core = Core(path)
    assert {thread.status["cursig"] for thread in core.threads.values()} == {signal.SIGSTOP}
    assert core.note("NT_SIGINFO") == struct.pack("<i124x", signal.SIGSTOP)
    os.kill(target.pid, signal.SIGCONT)
    assert target.line() == {"wait": 0xFFFF}


def test_a_process_that_no_signal_stopped_names_none(
    spawn: Spawn, dump: Callable[[int], Path]
) -> None:
    target = spawn("threads", 3)
    path = dump(target.pid)
    core = Core(path)
    assert "NT_SIGINFO" not in [note.kind for note in core.notes]
    assert {thread.status["cursig"] for thread in core.threads.values()} == {0}
    assert "terminated" not in gdb(target.argv[0], path, "--", "info threads")
    listed = lldb(Path(target.argv[0]), path, "thread list")
    assert f"* thread #1: tid = {target.pid}, " in listed


def test_a_signal_on_its_way_is_not_what_stopped_it(
    spawn: Spawn, dump: Callable[[int], Path]
) -> None:
    """Blocked signals stay pending, and a handled signal goes on to its handler."""
    target = spawn("ledger")
    taker = target.truth["taker"]
    for number in (signal.SIGRTMIN, signal.SIGRTMIN, signal.SIGRTMIN):
        os.kill(target.pid, number)
        core = Core(dump(target.pid))
        assert "NT_SIGINFO" not in [note.kind for note in core.notes]
        assert {thread.status["cursig"] for thread in core.threads.values()} == {0}
        assert taker in core.threads
    while target.ask("account")["handled"] < 3:
        pass
    assert target.ask("account")["handled"] == 3
