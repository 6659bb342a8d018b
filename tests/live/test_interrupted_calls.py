"""The program never sees a stop as an EINTR, and a stop never takes away an EINTR that is due.

tests/targets/eintr.c has every blocking call that we know, and counts the results.  The comment at
the top of that file explains its counters.
"""

import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gcorefs.arch import HOST
from gcorefs.arch.aarch64 import AARCH64
from gcorefs.policy import Policy
from gcorefs.sources.tracer import Tracer
from tests.conftest import TARGETS, Target
from tests.features import needs_call
from tests.snapshot import find

SOURCE = (TARGETS / "eintr.c").read_text()
CASES = {
    "eintr": re.findall(r"^X(?:64|OLD|OLD64)?\((\w+),", SOURCE, re.M),
    "eintr32": re.findall(r"^X(?:32|OLD)?\((\w+),", SOURCE, re.M),
}
if HOST.native is AARCH64:
    CASES = {"eintr": re.findall(r"^X(?:64)?\((\w+),", SOURCE, re.M)}
EVERY = pytest.mark.parametrize(
    ("program", "name"), [(program, name) for program in CASES for name in CASES[program]]
)

STOPS = 1_000
FEWER_STOPS = 100
REPAIRS = [200, pytest.param(STOPS, marks=pytest.mark.full)]
"""Stops of a thread whose EINTR must be repaired.  Each stop meets it at some other moment."""


PATIENT = Policy(stop_timeout=5)


@contextmanager
def stopped(pid: int, policy: Policy = PATIENT) -> Iterator[Tracer]:
    tracer = Tracer(find(pid), policy)
    tracer.start()
    try:
        tracer.wait()
        yield tracer
    finally:
        tracer.release()
        tracer.join()


def skip_if_it_cannot_be_seized(case: Target, name: str) -> None:
    """An old kernel opens the program of an execve(2) with cred_guard_mutex held (fs/exec.c,
    bprm_execve), and PTRACE_SEIZE waits for that mutex."""
    if not name.startswith("fuse_exec"):
        return
    assert case.ask("blocked") == {"blocked": True}
    if "bprm_execve" in Path(f"/proc/{case.pid}/task/{case.truth['tid']}/stack").read_text():
        pytest.skip("execve(2) opens a program with cred_guard_mutex held")


