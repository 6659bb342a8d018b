"""Limits of gcorefs itself (setrlimit(2)): one clear line with the limit, and never a traceback."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gcorefs.mount.errors import RequestReason
from tests.conftest import GCOREFS, Mount, Target
from tests.mounted.conftest import errno_of, eventually, is_free, opened, run, running
from tests.tuned import program

Spawn = Callable[..., Target]

NO_THREAD = """
import _thread, threading

def start(*_):
    raise RuntimeError("can't start new thread")

threading.Thread.start = _thread.start_new_thread = start
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
@pytest.mark.parametrize(
    ("limit", "why"),
    [
        ("--fsize=0", "gcorefs may write no file, not even in memory (RLIMIT_FSIZE)"),
        (
            "--sigpending=0",
            "no timer for it (Resource temporarily unavailable, RLIMIT_SIGPENDING)",
        ),
    ],
)
def test_a_server_that_may_have_no_file_or_timer_tells_so(
    unmounted: Mount, words: list[str], limit: str, why: str
) -> None:
    log = [] if words else ["--log-file", unmounted.log]
    command = ["prlimit", limit, GCOREFS, "mount", *words, *log, unmounted.path]
    assert_not_mounted(unmounted, run(*command), why)


@FOREGROUND
@pytest.mark.parametrize(
    ("first", "why"),
    [
        (NO_THREAD, "no further thread can be started (RLIMIT_AS, RLIMIT_NPROC, pids.max)"),
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


# The interpreter alone needs 21 MB of addresses, and five descriptors.  gcorefs asks for 134.
ADDRESSES = [f"--as={most * 1_000_000}" for most in (22, 30, 60, 134, 135, 160)]
FILES = [f"--nofile={most}" for most in range(5, 9)]
LIMITS = pytest.mark.parametrize("limits", [ADDRESSES, FILES], ids=["addresses", "files"])


@LIMITS
@pytest.mark.parametrize(
    "words",
    [
        ["dump", "-o", "-", "{pid}"],
        ["dump", "--hold", "copy", "-o", "-", "{pid}"],
        ["info", "{pid}"],
        ["status", "--kernel", "--mount", "{mount}"],
        ["release", "--mount", "{mount}", "{pid}"],
    ],
    ids=["dump", "dump-copy", "info", "status", "release"],
)
def test_a_command_that_meets_a_limit_of_its_own_says_so_in_one_line(
    mount: Mount, spawn: Spawn, words: list[str], limits: list[str]
) -> None:
    """Whatever it lacks, and whenever: when it is loaded, before the stop, or in it."""
    mount.allow(RequestReason.NOT_HELD.text)
    target = spawn("threads", 1)
    command = [word.format(pid=target.pid, mount=mount.path) for word in words]
    done = set()
    for limit in limits:
        done.add(has_done_it(run("prlimit", limit, GCOREFS, *command)))
        assert is_free(target.pid)
    # A status needs no more files than the interpreter itself.
    assert False in done or (words[0], limits) == ("status", FILES)
    # Nobody holds the process that is to be released.
    assert True in done or limits == FILES or words[0] == "release"


@pytest.mark.parametrize("name", ["gcorefs", "gcorefs-gcore", "mount.gcorefs"])
@pytest.mark.parametrize(("limit", "option"), [("AS", "-v"), ("DATA", "-d")])
def test_a_program_names_the_limit_that_leaves_it_no_memory(
    name: str, limit: str, option: str
) -> None:
    result = run("prlimit", f"--{limit.lower()}=60000000", GCOREFS.with_name(name), "--version")
    text = f"gcorefs needs 128 MiB of memory, and may have 57 (RLIMIT_{limit}, ulimit {option})"
    status = 32 if name.startswith("mount.") else 1
    assert (result.returncode, result.stderr.decode()) == (status, f"Error: {text}\n")


LATE = """
import gcorefs.cli

def main():
    raise {error}

gcorefs.cli.main = main

from gcorefs.__main__ import main

main()
"""


@pytest.mark.parametrize("error", ["MemoryError", "SystemError('error return without exception')"])
def test_a_command_that_has_no_memory_to_tell_of_it_still_does(error: str) -> None:
    result = run(sys.executable, "-c", LATE.format(error=error), "status")
    assert (result.returncode, result.stderr) == (1, b"Error: gcorefs is out of memory\n")


TOLD = """
import atexit
from gcorefs.mount import mountpoints

def fail():
    raise {error}

mountpoints.mountpoints = fail
atexit.register(lambda: print("the interpreter ends", flush=True))

from gcorefs.__main__ import main

main()
"""


@pytest.mark.parametrize("error", ["MemoryError", "ImportError('gcorefs is out of memory')"])
def test_the_interpreter_of_a_command_without_memory_does_not_end(error: str) -> None:
    """It would write a line about each module."""
    result = run(sys.executable, "-c", TOLD.format(error=error), "status")
    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr == b"Error: gcorefs is out of memory\n"


@LIMITS
def test_a_mount_is_made_and_taken_away_or_one_line_says_why_not(
    unmounted: Mount, limits: list[str]
) -> None:
    unmounted.allow("RLIMIT_NOFILE")
    log = ["--log-file", unmounted.log]
    for limit in limits:
        if not has_done_it(run("prlimit", limit, GCOREFS, "mount", *log, unmounted.path)):
            assert not unmounted.is_there
            unmounted.make()
        if not has_done_it(run("prlimit", limit, GCOREFS, "umount", unmounted.path)):
            assert unmounted.is_there
            assert has_done_it(run(GCOREFS, "umount", unmounted.path))
        assert not unmounted.is_there


def has_done_it(result: "subprocess.CompletedProcess[bytes]") -> bool:
    """False if it has said in one line why not."""
    if result.returncode == 0:
        assert result.stderr == b""
        return True
    text = result.stderr.decode()
    assert (result.returncode, text.count("\n")) == (1, 1), text
    assert text.startswith("Error: "), text
    return False


def test_a_user_who_may_have_no_further_thread_is_told_so(spawn: Spawn) -> None:
    """RLIMIT_NPROC counts all threads of a user, and does not hold for root (setrlimit(2))."""
    target = spawn("threads", 1)
    user = ["setpriv", "--reuid=65431", "--regid=65431", "--clear-groups"]
    with running(*user, target.argv[0], 1) as pid:
        # The target has two, the command has one.
        result = run("prlimit", "--nproc=3", *user, GCOREFS, "dump", "-o", "-", pid)
        assert not has_done_it(result)
        assert b"no further thread can be started" in result.stderr
        assert is_free(pid)
