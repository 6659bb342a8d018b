"""Whatever the arguments of a command are, the answer is one clear line, never a traceback."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import click.testing
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcorefs import api
from gcorefs.cli import background, main, mount, victim
from gcorefs.kernel.ending_signals import ENDING
from gcorefs.kernel.proc import procfile
from gcorefs.mount import server
from gcorefs.process.errors import ProcessError, Reason
from tests.conftest import GCOREFS, Mount, Target, text_of
from tests.mounted.conftest import Commands, assert_refused, eventually, run

# In a separate mount namespace: nobody else must meet these names.
ANOTHERS_MOUNT = """
mount -t tmpfs none "$1" || exit 99
"$2" umount "$3"
"$2" mount --log-file "$4" "$3" && "$2" umount "$3"
"""
NAMES = [b"a\rb\rc", b"a\nb", b"a b", b"\\040", b"\xff", b"#", b"\x85", b"\x1c"]


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_another_s_mount_misleads_nobody(unmounted: Mount, name: bytes) -> None:
    place = os.path.join(os.fsencode(unmounted.path.parent), name)
    os.mkdir(place)
    words = ("sh", "-c", ANOTHERS_MOUNT, "sh", place, GCOREFS, unmounted.path, unmounted.log)
    result = subprocess.run(
        ["unshare", "--mount", *words], capture_output=True, timeout=60, check=False
    )
    refusal = (
        f"Error: {unmounted.path}: no gcorefs is mounted there; "
        "findmnt -t fuse.gcorefs shows where\n"
    ).encode()
    assert (result.returncode, result.stderr) == (0, refusal)


# The profiles of the machine, in a separate mount namespace too.
WITH_PROFILES = """
mount -t tmpfs none /etc || exit 99
eval "$1"
shift
exec "$@"
"""
PATH = "/etc/gcorefs.toml"


@pytest.mark.parametrize("words", [["dump", "-o", "-"], ["info"], ["watch", "--every", "1h"]])
@pytest.mark.parametrize(
    ("make", "status", "text"),
    [
        (f"mkdir {PATH}", 2, f"{PATH}: it is no regular file"),
        (f"mkfifo {PATH}", 2, f"{PATH}: it is no regular file"),
        (f"ln -s /dev/zero {PATH}", 2, f"{PATH}: it is no regular file"),
        # Root may open it, and a read of its beginning fails.
        (f"ln -s /proc/self/mem {PATH}", 1, f"{PATH}: Input/output error"),
        (f"echo x >{PATH}", 2, f"{PATH}: it is no TOML: "),
        (f"install -m 600 /dev/null {PATH}", 1, f"{PATH}: Permission denied"),
    ],
    ids=["directory", "fifo", "device", "error", "content", "permission"],
)
def test_profiles_that_cannot_be_read_are_told_in_one_line(
    tmp_path: Path, words: list[str], make: str, status: int, text: str
) -> None:
    user = ["setpriv", "--reuid=65431", "--regid=65431", "--clear-groups"]
    namespace = ["unshare", "--mount", "sh", "-c", WITH_PROFILES, "sh", make]
    what = [os.getpid(), *([tmp_path] if words[0] == "watch" else []), "--policy", "@night"]
    command = [*namespace, *(user if "Permission" in text else []), GCOREFS, *words, *what]
    result = run(*command)
    assert result.returncode == status
    assert result.stderr.decode().splitlines()[-1].startswith(f"Error: {text}")
    assert b"Traceback" not in result.stderr


# Words that execve(2) can pass on and nobody expects.
HOSTILE = [
    b"", b" ", b"\n", b"a\nb", b"a\rb", b"\x1b[2J", b"\xff\xfe", b"/dev/null", b"/dev/null/x",
    b"/nowhere", b"-", b"--", b"x" * 5000, b"/" + b"x/" * 3000, b"\xed\xa0\x80", b"%s", b"-o",
    b"\xe2\x80\xae", b"--no-such\noption",
]  # fmt: skip
NUMBERS = [
    b"", b"0", b"-1", b"1.5", b"0x10", b"1e3", b"9" * 19, b"9" * 4000, b"9" * 5000, b"\xff", b"\n",
    b"4194305", b"nan", b"1 2", b"\xd9\xa9" * 9,
]  # fmt: skip


def assert_one_line(status: int, said: str, targets: int = 1) -> None:
    """Status 1 and one line, or one for each target, or status 2 and one line after the lines about
    the usage."""
    assert status in (1, 2)
    *lines, rest = said.split("\n")
    assert rest == ""
    assert len(lines) <= targets or status == 2
    for line in lines if status == 1 else lines[-1:]:
        assert line.startswith("Error: ")
        assert line.isprintable()


def assert_told_in_one_line(result: "subprocess.CompletedProcess[bytes]") -> None:
    assert_one_line(result.returncode, result.stderr.decode())


@pytest.mark.parametrize(
    "words", [["mount"], ["mount", "-f"], ["mount", "-o"], ["umount"], ["cat"], []]
)
@pytest.mark.parametrize("word", HOSTILE)
def test_a_hostile_word_is_refused_in_one_line(
    commands: Commands, words: list[str], word: bytes, tmp_path: Path
) -> None:
    assert_one_line(*commands.run(tmp_path, *words, word))


@pytest.mark.parametrize("number", NUMBERS)
def test_a_hostile_number_is_refused_in_one_line(
    commands: Commands, number: bytes, tmp_path: Path
) -> None:
    assert_one_line(*commands.run(tmp_path, "dump", "--", number))
    assert_one_line(*commands.run(tmp_path, "cat", "/dev/null", b"--length=" + number))


def test_a_command_of_its_own_is_told_the_same(commands: Commands, tmp_path: Path) -> None:
    for words in ((b"mount", b"\xff\xfe"), (b"dump", b"--", b"\xff"), (b"--no-such\noption",)):
        result = gcorefs_at(tmp_path, *words)
        assert (result.returncode, result.stderr.decode()) == commands.run(tmp_path, *words)


def gcorefs_at(folder: Path, *words: "str | bytes") -> "subprocess.CompletedProcess[bytes]":
    """Start gcorefs in `folder` with words that may have any bytes."""
    command = [GCOREFS, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, timeout=60, check=False)


OUTPUTS = {
    b"": False, b".": False, b"x/": False, b"/dev/null/x": False, b"/nowhere/x": False,
    b"x" * 5000: False, b"a\nb": True, b"\xff\xfe": True, b"%s": True, b" ": True, b"--": True,
}  # fmt: skip


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_core_goes_to_the_given_place_or_nowhere(output: bytes, tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "1000"]) as sleeper:
        try:
            result = gcorefs_at(tmp_path, "dump", str(sleeper.pid), "-o", output)
        finally:
            sleeper.kill()
    names = os.listdir(os.fsencode(tmp_path))
    if OUTPUTS[output]:
        assert (result.returncode, result.stderr, names) == (0, b"", [output])
        with open(os.path.join(os.fsencode(tmp_path), output), "rb") as core:
            assert core.read(4) == b"\x7fELF"
    else:
        assert_told_in_one_line(result)
        assert names == []


def test_a_log_without_a_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    assert_told_in_one_line(gcorefs_at(tmp_path, "mount", "--log-file", "", "mnt"))
    assert_told_in_one_line(gcorefs_at(tmp_path, "mount", "-f", "--log-file", "", "mnt"))


def invoke(*arguments: str) -> click.testing.Result:
    """Run the command line in this process, and restore its signals and OOM score."""
    numbers = (*ENDING, signal.SIGCHLD)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        with mock.patch.object(victim, "volunteer"):
            return click.testing.CliRunner().invoke(main, arguments, prog_name="gcorefs")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_foreign_proc_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfile, "read", lambda path, is_record=False: b"nonsense")
    result = invoke("dump", "1")
    assert result.exit_code == 1
    assert result.stderr == "Error: process 1: unexpected text in stat: b'nonsense'\n"


# Bytes that are not UTF-8 are lone surrogates (PEP 383); NUL is not possible.
letters = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
words = st.one_of(
    st.sampled_from([
        "mount", "umount", "dump", "-o", "-f", "-v", "-l", "-h", "--help", "--version", "--",
        "--foreground", "--log-file", "--lazy", "cat", "--offset", "--compress", "zstd", "--level",
        "--unit", "--container", "--tree", "--together",
    ]),
    st.text(letters | st.sampled_from("\udc80\udcff\n\r\x1b,=-"), max_size=12),
    st.integers().map(str),
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.lists(words, min_size=1, max_size=6))
def test_any_words_are_taken_or_refused_in_one_line(arguments: list[str]) -> None:
    """In this process, with a replacement for everything that would mount, stop or write."""
    gone = ProcessError(Reason.GONE, 1)
    with (
        mock.patch.object(background, "run"),
        mock.patch.object(server, "serve"),
        mock.patch.object(mount, "log"),
        mock.patch.object(api, "find", side_effect=gone),
    ):
        result = invoke(*arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    if result.exit_code:
        assert_one_line(result.exit_code, result.stderr, targets=len(arguments))


# Ctrl-C at the moment when this module is imported.
INTERRUPTED_AT = """
import importlib.abc, os, signal, sys

