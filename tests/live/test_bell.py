"""The Python interface in a program that uses signals: it keeps its own, and a stop still ends."""

import errno
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

import gcorefs
from tests.conftest import Target
from tests.live.accounts import assert_free, await_free

Spawn = Callable[..., Target]

# Sends itself signals before, in and after a stop, and prints how many of each have arrived.
COUNTS = """
import os, signal, sys
import gcorefs

pid, number = int(sys.argv[1]), int(sys.argv[2])
arrived = 0

def count(*_):
    global arrived
    arrived += 1

def send():
    global arrived
    arrived = 0
    for _ in range(10):
        os.kill(os.getpid(), number)
        signal.getsignal(number)  # a call: the handler has run behind it
    print(arrived, flush=True)

signal.signal(number, count)
send()
with gcorefs.stop(pid) as stop:
    stop.core().read(0, 4)
    send()
send()
"""

# The same for a program that blocks the signal and asks for it.
ASKS = """
import os, signal, sys
import gcorefs

pid, number = int(sys.argv[1]), int(sys.argv[2])
signal.pthread_sigmask(signal.SIG_BLOCK, {number})

def send():
    arrived = 0
    for _ in range(10):
        os.kill(os.getpid(), number)
        arrived += signal.sigtimedwait({number}, 0) is not None
    print(arrived, flush=True)

send()
with gcorefs.stop(pid) as stop:
    stop.core().read(0, 4)
    send()
send()
"""

IGNORED_BY_DEFAULT = [signal.SIGURG, signal.SIGWINCH, signal.SIGCONT]


@pytest.mark.parametrize("program", [COUNTS, ASKS], ids=["counts", "asks"])
@pytest.mark.parametrize("number", [*IGNORED_BY_DEFAULT, signal.SIGUSR1])
def test_a_program_that_stops_others_keeps_its_signals(
    spawn: Spawn, program: str, number: signal.Signals
) -> None:
    target = spawn("threads", 3)
    command = [sys.executable, "-c", program, str(target.pid), str(int(number))]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert (done.stderr, done.stdout.split()) == (b"", [b"10"] * 3)
    assert_free(target.pid)


# Sets a signal in its block, in one of several ways, and prints what holds after the block.
SETS = """
import asyncio, json, signal, sys
import gcorefs

pid, number, way = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

def handle(*_):
    pass

def change():
    if way == "loop":
        loop.add_signal_handler(number, handle)
    else:
        how = {"default": signal.SIG_DFL, "ignored": signal.SIG_IGN}.get(way, handle)
        signal.signal(number, how)
        if way == "restarted":
            signal.siginterrupt(number, False)

loop = asyncio.new_event_loop()
for _ in range(3):
    with gcorefs.stop(pid) as stop:
        core = stop.core()
        change()
        assert core.read(0, 4) == b"\\x7fELF"
    with open(f"/proc/{pid}/status") as file:
        lines = dict(line.split(":\\t", 1) for line in file.read().splitlines())
    print(lines["State"][0] in "tT", lines["TracerPid"])
"""


@pytest.mark.parametrize("way", ["default", "ignored", "handled", "restarted", "loop"])
@pytest.mark.parametrize("number", [signal.SIGURG, signal.SIGSTKFLT])
def test_a_block_ends_whatever_the_program_does_to_its_signals(
    spawn: Spawn, number: signal.Signals, way: str
) -> None:
    target = spawn("threads", 3)
    command = [sys.executable, "-c", SETS, str(target.pid), str(int(number)), way]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert (done.stderr, done.stdout.splitlines()) == (b"", [b"False 0"] * 3)
    assert_free(target.pid)


REPEATS = """
import ctypes, os
from gcorefs.kernel import ending_signals
from gcorefs.kernel.bell import RepeatedRing

ending_signals.remember()
ring = RepeatedRing(0.01)
libc = ctypes.CDLL(None, use_errno=True)
reading, writing = os.pipe()
for _ in range(3):
    ring.turn_on()
    print(libc.read(reading, ctypes.create_string_buffer(1), 1), ctypes.get_errno())
    ring.turn_off()
"""


def test_a_repeated_ring_ends_a_call_that_sleeps() -> None:
    command = [sys.executable, "-c", REPEATS]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert (done.stderr, done.stdout.splitlines()) == (b"", [b"-1 %d" % errno.EINTR] * 3)


class _TimeOutError(Exception):
    pass


def _raise_at_entry(code: object) -> Callable[..., None]:
    """A profile function that raises when this function is entered: there Python runs the handlers
    of signals."""

    def profile(frame: object, event: str, _: object) -> None:
        if event == "call" and getattr(frame, "f_code", None) is code:
            raise _TimeOutError

    return profile


def test_an_exception_at_the_end_of_the_block_lets_the_process_go(spawn: Spawn) -> None:
    """As of a handler of SIGALRM or SIGINT, in the moment in which nothing of the end has run."""
    target = spawn("threads", 3)

    def take() -> None:
        with gcorefs.stop(target.pid) as stop:
            assert stop.core().read(0, 4) == b"\x7fELF"
            sys.setprofile(_raise_at_entry(gcorefs.Stop.__exit__.__code__))

    try:
        take()
    except _TimeOutError:
        pass
    else:
        pytest.fail("no exception")
    finally:
        sys.setprofile(None)
    gc.collect()
    await_free(target.pid)
    assert_free(target.pid)


def test_a_stop_that_is_forgotten_lets_the_process_go(spawn: Spawn) -> None:
    target = spawn("threads", 3)
    stop = gcorefs.stop(target.pid)
    core = stop.__enter__().core()
    del stop
    gc.collect()
    assert core.read(0, 4) == b"\x7fELF"  # its core needs it
    assert target.state_letters() == {"t"}
    del core
    gc.collect()
    await_free(target.pid)
    assert_free(target.pid)


def test_a_stop_that_is_forgotten_when_there_is_no_thread_lets_the_process_go(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = spawn("threads", 3)
    stop = gcorefs.stop(target.pid)
    stop.__enter__()

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("_thread.start_new_thread", refuse)
    del stop
    gc.collect()
    await_free(target.pid)
    assert_free(target.pid)


def test_a_child_of_fork_that_forgets_a_stop_lets_nobody_go(spawn: Spawn) -> None:
    target = spawn("threads", 3)
    stop = gcorefs.stop(target.pid)
    stop.__enter__()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            del stop
            gc.collect()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert target.state_letters() == {"t"}
    stop.__exit__()
    assert_free(target.pid)
