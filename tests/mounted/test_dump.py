"""`gcorefs dump`: the same core as in the mount, in a file that is complete or does not exist."""

import ast
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcorefs.arch.machine import NT_PRSTATUS
from gcorefs.kernel.proc import procfile, task_stat, task_status, tasks
from gcorefs.tuning import Tuning
from tests.conftest import GCOREFS, Mount, Target, of_each_thread, text_of, wait_until_asleep
from tests.mounted.conftest import (
    PAGE,
    assert_refused,
    blocked,
    eventually,
    gcorefs,
    is_free,
    is_held,
    opened,
    run,
    whole,
)
from tests.tuned import program

# struct elf_prstatus (include/linux/elfcore.h): pr_utime to pr_cstime, four struct timeval.
TIMES = slice(48, 112)


def without_times(core: bytes) -> bytes:
    """A core in which no thread has used any time, and which does not say when it was made: only
    that differs between two stops of a sleeping process."""
    data = bytearray(core)
    offset, _, _, size = struct.unpack_from("<4Q", core, 64 + 8)  # of PT_NOTE
    end = offset + size
    while offset < end:
        name, length, kind = struct.unpack_from("<3I", core, offset)
        start = offset + 12 + -(-name // 4) * 4
        if kind == NT_PRSTATUS and core[offset + 12 : offset + 12 + name] == b"CORE\0":
            data[start + TIMES.start : start + TIMES.stop] = bytes(64)
        if kind == int.from_bytes(b"GCOR"):  # the last one; its length is in p_filesz
            data[64 + 32 : 64 + 40] = bytes(8)
            data[offset : -(-end // PAGE) * PAGE] = bytes(-(-end // PAGE) * PAGE - offset)
        offset = start + -(-length // 4) * 4
    assert offset == end
    return bytes(data)


@pytest.fixture
def before(
    mount: Mount, spawn: Callable[..., Target], monkeypatch: pytest.MonkeyPatch
) -> tuple[Target, bytes]:
    """A sleeping target, and its core through the mount."""
    # Without this, the kernel writes the current processor into each thread's memory (rseq(2)).
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.pthread.rseq=0")
    target = spawn("threads", 3)
    wait_until_asleep(target.pid)  # it prints its line a moment before it sleeps
    with opened(mount / target.pid) as fd:
        core = whole(fd)
    eventually(lambda: is_free(target.pid))
    # Not only let go, but asleep again.
    eventually(lambda: target.state_letters() == {"S"})
    return target, core


def test_a_dump_is_the_core_of_the_mount(before: tuple[Target, bytes], tmp_path: Path) -> None:
    target, expected = before
    file = tmp_path / "core"
    result = gcorefs("dump", target.pid, "-o", file)
    assert (result.returncode, result.stdout) == (0, b"")
    assert without_times(file.read_bytes()) == without_times(expected)
    assert target.ask("ping") == {"pong": 1}


@pytest.mark.parametrize("words", [[], ["-o", "-"]])
def test_into_a_pipe_goes_the_same_core(before: tuple[Target, bytes], words: list[str]) -> None:
    target, expected = before
    result = gcorefs("dump", target.pid, *words)
    assert result.returncode == 0
    assert without_times(result.stdout) == without_times(expected)


def test_a_device_or_pipe_by_name_is_written_to(
    before: tuple[Target, bytes], tmp_path: Path
) -> None:
    target, expected = before
    fifo, copy = tmp_path / "fifo", tmp_path / "copy"
    os.mkfifo(fifo)
    with subprocess.Popen(["cp", "--copy-contents", fifo, copy]) as reader:
        assert gcorefs("dump", target.pid, "-o", fifo).returncode == 0
        assert reader.wait() == 0
    assert without_times(copy.read_bytes()) == without_times(expected)
    assert fifo.is_fifo()
    assert gcorefs("dump", target.pid, "-o", "/dev/null").returncode == 0
    assert Path("/dev/null").is_char_device()


def test_the_file_is_for_its_owner_alone(spawn: Callable[..., Target], tmp_path: Path) -> None:
    file, link = tmp_path / "core", tmp_path / "link"
    file.write_bytes(b"old")
    file.chmod(0o644)
    link.symlink_to(file.name)
    assert gcorefs("dump", spawn("threads", 1).pid, "-o", link).returncode == 0
    assert oct(file.stat().st_mode) == "0o100600"
    assert file.read_bytes().startswith(b"\x7fELF")
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["core", "link"]


def test_a_place_that_cannot_be_written_is_refused(
    spawn: Callable[..., Target], tmp_path: Path
) -> None:
    target = spawn("threads", 1)
    (tmp_path / "file").touch()
    places = {
        tmp_path / "missing" / "core": "No such file or directory",
        tmp_path / "file" / "core": "Not a directory",
        tmp_path: "Is a directory",
        Path("/proc/core"): "",
        Path("/dev/full"): "No space left on device",
    }
    for place, words in places.items():
        assert_refused(gcorefs("dump", target.pid, "-o", place), words)
        assert is_free(target.pid)
    assert os.listdir(tmp_path) == ["file"]


def test_a_reader_that_goes_away_is_one_line(spawn: Callable[..., Target]) -> None:
    target = spawn("threads", 1)
    script = '"$1" dump "$2" | head -c 1 > /dev/null; echo "${PIPESTATUS[0]}"'
    result = run("bash", "-c", script, "-", GCOREFS, target.pid)
    assert result.stdout == b"1\n"
    assert len(result.stderr.splitlines()) == 1
    assert is_free(target.pid)


def test_what_cannot_be_dumped_is_refused(
    spawn: Callable[..., Target], strace: Callable[[int], int], tmp_path: Path
) -> None:
    file = tmp_path / "core"
    file.write_bytes(b"old")
    kernel = next(pid for pid in tasks.pids() if task_stat.stat(pid).is_kernel_thread)
    traced, dead = spawn("threads", 1), spawn("threads", 1)
    tracer = strace(traced.pid)
    dead.popen.kill()
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
    reasons = {
        4194305: "there is no such process",
        kernel: "a kernel thread has no memory of its own",
        traced.pid: f"TracerPid {tracer}",
        dead.pid: "no thread of it lives",
    }
    for pid, words in reasons.items():
        assert_refused(gcorefs("dump", pid, "-o", file), f"process {pid}: ", words)
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["core"]


def test_a_thread_that_leads_no_process_is_refused(spawn: Callable[..., Target]) -> None:
    tid = spawn("threads", 1).truth["threads"][0]["tid"]
    assert_refused(gcorefs("dump", tid), f"process {tid}: there is no such process")


def test_it_does_not_dump_itself(tmp_path: Path) -> None:
    result = run("sh", "-c", 'exec "$1" dump $$ -o core', "-", GCOREFS, cwd=tmp_path)
    assert_refused(result, "this is gcorefs itself")
    assert os.listdir(tmp_path) == []


def test_the_shell_that_runs_it_can_be_dumped(tmp_path: Path) -> None:
    script = '"$1" dump $$ -o core && echo alive'
    assert run("sh", "-c", script, "-", GCOREFS, cwd=tmp_path).stdout == b"alive\n"
    assert (tmp_path / "core").read_bytes().startswith(b"\x7fELF")


@pytest.fixture
def halfway(spawn: Callable[..., Target], tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A dump over an older file.  The dump itself is stopped while it holds its target.

    A vforker takes as long to stop as a thread may (stop_timeout), so there is time for that.
    """
    target = spawn("vforker")
    (tmp_path / "core").write_bytes(b"old")
    command = [GCOREFS, "dump", str(target.pid), "-o", tmp_path / "core"]
    with subprocess.Popen(text_of(command), stderr=subprocess.PIPE) as dumper:
        try:
            eventually(lambda: task_stat.stat(target.pid, target.pid).state == "t")
            dumper.send_signal(signal.SIGSTOP)
            eventually(lambda: task_stat.stat(dumper.pid).state == "T")
            assert os.listdir(tmp_path) == ["core"]
            yield dumper
            eventually(lambda: is_free(target.pid))
            assert target.ask("release") == {"released": True}
        finally:
            dumper.kill()


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 1),
        (signal.SIGTERM, 128 + 15),
        (signal.SIGHUP, 128 + 1),
        (signal.SIGQUIT, 128 + 3),
        (signal.SIGXCPU, 128 + 24),
    ],
)
def test_a_signal_ends_it_in_good_order(
    halfway: "subprocess.Popen[bytes]", tmp_path: Path, number: signal.Signals, status: int
) -> None:
    halfway.send_signal(number)
    halfway.send_signal(signal.SIGCONT)
    _, said = halfway.communicate()
    assert halfway.returncode == status
    assert b"Traceback" not in said
    assert os.listdir(tmp_path) == ["core"]
    assert (tmp_path / "core").read_bytes() == b"old"


ENDED = """
import os, sys, signal
from gcorefs.cli import stopping
from gcorefs.kernel.ending_signals import ENDING

stopping.end_in_good_order()
try:
    os.kill(os.getpid(), int(sys.argv[1]))
finally:
    for number in ENDING:
        os.kill(os.getpid(), number)
    print("let go", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT, signal.SIGRTMAX])
def test_only_the_first_signal_counts(number: signal.Signals) -> None:
    # A second one would end the release in the middle.
    result = run(sys.executable, "-c", ENDED, int(number))
    assert (result.returncode, result.stdout, result.stderr) == (128 + number, b"let go\n", b"")


def test_a_second_interrupt_does_not_end_it() -> None:
    result = run(sys.executable, "-c", ENDED, int(signal.SIGINT))
    assert result.stdout == b"let go\n"
    assert result.stderr.count(b"Traceback") == 1


def test_a_signal_that_is_ignored_stays_ignored(
    spawn: Callable[..., Target], tmp_path: Path
) -> None:
    # nohup(1), and a shell that starts a job in the background (POSIX, 2.11).
    target = spawn("threads", 3)
    command = ["sh", "-c", 'trap "" HUP INT QUIT; exec "$@"', "-", GCOREFS, "dump", target.pid]
    with subprocess.Popen(text_of(command), stdout=subprocess.PIPE) as dumper:
        assert dumper.stdout is not None
        fcntl.fcntl(dumper.stdout, fcntl.F_SETPIPE_SZ, 4096)
        assert dumper.stdout.read(4) == b"\x7fELF"
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
            dumper.send_signal(number)
        assert dumper.stdout.read()
        assert dumper.wait() == 0


def test_a_signal_that_the_caller_blocks_ends_it(
    spawn: Callable[..., Target], tmp_path: Path
) -> None:
    """A thread that takes signals by sigwait(3) starts it."""
    target = spawn("threads", 3)
    with blocked(signal.SIGTERM), subprocess.Popen(
        text_of([GCOREFS, "dump", target.pid]), stdout=subprocess.PIPE
    ) as dumper:  # fmt: skip
        assert dumper.stdout is not None
        assert dumper.stdout.read(4) == b"\x7fELF"
        dumper.send_signal(signal.SIGTERM)
        assert dumper.wait(60) == 128 + signal.SIGTERM
    assert is_free(target.pid)


def test_killed_it_still_lets_go(halfway: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    halfway.send_signal(signal.SIGKILL)
    halfway.wait()
    assert os.listdir(tmp_path) == ["core"]
    assert (tmp_path / "core").read_bytes() == b"old"


def test_the_suspend_key_counts_when_the_process_runs_again(spawn: Callable[..., Target]) -> None:
    target = spawn("threads", 3)
    command = [GCOREFS, "dump", str(target.pid)]
    # A group of its own: SIGTSTP does not stop a process of an orphaned group (setpgid(2)).
    with subprocess.Popen(text_of(command), stdout=subprocess.PIPE, process_group=0) as dumper:
        output = dumper.stdout
        assert output is not None
        fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, 4096)
        assert output.read(4) == b"\x7fELF"
        assert is_held(target.pid)
        dumper.send_signal(signal.SIGTSTP)
        os.set_blocking(output.fileno(), False)

        def runs_again() -> bool:
            output.read()
            return is_free(target.pid)

        try:
            eventually(runs_again)
            eventually(lambda: task_stat.stat(dumper.pid).state == "T")
        finally:
            dumper.send_signal(signal.SIGCONT)
        assert dumper.wait() == 0


def test_no_suspend_key_counts_that_was_taken_back(spawn: Callable[..., Target]) -> None:
    target = spawn("threads", 3)
    command = [GCOREFS, "dump", str(target.pid)]
    with subprocess.Popen(text_of(command), stdout=subprocess.PIPE, process_group=0) as dumper:
        output = dumper.stdout
        assert output is not None
        try:
            fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, 4096)
            assert output.read(4) == b"\x7fELF"
            assert is_held(target.pid)
            dumper.send_signal(signal.SIGTSTP)
            # SIGCONT would remove a SIGTSTP that is still pending.
            eventually(lambda: not is_pending(dumper.pid, signal.SIGTSTP))
            dumper.send_signal(signal.SIGCONT)
            eventually(lambda: not is_pending(dumper.pid, signal.SIGCONT))
            os.set_blocking(output.fileno(), False)

            def has_ended() -> bool:
                output.read()
                return dumper.poll() == 0

            eventually(has_ended)
        finally:
            dumper.kill()


def is_pending(pid: int, number: int) -> bool:
    status = task_status.status(pid)
    pending = int(status["SigPnd"], 16) | int(status["ShdPnd"], 16)
    return bool(pending & 1 << (number - 1))


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """The server of a file system, and the directory where it is mounted."""
    path = tmp_path / "notebook"
    path.mkdir()
    command = [sys.executable, "-m", "tests.mounted.notebook", str(path)]
    with subprocess.Popen(command) as server:
        try:
            eventually(path.is_mount)
            yield server.pid, path
        finally:
            server.terminate()
            server.wait()
            subprocess.run(["umount", "--lazy", path], check=False, capture_output=True)


@pytest.mark.parametrize("words", [["dump", "-o", "core"], ["watch", "--policy=@all"]])
def test_a_signal_ends_a_write_to_the_file_system_that_the_process_serves(
    words: list[str], notebook: tuple[int, Path]
) -> None:
    pid, path = notebook
    command = [GCOREFS, *words, str(pid), *(["."] if words[0] == "watch" else [])]
    with subprocess.Popen(text_of(command), cwd=path, stderr=subprocess.PIPE) as dumper:
        try:
            eventually(lambda: is_held(pid) and waits_for_an_answer(dumper.pid))
            dumper.send_signal(signal.SIGTERM)
            assert dumper.wait() == 128 + signal.SIGTERM
        finally:
            dumper.kill()
    assert is_free(pid)


def waits_for_an_answer(pid: int) -> bool:
    """True if a thread waits for a FUSE server (fs/fuse/dev.c)."""
    wchans = of_each_thread(pid, lambda pid, tid: procfile.read(f"{pid}/task/{tid}/wchan"))
    return b"request_wait_answer" in wchans.values()


def test_a_pipe_that_nobody_reads_holds_until_a_signal(spawn: Callable[..., Target]) -> None:
    target = spawn("threads", 3)
    command = [GCOREFS, "dump", str(target.pid)]
    with subprocess.Popen(
        text_of(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as dumper:
        assert dumper.stdout is not None
        fcntl.fcntl(dumper.stdout, fcntl.F_SETPIPE_SZ, 4096)
        assert dumper.stdout.read(4) == b"\x7fELF"
        assert is_held(target.pid)
        dumper.terminate()
        assert dumper.wait() == 128 + 15
        assert is_free(target.pid)


def test_a_terminal_sees_progress_and_a_file_does_not(
    spawn: Callable[..., Target], tmp_path: Path
) -> None:
    target = spawn("counter")
    command = [GCOREFS, "dump", str(target.pid), "-o", tmp_path / "core"]
    shown = b""
    terminal, other = pty.openpty()
    with subprocess.Popen(
        text_of(command), stderr=other, env={**os.environ, "TERM": "xterm"}
    ) as dumper:
        os.close(other)
        try:
            while piece := os.read(terminal, 4096):
                shown += piece
        except OSError:  # EIO: the other end is closed (pty(7))
            pass
        finally:
            os.close(terminal)
        assert dumper.wait() == 0
    size = (tmp_path / "core").stat().st_size
    assert b"process %d" % target.pid in shown
    assert b"%.1f" % (size / (1 << 20)) in shown
    assert b"process" not in gcorefs("dump", target.pid, "-o", tmp_path / "core").stderr


POLICIES = {
    ("--policy", "@threads"): ("none", "copy"),
    ("--policy", "@stacks"): ("stacks", "copy"),
    ("--policy", "memory=none,hold=copy"): ("none", "copy"),
    ("--policy", "@all,hold=copy"): ("all", "copy"),
    ("--policy", "@text"): ("filter+text", "stop"),
    ("--policy", "@all", "--memory", "0x033"): ("0x33", "stop"),
    ("--memory", "text"): ("text", "stop"),
}


@pytest.mark.parametrize("words", POLICIES, ids=" ".join)
def test_a_policy_is_named_as_everywhere(
    spawn: Callable[..., Target], tmp_path: Path, words: tuple[str, ...]
) -> None:
    target = spawn("threads", 3)
    memory, hold = POLICIES[words]
    assert gcorefs("dump", target.pid, "-o", tmp_path / "core", *words).returncode == 0
    for name, held in ((tmp_path / "core", hold), (target.pid, "stop")):
        result = gcorefs("info", "--json", name, *words)
        assert (result.returncode, result.stderr) == (0, b"")
        facts = json.loads(result.stdout)["gcorefs"]
        assert facts["policy"]["memory"] == memory
        assert facts["policy"]["hold"] == held
        assert facts["threads"]["stopped"] == 4


@pytest.mark.parametrize(
    "text", ["@none", "threads", "", "@all,", "memory=", "memory=x", "max_stop=1", "hold"]
)
def test_what_is_no_policy_is_refused(spawn: Callable[..., Target], text: str) -> None:
    target = spawn("threads", 1)
    for command in ("dump", "info"):
        result = gcorefs(command, target.pid, "--policy", text)
        assert result.returncode == 2
        assert b"\nError: " in result.stderr
        assert b"Traceback" not in result.stderr


ITSELF = """
import os, subprocess, sys
result = subprocess.run([*sys.argv[1:], str(os.getpid())], capture_output=True)
print((result.args, result.returncode, result.stdout[:4], result.stderr))
"""


def dumped_by_itself(*words: str) -> "subprocess.CompletedProcess[bytes]":
    """What a program reads that dumps itself through a pipe: only the first bytes of the core."""
    result = run(sys.executable, "-c", ITSELF, GCOREFS, "dump", *words)
    assert result.returncode == 0, result.stderr
    return subprocess.CompletedProcess(*ast.literal_eval(result.stdout.decode()))


def test_a_program_that_reads_its_own_core_is_not_stopped_for_ever() -> None:
    assert_refused(dumped_by_itself(), "reads standard output itself", "--hold copy")


@pytest.mark.parametrize("words", [["--hold", "copy"], ["--policy", "@stacks"]])
def test_a_program_reads_its_own_core_if_it_need_not_stand_still(words: list[str]) -> None:
    result = dumped_by_itself(*words)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.startswith(b"\x7fELF")


@pytest.mark.parametrize("words", [[], ["--compress", "zstd"]])
def test_a_process_does_not_wait_for_an_output_that_takes_nothing(
    spawn: Callable[..., Target], tmp_path: Path, words: list[str]
) -> None:
    target = spawn("bulk", 4)
    impatient = program(tmp_path, Tuning(output_timeout=0.2))
    reading, writing = os.pipe()
    try:
        result = run(impatient, "dump", target.pid, "-o", f"/proc/self/fd/{writing}", *words,
                     pass_fds=[writing])  # fmt: skip
        assert_refused(
            result, "the output", f"while process {target.pid} stood still", "--hold copy"
        )
        assert is_free(target.pid)
    finally:
        os.close(reading)
        os.close(writing)


def test_the_machine_is_what_it_is_whatever_uname_says(
    spawn: Callable[..., Target], tmp_path: Path
) -> None:
    """personality(2), PER_LINUX32: setarch(8) in a build of 32-bit programs."""
    if run("setarch", "linux32", "true").returncode:
        pytest.skip("this kernel has no PER_LINUX32")
    target = spawn("threads", 2)
    result = run("setarch", "linux32", GCOREFS, "dump", target.pid, "-o", tmp_path / "core")
    assert (result.returncode, result.stderr) == (0, b"")
    facts = json.loads(
        run("setarch", "linux32", GCOREFS, "info", "--json", tmp_path / "core").stdout
    )
    assert facts["missing"] == 0