class Interrupt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupt())
module = sys.argv.pop(1)
from gcorefs.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["click", "gcorefs.cli.one_line", "gcorefs.cli.dump"])
def test_ctrl_c_before_the_command_begins_shows_no_traceback(module: str, tmp_path: Path) -> None:
    words = ("dump", "1", "-o", tmp_path / "core")
    result = run(sys.executable, "-c", INTERRUPTED_AT, module, *words)
    assert (result.returncode, result.stderr) == (-signal.SIGINT, b"")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("command", ["dump", "info", "ls"])
def test_a_closed_descriptor_is_no_place_for_a_file(
    tmp_path: Path, command: str, closed: str
) -> None:
    with subprocess.Popen(["sleep", "1000"]) as sleeper:
        try:
            output = f"-o {tmp_path / 'core'}" if command == "dump" else ""
            line = f"{GCOREFS} {command} {sleeper.pid} {output} {closed}"
            result = run("sh", "-c", line)
        finally:
            sleeper.kill()
    assert b"Traceback" not in result.stderr
    assert result.returncode == 0
    if command == "dump":
        assert (tmp_path / "core").read_bytes()[:4] == b"\x7fELF"


REMOVED = """
import os, sys
os.mkdir(sys.argv[1])
os.chdir(sys.argv[1])
os.rmdir(sys.argv[1])
os.execv(sys.argv[2], sys.argv[2:])
"""


