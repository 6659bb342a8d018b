"""While a process is held, nothing waits for it, even if it is the reader of our log, of our
terminal, of our socket."""

import contextlib
import errno
import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcorefs.kernel.proc import procfile, task_stat, tasks
from tests.conftest import GCOREFS, Mount, Target, text_of, wait_until_gone
from tests.mounted.conftest import eventually, is_free, is_held, opened


def fill(fd: int) -> None:
    """Write lines, on our own open file, until nobody takes any more."""
    own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        for size in (512, 1):
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(own, b"\n" * size)
    finally:
        os.close(own)


@pytest.fixture
def read_by_target(
    unmounted: Mount, spawn: Callable[..., Target]
) -> Iterator[tuple[Target, "subprocess.Popen[bytes]"]]:
    """A target, and a server whose log the target reads."""
    target = spawn("mapper")
    assert target.popen.stdin is not None
    fcntl.fcntl(target.popen.stdin, fcntl.F_SETPIPE_SZ, 4096)
    command = [GCOREFS, "mount", "--foreground", str(unmounted.path)]
    with subprocess.Popen(text_of(command), stderr=target.popen.stdin) as server:
        try:
            eventually(unmounted.path.is_mount)
            yield target, server
        finally:
            server.kill()


def test_the_process_at_the_end_of_our_stderr_can_be_held(
    unmounted: Mount,
    spawn: Callable[..., Target],
    read_by_target: tuple[Target, "subprocess.Popen[bytes]"],
) -> None:
    target, server = read_by_target
    other = spawn("threads", 1)
    assert target.popen.stdin is not None
    with opened(unmounted / target.pid) as fd:
        assert os.pread(fd, 4, 0) == b"\x7fELF"
        fill(target.popen.stdin.fileno())
        for _ in range(30):  # each writes a line into the log
            with opened(unmounted / other.pid) as other_fd:
                assert os.pread(other_fd, 4, 0) == b"\x7fELF"
            eventually(lambda: is_free(other.pid))
        assert is_held(target.pid)
        assert os.pread(fd, 4, 0) == b"\x7fELF"
    eventually(lambda: is_free(target.pid))
    server.terminate()
    assert server.wait() == 0


def test_a_reader_of_our_stderr_that_is_stopped_does_not_keep_us(
    unmounted: Mount, read_by_target: tuple[Target, "subprocess.Popen[bytes]"]
) -> None:
    target, server = read_by_target
    assert target.popen.stdin is not None
    os.kill(target.pid, signal.SIGSTOP)
    try:
        eventually(lambda: task_stat.stat(target.pid).state == "T")
        fill(target.popen.stdin.fileno())
        with opened(unmounted / target.pid) as fd:
            assert os.pread(fd, 4, 0) == b"\x7fELF"
        server.terminate()
        assert server.wait() == 0
        assert not unmounted.path.is_mount()
    finally:
        os.kill(target.pid, signal.SIGCONT)


@pytest.fixture
def terminal(spawn: Callable[..., Target]) -> Iterator[tuple[Target, int]]:
    """A target that holds the other end of a terminal and reads nothing; the terminal is full."""
    target = spawn("mapper")
    master, slave = pty.openpty()
    assert target.ask(f"own {os.getpid()} {master}") == {"owned": 1}
    os.close(master)
    fill(slave)
    yield target, slave
    os.close(slave)


def test_the_process_that_shows_our_terminal_can_be_dumped(
    terminal: tuple[Target, int], tmp_path: Path
) -> None:
    target, slave = terminal
    command = [GCOREFS, "dump", str(target.pid), "-o", tmp_path / "core"]
    with subprocess.Popen(text_of(command), stderr=slave) as dumper:
        try:
            assert dumper.wait() == 0
        finally:
            dumper.kill()
    assert (tmp_path / "core").read_bytes().startswith(b"\x7fELF")
    assert is_free(target.pid)


def test_in_the_background_of_a_terminal_it_is_not_stopped_itself(
    spawn: Callable[..., Target], tmp_path: Path
) -> None:
    """stty tostop: a process that writes from the background gets SIGTTOU."""
    target = spawn("mapper")
    script = 'stty tostop; set -m; "$1" dump "$2" -o core & wait %1; echo "status $?"'
    command = ["sh", "-c", script, "-", str(GCOREFS), str(target.pid)]
    master, slave = pty.openpty()
    attributes = termios.tcgetattr(slave)
    assert not attributes[3] & termios.TOSTOP
    with subprocess.Popen(
        ["setsid", "--ctty", *command], stdin=slave, stdout=slave, stderr=slave, cwd=tmp_path
    ) as shell:
        os.close(slave)
        shown = b""
        try:
            while b"status" not in shown:
                shown += os.read(master, 4096)
        except OSError as error:
            assert error.errno == errno.EIO
        finally:
            os.close(master)
            shell.kill()
    assert b"status 0" in shown
    assert is_free(target.pid)


