"""An error of the output is reported as such, in one line, whatever its errno; nothing of the
file is left, and the process runs on."""

import contextlib
import errno
import fcntl
import os
import resource
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcorefs.process.errors import Reason
from tests.conftest import GCOREFS, Mount, Target, text_of
from tests.mounted.conftest import assert_refused, gcorefs, is_free, is_held, run

Serve = Callable[[str, int], Path]


@pytest.fixture
def target(spawn: Callable[..., Target]) -> Iterator[Target]:
    target = spawn("threads", 3)
    yield target
    assert target.ask("ping") == {"pong": 1}


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Mount a file system in which one call fails (failing.py)."""
    path = tmp_path / "served"
    path.mkdir()
    servers: list[Target] = []

    def start(call: str, number: int) -> Path:
        words = [sys.executable, "-m", "tests.mounted.failing", str(path), call, str(number)]
        servers.append(Target(words))
        return path

    yield start
    for server in servers:
        server.popen.communicate(timeout=20)
        assert server.popen.returncode == 0


def assert_told(result: "subprocess.CompletedProcess[bytes]", name: object, number: int) -> None:
    assert_refused(result)
    told, _, _step = result.stderr.decode().rstrip("\n").partition("; ")
    assert told == f"Error: {name}: {os.strerror(number)}"


@pytest.mark.parametrize(
    "number",
    [
        errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.ETIMEDOUT, errno.EFBIG, errno.ECONNRESET,
        errno.EPIPE, errno.ESRCH,
    ],
)  # fmt: skip
def test_a_write_that_fails_is_reported(target: Target, serve: Serve, number: int) -> None:
    folder = serve("write", number)
    result = gcorefs("dump", target.pid, "-o", folder / "core")
    assert is_free(target.pid)
    assert_told(result, folder / "core", number)
    assert os.listdir(folder) == []


@pytest.mark.parametrize("is_there", [False, True])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.ETIMEDOUT])
@pytest.mark.parametrize("call", ["fsync", "flush", "rename"])
def test_a_late_error_is_reported(
    target: Target, serve: Serve, call: str, number: int, is_there: bool
) -> None:
    folder = serve(call, number)
    if is_there:
        with contextlib.suppress(OSError):  # flush fails here too
            (folder / "core").touch()
    result = gcorefs("dump", target.pid, "-o", folder / "core")
    assert is_free(target.pid)
    assert_told(result, folder / "core", number)
    assert os.listdir(folder) == ["core"] * is_there
    if is_there:
        assert (folder / "core").stat().st_size == 0


def test_a_file_system_without_nameless_files_has_the_core_as_well(
    target: Target, serve: Serve
) -> None:
    folder = serve("nothing", 0)
    with pytest.raises(OSError, match="not supported"):
        os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600)
    assert gcorefs("dump", target.pid, "-o", folder / "core").returncode == 0
    assert os.listdir(folder) == ["core"]
    data = (folder / "core").read_bytes()
    piped = gcorefs("dump", target.pid).stdout
    assert (data[:4], len(data)) == (b"\x7fELF", len(piped))


def test_a_full_disk_is_reported(target: Target, tmpfs: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=256k", tmpfs], check=True)
    (tmpfs / "core").write_bytes(b"old")
    result = gcorefs("dump", target.pid, "-o", tmpfs / "core")
    assert is_free(target.pid)
    assert_told(result, tmpfs / "core", errno.ENOSPC)
    assert os.listdir(tmpfs) == ["core"]
    assert (tmpfs / "core").read_bytes() == b"old"


def test_a_limit_of_file_sizes_is_reported(target: Target, tmp_path: Path) -> None:
    """SIGXFSZ does not end us (setrlimit(2), RLIMIT_FSIZE)."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, 1 << 18))

    file = tmp_path / "core"
    result = gcorefs("dump", target.pid, "-o", file, preexec_fn=limited)
    assert is_free(target.pid)
    assert_told(result, file, errno.EFBIG)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("words", [["-o", "/dev/full"], ["-o", "-"], []])