@pytest.mark.parametrize("program", CASES)
def test_all_cases_are_found(program: str, build: Callable[[str], Path]) -> None:
    listed = subprocess.run([build(program), "--list"], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == CASES[program]


@pytest.mark.parametrize("repairs", REPAIRS)
@EVERY
def test_no_stop_is_seen_as_eintr(
    program: str, name: str, repairs: int, spawn: Callable[..., Target]
) -> None:
    needs_call(name.removeprefix("fuse_"))
    case = spawn(program, name)
    skip_if_it_cannot_be_seized(case, name)
    # A FUSE server gets the request in any case, so timing does not matter.
    is_rare = case.truth["repair"] and not name.startswith("fuse_")
    stops = repairs if is_rare else FEWER_STOPS
    for number in range(stops):
        # Half of the stops certainly find the thread asleep in the call; the others find it
        # anywhere, often on its way back into the call.
        if number % 2:
            assert case.ask("blocked") == {"blocked": True}
        with stopped(case.pid):
            pass
    assert case.ask("blocked") == {"blocked": True}
    counts = case.ask("counts")
    assert (counts["spurious"], counts["other"], counts["genuine"]) == (0, 0, 0), counts


@pytest.mark.parametrize("name", ["epoll_pwait", "semop", "rt_sigtimedwait", "recv_rcvtimeo"])
def test_a_stop_that_is_given_up_is_not_seen_either(
    name: str, spawn: Callable[..., Target]
) -> None:
    case = spawn("eintr", name)
    for number in range(STOPS):
        assert case.ask("blocked") == {"blocked": True}
        tracer = Tracer(find(case.pid), Policy(stop_timeout=5))
        tracer.start()
        # Let it go at every point of the stop: at once, or after a delay.
        for _ in range(number % 50 * 20):
            pass
        tracer.release()
        tracer.join()
    assert case.ask("blocked") == {"blocked": True}
    counts = case.ask("counts")
    assert (counts["spurious"], counts["other"], counts["genuine"]) == (0, 0, 0), counts


HOLD = """
import sys, time
from gcorefs.policy import Policy
from gcorefs.sources.tracer import Tracer
from tests.snapshot import find
tracer = Tracer(find(int(sys.argv[1])), Policy(stop_timeout=5))
tracer.start()
tracer.wait()
print("stopped", flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("name", ["epoll_pwait", "semop", "rt_sigtimedwait", "recv_rcvtimeo"])
def test_a_tracer_that_is_killed_is_not_seen(name: str, spawn: Callable[..., Target]) -> None:
    case = spawn("eintr", name)
    signals = 0
    for has_signal in (False, True):
        assert case.ask("blocked") == {"blocked": True}
        command = [sys.executable, "-c", HOLD, str(case.pid)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "stopped\n"
            if has_signal:
                signal_held(case)
                signals += 1
            holder.kill()
        await_handlers(case, signals)
    assert case.ask("blocked") == {"blocked": True}
    counts = case.ask("counts")
    assert (counts["spurious"], counts["other"]) == (0, 0), counts
    assert (counts["handled"], counts["genuine"] + counts["restarted"]) == (signals, signals), (
        counts
    )


@pytest.mark.parametrize("flags", [[], ["--restart"]], ids=["plain", "SA_RESTART"])
@EVERY
def test_a_signal_gives_the_eintr_that_is_due(
    program: str, name: str, flags: list[str], spawn: Callable[..., Target]
) -> None:
    needs_call(name.removeprefix("fuse_"))
    case = spawn(program, name, *flags)
    skip_if_it_cannot_be_seized(case, name)
    due = case.truth["handler"] == "eintr" or (case.truth["handler"] == "flag" and not flags)
    signals = 0
    for when in ("before", "during", "after", "right after") * 2:
        assert case.ask("blocked") == {"blocked": True}
        if when == "before":
            case.ask("signal")
        with stopped(case.pid):
            if when == "during":
                signal_held(case)
        if when == "after":
            assert case.ask("blocked") == {"blocked": True}
        if when.endswith("after"):
            case.ask("signal")
        signals += 1
        await_handlers(case, signals)
    assert case.ask("blocked") == {"blocked": True}
    counts = case.ask("counts")
    assert (counts["spurious"], counts["other"], counts["handled"]) == (0, 0, signals), counts
    if due:
        # A signal right after the stop may meet a thread on its way back into the call, as with
        # a call that the kernel restarts by itself; no EINTR is due then.
        assert counts["restarted"] + counts["outside"] <= 2, counts
        assert counts["genuine"] + counts["restarted"] + counts["outside"] == signals, counts
    else:
        assert counts["genuine"] == 0, counts


@pytest.mark.parametrize(("call", "means"), [("fallocate", "huge_pages"), ("bpf", "bpf")])
def test_a_call_that_works_until_it_is_interrupted_works_on(
    call: str, means: str, request: pytest.FixtureRequest, spawn: Callable[..., Target]
) -> None:
    request.getfixturevalue(means)
    target = spawn("works", call)
    for number in range(FEWER_STOPS):
        with stopped(target.pid):
            pass
        while target.ask("rounds")["rounds"] <= number:
            pass
    counts = target.ask("rounds")
    assert (counts["interrupted"], counts["failed"]) == (0, 0), counts


@pytest.mark.usefixtures("bpf")
def test_a_program_is_loaded_although_a_handler_runs_first(spawn: Callable[..., Target]) -> None:
    target = spawn("works", "bpf")
    for number in range(FEWER_STOPS):
        with stopped(target.pid):
            os.kill(target.pid, signal.SIGUSR1)
        while target.ask("rounds")["rounds"] <= number:
            pass
    counts = target.ask("rounds")
    assert (counts["interrupted"], counts["failed"]) == (0, 0), counts


def await_handlers(case: Target, count: int) -> None:
    while case.ask("counts")["handled"] < count:
        case.ask("blocked")


def signal_held(case: Target) -> None:
    """Send SIGUSR1 to the worker from outside: the whole target stands still."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.tgkill(case.pid, case.truth["tid"], signal.SIGUSR1) == 0