def without_directory(tmp_path: Path, *words: object) -> "subprocess.CompletedProcess[bytes]":
    """Run the program in a directory that has been removed."""
    return run(sys.executable, "-c", REMOVED, tmp_path / "removed", GCOREFS, *words)


@pytest.mark.parametrize(
    "words",
    [
        ("mount", "x"),
        ("mount", "/proc", "--log-file", "x"),
        ("mount", "/proc", "--config", "x"),
        ("umount", "x"),
        ("mount-core", "/proc/version", "x"),
        ("status", "--mount", "x"),
        ("release", "--mount", "x", "1"),
        ("dump", "--exe", "x"),
        ("ls", "--exe", "x"),
    ],
)
def test_in_a_directory_that_has_been_removed_a_name_leads_nowhere(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    result = without_directory(tmp_path, *words)
    assert_refused(result, "x: the current directory has been removed")


@pytest.mark.parametrize("command", ["dump", "bundle"])
def test_a_directory_that_has_been_removed_is_no_harm_without_a_name_in_it(
    spawn: Callable[..., Target], tmp_path: Path, command: str
) -> None:
    pid = spawn("threads", 1).pid
    result = without_directory(tmp_path, command, pid, "-o", tmp_path / "file")
    assert (result.returncode, result.stderr) == (0, b"")
    assert (tmp_path / "file").stat().st_size
    told = without_directory(tmp_path, command, pid, "-o", "x")
    assert_refused(told, "x: the directory has been removed")


@pytest.mark.parametrize("words", [("info", "--json"), ("check", "--json"), ("ls", "--json")])
def test_text_is_whole_in_a_pipe_that_does_not_block(
    spawn: Callable[..., Target], words: tuple[str, ...]
) -> None:
    """ssh(1), node and others set O_NONBLOCK for everybody who has the open file."""
    target = spawn("threads", 3)
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    os.write(writing, bytes(3900))  # the rest waits for a reader
    command = text_of([GCOREFS, *words, target.pid])
    with subprocess.Popen(command, stdout=writing) as program, os.fdopen(reading, "rb") as output:
        os.close(writing)
        eventually(lambda: is_waiting(program.pid) or program.poll() is not None)
        text = output.read().removeprefix(bytes(3900))
    assert program.returncode == 0
    json.loads(text)


def is_waiting(pid: int) -> bool:
    """The process sleeps in poll(2)."""
    return b"poll" in Path(f"/proc/{pid}/wchan").read_bytes()


def test_other_cores_are_written_if_a_line_about_one_cannot_be(
    spawn: Callable[..., Target], tmp_path: Path
) -> None:
    pids = [spawn("threads", 1).pid for _ in range(2)]
    with open("/dev/full", "wb") as full:
        command = text_of([GCOREFS, "dump", *pids, "-o", tmp_path / "core"])
        result = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert result.returncode == 1
    assert {path.name for path in tmp_path.iterdir()} == {f"core.{pid}" for pid in pids}
    assert result.stderr.count(b"standard output: No space left on device") == 2