def test_a_full_device_is_reported(target: Target, words: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        command = [GCOREFS, "dump", str(target.pid), *words]
        result = subprocess.run(
            text_of(command), stdout=full, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert is_free(target.pid)
    name = words[-1] if words == ["-o", "/dev/full"] else "standard output"
    assert_told(result, name, errno.ENOSPC)


def test_a_closed_pipe_is_reported(target: Target) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [GCOREFS, "dump", str(target.pid)]
        result = subprocess.run(
            text_of(command), stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False
        )
    finally:
        os.close(writing)
    assert is_free(target.pid)
    assert_told(result, "standard output", errno.EPIPE)


def test_a_reset_connection_is_reported(target: Target) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # less than the core has
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    with ours:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        command = [GCOREFS, "dump", str(target.pid)]
        with subprocess.Popen(
            text_of(command), stdout=ours.fileno(), stderr=subprocess.PIPE
        ) as dumper:
            assert theirs.recv(4, socket.MSG_WAITALL) == b"\x7fELF"
            # A close with unread data is a reset (tcp(7), socket(7) SO_LINGER).
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            theirs.close()
            _, said = dumper.communicate(timeout=60)
    assert is_free(target.pid)
    result = subprocess.CompletedProcess(text_of(command), dumper.returncode, b"", said)
    assert_told(result, "standard output", errno.ECONNRESET)


def test_a_pipe_that_does_not_block_is_waited_for(target: Target) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with open(reading, "rb") as pipe:
        with subprocess.Popen([GCOREFS, "dump", str(target.pid)], stdout=writing) as dumper:
            os.close(writing)
            first = pipe.read(4)
            assert is_held(target.pid)
            data = first + pipe.read()
        assert dumper.returncode == 0
    assert len(data) == len(gcorefs("dump", target.pid).stdout)


# The directory is removed when the sink is open.
REMOVED = """
import os, sys
from gcorefs.cli import main
from gcorefs.stopped import Stop
take, folder = Stop.take, sys.argv.pop()
def after_removal(stop, holder):
    os.rmdir(folder)
    take(stop, holder)
Stop.take = after_removal
main()
"""


def test_a_directory_removed_meanwhile_is_reported(target: Target, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    words = ["dump", target.pid, "-o", folder / "core", folder]
    result = run(sys.executable, "-c", REMOVED, *words)
    assert_told(result, folder / "core", errno.ENOENT)
    assert is_free(target.pid)


def test_an_error_of_reading_is_not_the_sink_s(spawn: Callable[..., Target]) -> None:
    target = spawn("reserve", 1, 20000)
    command = [GCOREFS, "dump", str(target.pid)]
    pipe = subprocess.PIPE
    with subprocess.Popen(text_of(command), stdout=pipe, stderr=pipe) as dumper:
        assert dumper.stdout is not None
        assert dumper.stdout.read(4) == b"\x7fELF"
        target.kill()
        _, said = dumper.communicate(timeout=60)
    result = subprocess.CompletedProcess(text_of(command), dumper.returncode, b"", said)
    assert_refused(result, f"Error: process {target.pid}: {Reason.DIED.text}")


THREADS = """
import os, sys
from gcorefs.cli import main
try:
    main(sys.argv[1:], standalone_mode=False)
except Exception as error:
    print(type(error).__name__, error.message)
print([open(f"/proc/self/task/{tid}/comm").read() for tid in os.listdir("/proc/self/task")][1:])
"""


@pytest.mark.parametrize(
    "words",
    [
        ["dump", "-o", "core"],
        ["dump", "-o", "core", "--hold", "copy"],
        ["dump", "-o", "/dev/full"],
        ["dump", "-o", "no/core"],
        ["info", "--json"],
    ],
)
def test_the_threads_of_a_command_end_before_it(
    spawn: Callable[..., Target], tmp_path: Path, words: list[str]
) -> None:
    target = spawn("threads", 200)
    result = run(sys.executable, "-c", THREADS, *words, target.pid, cwd=tmp_path)
    lines = result.stdout.decode().splitlines()
    assert lines[-1] == "[]"
    if words[-1] == "/dev/full":
        assert lines[0].startswith("ClickException /dev/full: No space left on device; free some")


@pytest.mark.parametrize(
    "words",
    [["ls"], ["ls", "--json"], ["info"], ["info", "--json"], ["stacks"], ["check"], ["status"]],
    ids=" ".join,
)
def test_a_text_that_nobody_has_room_for(
    mount: Mount, spawn: Callable[..., Target], words: list[str]
) -> None:
    target = spawn("threads", 1)
    targets = ["--mount", mount.path] if words == ["status"] else [target.pid]
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [str(word) for word in (GCOREFS, *words, *targets)],
            stdout=full, stderr=subprocess.PIPE, timeout=60, check=False,
        )  # fmt: skip
    assert (result.returncode, result.stderr.decode()) == (
        1,
        "Error: the output cannot be written: No space left on device\n",
    )
