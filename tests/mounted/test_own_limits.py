"""Limits of gcorefs itself (setrlimit(2)): one clear line with the limit, and never a traceback."""

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import GCOREFS, Mount, Target
from tests.mounted.conftest import errno_of, eventually, is_free, opened, run
from tests.tuned import program

Spawn = Callable[..., Target]

NO_THREAD = """
import threading

def start(thread):
    raise RuntimeError("can't start new thread")

threading.Thread.start = start
"""
NO_FORK = """
import errno, os

def fork():
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

os.fork = fork
"""
NO_BUFFER = """
import pyfuse3

async def main(*_, **__):
    raise RuntimeError("fuse_session_receive_buf failed with Cannot allocate memory")

pyfuse3.main = main
"""


def assert_not_mounted(
    mount: Mount, result: "subprocess.CompletedProcess[bytes]", why: str
) -> None:
    """The last line of the answer: what was logged with -f comes first."""
    assert result.returncode == 1
    text = result.stderr.decode()
    assert "Traceback" not in text
    expected = f"Error: {mount.path}: cannot be mounted: {why}"
    assert [line for line in text.splitlines() if line.startswith("Error")] == [expected]
    assert not mount.is_there
    assert mount.warnings() == []


FOREGROUND = pytest.mark.parametrize("words", [[], ["-f"]], ids=["background", "foreground"])


@FOREGROUND
def test_a_server_that_may_write_no_file_tells_so(unmounted: Mount, words: list[str]) -> None:
    log = [] if words else ["--log-file", unmounted.log]
    command = ["prlimit", "--fsize=0", GCOREFS, "mount", *words, *log, unmounted.path]
    why = "gcorefs may write no file, not even in memory (RLIMIT_FSIZE)"
    assert_not_mounted(unmounted, run(*command), why)


@FOREGROUND
@pytest.mark.parametrize(
    ("first", "why"),
    [
        (NO_THREAD, "no further thread can be started (RLIMIT_NPROC, pids.max)"),
        (NO_FORK, "Resource temporarily unavailable (RLIMIT_NPROC, pids.max)"),
        # Nobody answers the server's own look at its mount.
        (
            NO_BUFFER,
            "fuse_session_receive_buf failed with Cannot allocate memory",
        ),
    ],
    ids=["threads", "processes", "memory"],
)
def test_a_server_that_lacks_something_at_its_start_tells_so(
    unmounted: Mount, tmp_path: Path, words: list[str], first: str, why: str
) -> None:
    command = [program(tmp_path, first=first), "mount", *words, "--log-file", unmounted.log]
    assert_not_mounted(unmounted, run(*command, unmounted.path), why)


def test_a_server_that_may_open_few_files_tells_so_or_serves(unmounted: Mount) -> None:
    """The interpreter itself needs five to start."""
    refusals = 0
    for most in (*range(5, 12), *range(12, 64, 4)):
        command = ["prlimit", f"--nofile={most}", GCOREFS, "mount", "--log-file", unmounted.log]
        result = run(*command, unmounted.path)
        if result.returncode == 0:
            break
        (line,) = result.stderr.decode().splitlines()
        assert line.startswith(f"Error: {unmounted.path}: ")
        assert "Too many open files" in line
        assert "Traceback" not in unmounted.log.read_text() if unmounted.log.exists() else True
        assert not unmounted.is_there
        refusals += 1
    assert refusals
    assert unmounted.is_there
    unmounted.expect("RLIMIT_NOFILE")


def test_a_header_that_may_not_be_written_is_an_error_of_its_own(
    unmounted: Mount, spawn: Spawn
) -> None:
    target = spawn("threads", 3)
    unmounted.prefix = ["prlimit", "--fsize=4096"]
    unmounted.make()
    unmounted.expect(
        f"process {target.pid}: gcorefs may write no file of that size, not even in memory "
        "(RLIMIT_FSIZE)"
    )
    with opened(unmounted / target.pid) as fd:
        assert errno_of(lambda: os.read(fd, 1)) == errno.EFBIG
    eventually(lambda: is_free(target.pid))


@pytest.mark.parametrize("words", [["dump", "-o", "-"], ["info"]], ids=["dump", "info"])
def test_a_command_that_may_write_no_file_tells_so(spawn: Spawn, words: list[str]) -> None:
    target = spawn("threads", 1)
    result = run("prlimit", "--fsize=0", GCOREFS, *words, target.pid)
    assert result.returncode == 1
    (line,) = result.stderr.decode().splitlines()
    assert line.endswith("gcorefs may write no file, not even in memory (RLIMIT_FSIZE)")
    assert is_free(target.pid)
