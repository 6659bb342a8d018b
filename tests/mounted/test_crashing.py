"""A process that is writing its core into a pipe with a slow reader, like systemd-coredump and
apport: gcorefs never costs a byte of that core.

PTRACE_INTERRUPT would end the write of the thread that dumps (fs/pipe.c, pipe_write), and so the
core.
"""

import contextlib
import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcorefs.elfcore.corefile import Core, read_core
from gcorefs.kernel import ptrace
from gcorefs.kernel.proc import procfile, task_stat, task_status, tasks
from gcorefs.process.errors import ProcessError, Reason
from tests.conftest import Mount, Target, wait_until_gone
from tests.mounted.conftest import assert_refused, errno_of, eventually, gcorefs, run
from tests.readers.conftest import core_pattern_is
from tests.snapshot import Snapshot, find

MIB = 8
WHY = "it is writing its core"
CRASHES = ["segv", "seccomp"]

HANDLER = """#!/bin/sh
read -r _ < {gate}
cat > {core}.part
mv {core}.part {core}
"""


class SlowReader:
    """Reads the kernel's core when it is told to."""

    def __init__(self, folder: Path) -> None:
        self.core = folder / "kernels"
        self._gate = folder / "gate"
        os.mkfifo(self._gate)
        handler = folder / "handler"
        handler.write_text(HANDLER.format(gate=self._gate, core=self.core))
        handler.chmod(0o755)
        self.pattern = f"|{handler}"

    def end(self) -> None:
        """If the test has failed, nobody must wait at the gate for ever."""
        gate = os.open(self._gate, os.O_RDWR | os.O_NONBLOCK)  # fifo(7): this does not block
        os.write(gate, b"go\n")
        os.close(gate)

    def finish(self, target: Target) -> Core:
        """Let the kernel write the core to its end."""
        self._gate.write_text("go\n")
        wait_until_gone(target.pid)
        eventually(self.core.exists)  # the process does not wait for its reader (core(5))
        with self.core.open("rb") as file:
            return read_core(file)


@pytest.fixture
def slow_reader(tmp_path: Path) -> Iterator[SlowReader]:
    reader = SlowReader(tmp_path)
    with core_pattern_is(reader.pattern):
        yield reader
        reader.end()


def is_dumping(pid: int) -> bool:
    return task_status.status(pid)["CoreDumping"] == b"1"


def crash(target: Target, how: str) -> None:
    """Crash it, and wait until its core is being written."""
    target.tell(how)
    eventually(lambda: is_dumping(target.pid))


def assert_whole(core: Core, size: int = MIB << 20) -> None:
    assert core.missing == 0
    assert core.threads == 5
    assert max(load.filesz for load in core.loads) >= size


@pytest.mark.parametrize("how", CRASHES)
def test_a_look_through_the_mount(
    mount: Mount, spawn: Callable[..., Target], slow_reader: SlowReader, how: str
) -> None:
    target = spawn("crasher", MIB)
    crash(target, how)
    for _ in range(4):
        mount.expect(WHY)
    assert (mount / target.pid).stat().st_size > MIB << 20  # stat(2) stops no process
    assert errno_of(lambda: os.open(mount / target.pid, os.O_RDONLY)) == errno.EBUSY
    for command in (["cp"], ["head", "-c", "1"]):
        words = [*command, mount / target.pid, *(["/dev/null"] if command == ["cp"] else [])]
        result = run(*words)
        assert result.returncode == 1
        assert os.strerror(errno.EBUSY) in result.stderr.decode()
    assert is_dumping(target.pid)
    assert_whole(slow_reader.finish(target))


@pytest.mark.parametrize("how", CRASHES)
def test_a_look_by_command(
    tmp_path: Path, spawn: Callable[..., Target], slow_reader: SlowReader, how: str
) -> None:
    target = spawn("crasher", MIB)
    crash(target, how)
    assert_refused(gcorefs("dump", target.pid, "-o", tmp_path / "ours"), str(target.pid), WHY)
    assert_refused(gcorefs("dump", "--hold", "copy", target.pid), str(target.pid), WHY)
    assert_refused(gcorefs("info", target.pid), str(target.pid), WHY)
    assert not (tmp_path / "ours").exists()
    assert_whole(slow_reader.finish(target))


def test_one_that_crashed_in_a_thread_and_has_lost_its_leader(
    spawn: Callable[..., Target], slow_reader: SlowReader
) -> None:
    """A dead leader has no memory, and its status does not say that a core is written."""
    target = spawn("crasher", MIB)
    target.tell("exit")
    eventually(lambda: task_stat.stat(target.pid).is_dead)
    os.kill(target.pid, 6)
    eventually(lambda: len(tasks.tids(target.pid)) == 5 and is_dumping_by_any(target.pid))
    assert_refused(gcorefs("dump", target.pid, "-o", "-"), str(target.pid), WHY)
    core = slow_reader.finish(target)
    assert core.missing == 0


def is_dumping_by_any(pid: int) -> bool:
    return any(task_status.status(pid, tid).get("CoreDumping") == b"1" for tid in tasks.tids(pid))


@pytest.mark.parametrize("how", CRASHES)
def test_it_begins_between_the_seize_and_the_interrupt(
    spawn: Callable[..., Target],
    slow_reader: SlowReader,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    """The kill of a filter does not ask the tracer.  With any other signal the thread stops first,
    and then the core begins while the other threads stand still."""
    target = spawn("crasher", MIB)
    tids = tasks.tids(target.pid)
    seize = ptrace.seize

    def seize_and_crash(tid: int) -> None:
        seize(tid)
        if tid == tids[-1]:
            target.tell(how)
            eventually(lambda: is_dumping(target.pid) or is_in_signal_stop(target.pid))

    monkeypatch.setattr(ptrace, "seize", seize_and_crash)
    snapshot = Snapshot(find(target.pid))
    with pytest.raises(ProcessError) as raised:
        snapshot.take()
    assert raised.value.reason is Reason.DUMPING
    assert is_dumping(target.pid)
    assert_whole(slow_reader.finish(target))


def is_in_signal_stop(pid: int) -> bool:
    return task_stat.stat(pid, pid).state == "t"


def test_a_process_that_crashed_and_is_gone(
    mount: Mount, spawn: Callable[..., Target], slow_reader: SlowReader
) -> None:
    target = spawn("crasher", MIB)
    crash(target, "segv")
    assert_whole(slow_reader.finish(target))
    target.popen.wait(10)
    assert subprocess.run(["ls", mount / target.pid], capture_output=True, check=False).returncode


def test_the_program_that_reads_the_core_is_listed(
    mount: Mount, spawn: Callable[..., Target], slow_reader: SlowReader
) -> None:
    """It is a child of kthreadd, like kernel threads."""
    target = spawn("crasher", MIB)
    crash(target, CRASHES[0])
    kthreadd, name = 2, slow_reader.pattern.removeprefix("|").encode()

    def handlers() -> list[str]:
        # A kernel thread has no arguments.
        found = [pid for pid in tasks.children(kthreadd) if has_argument(pid, name)]
        return list(map(str, found))

    eventually(lambda: len(handlers()) == 1)
    assert set(handlers()) <= set(os.listdir(mount.path))
    assert str(kthreadd) not in os.listdir(mount.path)
    assert_whole(slow_reader.finish(target))


def has_argument(pid: int, word: bytes) -> bool:
    with contextlib.suppress(ProcessLookupError):
        return word in procfile.read(f"{pid}/cmdline").split(b"\0")
    return False