QUEUED = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
"""So many messages wait in a socket that nobody reads (unix(7)); the next one blocks its sender."""

LOG_READER = """
import json, os, socket, sys
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log.bind(sys.argv[1])
print(json.dumps({"pid": os.getpid()}), flush=True)
while message := log.recv(65536):
    if b": opened by process" in message:
        print(json.dumps({"message": message.decode()}), flush=True)
"""

# /dev with a log socket of ours, for the server alone.
WITH_LOG = """
mkdir "$1" && mount -t tmpfs dev "$1" && cp -a /dev/null /dev/fuse /dev/urandom "$1" &&
ln -s "$2" "$1/log" && mount --bind "$1" /dev && shift 2 && exec "$@"
"""


def servers(path: Path) -> list[int]:
    """Processes that were started with `path` among their arguments, without their workers."""
    found = []
    for pid in tasks.pids():
        with contextlib.suppress(ProcessLookupError):
            is_server = procfile.read(f"{pid}/comm") == b"gcorefs\n"
            if is_server and os.fsencode(path) in procfile.read(f"{pid}/cmdline").split(b"\0"):
                found.append(pid)
    return found


def test_the_process_that_reads_the_log_socket_can_be_held(
    unmounted: Mount, spawn: Callable[..., Target], tmp_path: Path
) -> None:
    other = spawn("threads", 1)
    socket, dev = tmp_path / "socket", tmp_path / "dev"
    reader = Target([sys.executable, "-c", LOG_READER, str(socket)])
    try:
        command = ["unshare", "--mount", "sh", "-c", WITH_LOG, "-", dev, socket]
        subprocess.run(
            # On a slow machine so many opens take longer than the time for one that is not read.
            text_of([*command, GCOREFS, "mount", "-o", "idle_timeout=0", unmounted.path]),
            check=True,
        )
        (server,) = servers(unmounted.path)
        seen = Path(f"/proc/{server}/root/{unmounted.path}")  # in its own namespace
        with opened(seen / str(reader.pid)) as fd:
            assert os.pread(fd, 4, 0) == b"\x7fELF"
            for _ in range(QUEUED + 100):
                with opened(seen / str(other.pid)) as other_fd:
                    assert os.pread(other_fd, 4, 0) == b"\x7fELF"
            eventually(lambda: is_free(other.pid))
            assert is_held(reader.pid)
        eventually(lambda: is_free(reader.pid))
        assert f"process {other.pid}: opened by" in reader.line()["message"]
        os.kill(reader.pid, signal.SIGSTOP)
        os.kill(server, signal.SIGTERM)
        wait_until_gone(server)
    finally:
        reader.kill()


def test_nobody_is_asked_for_names_while_a_process_is_held(
    spawn: Callable[..., Target], unmounted: Mount, tmp_path: Path
) -> None:
    """A process that serves names (nscd, systemd, D-Bus) may be the one that is held."""
    target = spawn("threads", 1)
    trace = tmp_path / "trace"
    strace = ["strace", "-f", "-e", "trace=connect,sendto,openat", "-o", trace]
    subprocess.run(
        text_of([*strace, GCOREFS, "dump", str(target.pid), "-o", tmp_path / "core"]),
        check=True,
    )
    said = trace.read_text()
    assert "core" in said and "connect(" not in said and "sendto(" not in said
    command = [*strace, GCOREFS, "mount", "--foreground", unmounted.path]
    with subprocess.Popen(text_of(command), stderr=subprocess.DEVNULL) as tracer:
        try:
            eventually(unmounted.path.is_mount)
            before = len(trace.read_text())
            with opened(unmounted / target.pid) as fd:
                assert os.pread(fd, 4, 0) == b"\x7fELF"
            eventually(lambda: is_free(target.pid))
            subprocess.run([GCOREFS, "umount", unmounted.path], check=True)
            assert tracer.wait() == 0
        finally:
            tracer.kill()
    said = trace.read_text()[before:]
    assert f"/proc/{target.pid}/" in said and "connect(" not in said
    assert "nsswitch" not in said and "/etc/passwd" not in said
