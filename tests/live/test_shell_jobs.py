"""A shell with job control and its jobs behave as if nobody had dumped them."""

import os
import pty
import select
import time
from pathlib import Path

import pytest

from gcorefs.kernel.proc import task_stat, task_status, tasks
from tests.live.accounts import held

SHELL = ["bash", "--norc", "--noprofile", "-i"]
PROMPT = b"ready> "
CTRL_Z, CTRL_C = b"\x1a", b"\x03"
JOB = b"sleep 1000"
SAID = JOB + b"\r\n"
"""The echo of its command, and the output of fg.  Read it before you send a key that causes a
signal: the terminal forgets unread output then (drivers/tty/n_tty.c, isig)."""


class Shell:
    """An interactive bash on its own terminal."""

    def __init__(self) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            environment = {"PATH": os.environ["PATH"], "PS1": PROMPT.decode(), "TERM": "dumb"}
            os.execvpe(SHELL[0], SHELL, environment)
        self.says()

    def tell(self, text: bytes) -> None:
        os.write(self._terminal, text)

    def says(self, end: bytes = PROMPT) -> bytes:
        """The output until the next prompt, or another end, without it."""
        said = b""
        while not said.endswith(end):
            ready, _, _ = select.select([self._terminal], [], [], 60)
            assert ready, said
            said += os.read(self._terminal, 4096)
        return said.removesuffix(end)

    def await_job(self, state: str, is_in_foreground: bool) -> int:
        """The pid of its child, when the child runs sleep, has this state, and has the terminal or
        not."""
        deadline = time.monotonic() + 200
        while True:
            for pid in tasks.children(self.pid):
                stat = task_stat.stat(pid)
                has_terminal = os.tcgetpgrp(self._terminal) == os.getpgid(pid)
                if (stat.comm, stat.state, has_terminal) == (b"sleep", state, is_in_foreground):
                    return pid
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def end(self) -> None:
        os.close(self._terminal)  # SIGHUP
        os.waitpid(self.pid, 0)


def life(dumps: int) -> list[bytes]:
    """The whole output of a shell whose job is stopped, continued and ended."""
    shell = Shell()
    said = []

    def dump(state: str, is_in_foreground: bool) -> None:
        job = shell.await_job(state, is_in_foreground)
        for pid in (job, shell.pid):
            for _ in range(dumps):
                with held(pid) as snapshot:
                    assert snapshot.unresponsive_threads == 0
            assert_job_is(pid, state if pid == job else "S")

    try:
        shell.tell(JOB + b"\n")
        said.append(shell.says(SAID))
        dump("S", True)
        for _ in range(2):
            shell.tell(CTRL_Z)
            said.append(shell.says())
            dump("T", False)
            shell.tell(b"jobs\n")
            said.append(shell.says())
            shell.tell(b"bg\n")
            said.append(shell.says())
            dump("S", False)
            shell.tell(b"jobs\n")
            said.append(shell.says())
            shell.tell(b"fg\n")
            said.append(shell.says(SAID))
            dump("S", True)
        shell.tell(CTRL_C)
        said.append(shell.says())
        shell.tell(b"echo $?; jobs\n")
        said.append(shell.says())
    finally:
        shell.end()
    return said


def assert_job_is(pid: int, state: str) -> None:
    deadline = time.monotonic() + 200
    while task_stat.stat(pid).state != state:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert task_status.tracer(pid, pid) == 0


def test_a_shell_says_the_same_of_its_jobs() -> None:
    expected = life(0)
    assert b"Stopped" in expected[1]
    assert b"130" in expected[-1]
    assert life(10) == expected


@pytest.mark.parametrize("keys", [CTRL_Z, CTRL_C], ids=["^Z", "^C"])
def test_a_key_that_is_struck_while_the_job_is_held_counts_when_it_is_let_go(keys: bytes) -> None:
    def struck(is_held: bool) -> bytes:
        shell = Shell()
        try:
            shell.tell(JOB + b"\n")
            shell.says(SAID)
            job = shell.await_job("S", True)
            if is_held:
                with held(job):
                    shell.tell(keys)
                    await_pending(job)
            else:
                shell.tell(keys)
            return shell.says()
        finally:
            shell.end()

    assert struck(True) == struck(False)


def await_pending(pid: int) -> None:
    """Wait until a signal is pending for a process: the terminal sends it after some time."""
    status = Path(f"/proc/{pid}/status")
    deadline = time.monotonic() + 200
    while "ShdPnd:\t0000000000000000" in status.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.002)
