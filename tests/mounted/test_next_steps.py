"""Each error at the command line says what to do next, beside what is wrong."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import GCOREFS, Mount, Target
from tests.mounted.conftest import AS_NOBODY, Commands, gcorefs, run

Spawn = Callable[..., Target]


@pytest.mark.parametrize(
    ("words", "step"),
    [
        ("dump 4194304", "gcorefs ls shows those that there are"),
        ("info 4194304", "gcorefs ls shows those that there are"),
        ("stacks --tree 4194304", "gcorefs ls shows those that there are"),
        ("dump 2", "cat /proc/2/stack shows what it does"),
        ("dump", "Give its pid, or one of --name, --exe, --unit, "),
        ("dump --name no-such", "(pgrep -fl finds parts of names and of arguments)"),
        ("stacks --unit no-such", "(systemctl status PID tells the unit of a process; "),
        ("ls --exe /no/such", "(ls -l /proc/PID/exe shows the program of a process)"),
        ("bundle --cgroup /no/such", "(cat /proc/PID/cgroup shows those of a process)"),
        ("check --pod 0123456789ab", "(cat /proc/PID/cgroup shows the ids that are known here)"),
        ("dump --container x", "12 to 64 hexadecimal digits"),
        ("dump 1 --policy @no-such", "there are the profiles @all, "),
        ("dump 1 --hold no-such", "'no-such' is none of stop, copy, "),
        ("dump 1 --to ftp://x", "there are s3://BUCKET/NAME, "),
        ("watch 1 /tmp --when rss>8Q", "the limit is a size as in rss>500M or rss>8G"),
        ("watch 1 /tmp --every x", "no time like 10s, 500ms, 2m or 1h"),
        ("cat /etc/passwd", "it is no core that gcorefs dump --compress zstd has written"),
        ("mount-core /etc/passwd .", "it is no core that gcorefs dump --compress zstd has written"),
        ("info /etc/passwd", "give a core, or the pid of a process"),
        ("info .", "give a core, or the pid of a process"),
        ("mount no-such", "/no-such; mkdir -p "),
        ("mount . -o no-such", "the known options are allow_other, "),
        ("umount .", "findmnt -t fuse.gcorefs shows where"),
        ("status --mount .", "findmnt -t fuse.gcorefs shows where"),
    ],
)
def test_of_a_word_that_means_nothing(
    commands: Commands, tmp_path: Path, words: str, step: str
) -> None:
    _, said = commands.run(tmp_path, *words.split())
    line = said.splitlines()[-1]
    assert line.startswith("Error: ")
    assert step in re.sub("/no-such: No such file or directory", "/no-such", line)


def test_of_a_process_that_nobody_holds(mount: Mount) -> None:
    mount.expect("process 4194304: it is not held")
    result = gcorefs("release", 4194304, "--mount", mount.path)
    assert (result.returncode, result.stderr.count(b"\n")) == (1, 1)
    assert b"; gcorefs status shows what is held" in result.stderr


@pytest.mark.parametrize("command", ["dump", "stacks", "info", "bundle", "watch"])
def test_of_another_user_s_process(spawn: Spawn, command: str) -> None:
    target = spawn("threads", 1)
    more = ["/tmp"] if command == "watch" else []
    result = run(*AS_NOBODY, GCOREFS, command, target.pid, *more, cwd="/")
    assert (result.returncode, result.stderr.count(b"\n")) == (1, 1)
    assert result.stderr.decode().endswith(
        f"; run it as root of the host, with CAP_SYS_PTRACE; gcorefs check {target.pid} says why\n"
    )


@pytest.mark.parametrize("command", ["dump", "stacks", "info", "bundle"])
def test_of_a_process_that_another_traces(
    spawn: Spawn, strace: Callable[[int], int], command: str
) -> None:
    target = spawn("threads", 1)
    tracer = strace(target.pid)
    result = gcorefs(command, target.pid)
    assert (result.returncode, result.stderr.count(b"\n")) == (1, 1)
    assert result.stderr.decode().endswith(
        f"(TracerPid {tracer}); gcorefs check {target.pid} says who; --policy @glance needs no "
        "stop\n"
    )


@pytest.mark.parametrize(
    ("place", "step"),
    [
        ("/dev/full", "No space left on device; free some room, or name another place; "),
        ("no/such", "No such file or directory; make the directory, or name another place"),
        (".", "Is a directory; name a file in it"),
        ("s3://b/c", "; look at AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "),
        ("gs://b/c", "; look at GOOGLE_APPLICATION_CREDENTIALS in the environment"),
        ("az://b/c", "; look at AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY in "),
    ],
)
@pytest.mark.parametrize("command", ["dump", "bundle"])
def test_of_a_place_that_takes_nothing(
    spawn: Spawn, tmp_path: Path, command: str, place: str, step: str
) -> None:
    target = spawn("threads", 1)
    # Nobody listens there: no metadata service of a cloud is asked.
    nowhere = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "GOOGLE_APPLICATION_CREDENTIALS": "/nowhere",
    }
    option = "--to" if ":" in place else "-o"
    result = gcorefs(command, target.pid, option, place, env=os.environ | nowhere, cwd=tmp_path)
    assert (result.returncode, result.stderr.count(b"\n")) == (1, 1)
    assert step in result.stderr.decode()
    assert list(tmp_path.iterdir()) == []
