"""hold=copy: a process runs on when its memory is copied, and its file does not change."""

import errno
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gcorefs.kernel.proc import task_stat, task_status
from gcorefs.steps import Step
from tests.conftest import GCOREFS, Mount, Target
from tests.mounted.conftest import (
    AS_NOBODY,
    Pause,
    assert_refused,
    errno_of,
    eventually,
    gcorefs,
    has_stopped,
    is_free,
    is_held,
    memory_offset,
    note_of,
    offset_of,
    opened,
    run,
    stops,
    whole,
)
from tests.mounted.test_mixing import WAYS

MEBIBYTE = 1 << 20
SIZE = 64
"""The size of the large target, in MiB."""


def report(mount: Mount, pid: int) -> dict[str, Any]:
    """The output of gcorefs status for a process, without a command for each call."""
    stops = json.loads((mount.path / ".gcorefs" / "status").read_bytes())["stops"]
    (found,) = (stop for stop in stops if stop["pid"] == pid)
    assert isinstance(found, dict)
    return found


def attributes(path: Path) -> dict[str, str]:
    names = os.listxattr(path)
    return {name.removeprefix("user.gcorefs."): os.getxattr(path, name).decode() for name in names}


def await_copied(mount: Mount, pid: int) -> dict[str, Any]:
    eventually(lambda: report(mount, pid)["state"] == "copied")
    eventually(lambda: is_free(pid))
    return report(mount, pid)


@pytest.fixture
def copying(mount_with: Callable[..., Mount]) -> Mount:
    # A copy is not read for long while an emulated processor looks at what was read.
    return mount_with("hold=copy", "allow_other", "idle_timeout=600")


def test_a_process_runs_on_while_its_file_is_read(
    copying: Mount, spawn: Callable[..., Target]
) -> None:
    target = spawn("counter")
    file = copying / target.pid
    with opened(file) as fd:
        header = os.read(fd, PAGES)
        place = offset_of(header, int(target.truth["finished"], 16))
        facts = await_copied(copying, target.pid)
        assert (facts["hold"], facts["held"], facts["why"]) == ("copy", "copy", "")
        then = os.pread(fd, 8, place)
        first = target.ask("report")["iterations"]
        eventually(lambda: target.ask("report")["iterations"] > first)
        assert target.ask("report")["errors"] == 0
        assert os.pread(fd, 8, place) == then
        assert int.from_bytes(then, "little") <= first
        # However often and from wherever it is read.
        data = whole(fd)
        assert (len(data), data) == (os.stat(file).st_size, whole(fd))
        assert data[place : place + 8] == then
        for way in WAYS:
            start = place - place % 4096
            assert way(fd, start) == data[start : start + 4096]
        assert note_of(data)["policy"].items() >= {"hold": "copy", "held": "copy"}.items()
        found = attributes(file)
        assert (found["state"], found["policy.held"]) == ("copied", "copy")
        stopped = report(copying, target.pid)["stopped_ms"]
        eventually(lambda: report(copying, target.pid)["bytes_read"] > len(data))
        assert report(copying, target.pid)["stopped_ms"] == stopped > 0
        shown = gcorefs("status", "--mount", copying.path).stdout.decode()
        assert "copied" in shown
    eventually(lambda: stops(copying, target.pid) == 1)
    (line,) = (line for line in copying.log.read_text().splitlines() if "opened by" in line)
    assert line.endswith(", copied")


PAGES = 1 << 20
"""More bytes than the header of any of these has."""


def test_a_second_opener_has_the_same_bytes(copying: Mount, spawn: Callable[..., Target]) -> None:
    target = spawn("counter")
    with opened(copying / target.pid) as fd:
        await_copied(copying, target.pid)
        data = whole(fd)
        with opened(copying / target.pid) as again:
            assert whole(again) == data
        assert report(copying, target.pid)["files"] == 1
        refused = run(*AS_NOBODY, "head", "-c", "1", copying / target.pid)
        assert b"Permission denied" in refused.stderr
    eventually(lambda: stops(copying, target.pid) == 1)


OTHER = """
import ctypes, os, sys
secret = bytearray(reversed(b"seye s'ydobon rof ton"))  # in no other place
print('{"pid": %d}' % os.getpid(), flush=True)
for line in sys.stdin:
    if line == "exec\\n":
        os.execvp("sleep", ["sleep", "1000"])
    secret[:] = bytes(len(secret))
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE
    print("{}", flush=True)
"""
SECRET = b"not for nobody's eyes"


@pytest.fixture
def other() -> Iterator[Target]:
    target = Target(["/usr/bin/python3", "-c", OTHER])
    yield target
    eventually(lambda: is_free(target.pid))
    target.kill()


def test_permission_for_the_present_program_does_not_show_the_old_copy(
    copying: Mount, other: Target
) -> None:
    file = copying / other.pid
    with opened(file) as fd:
        await_copied(copying, other.pid)
        assert SECRET in whole(fd)
        other.ask("user")
        seen = run(*AS_NOBODY, "cat", file)
        assert (seen.returncode, seen.stdout[:4]) == (0, b"\x7fELF")
        assert SECRET not in seen.stdout
        assert SECRET in whole(fd)
    eventually(lambda: stops(copying, other.pid) == 2)


def test_another_program_is_another_file(copying: Mount, other: Target) -> None:
    with opened(copying / other.pid) as fd:
        await_copied(copying, other.pid)
        data = whole(fd)
        other.tell("exec")
        eventually(lambda: task_stat.stat(other.pid).comm == b"sleep")
        with opened(copying / other.pid) as again:
            assert b"bin/sleep\0" in whole(again)
            assert os.fstat(again).st_ino != os.fstat(fd).st_ino
            assert whole(fd) == data


def test_a_dead_process_can_still_be_read(copying: Mount, spawn: Callable[..., Target]) -> None:
    target = spawn("bulk", SIZE)
    with opened(copying / target.pid) as fd:
        os.read(fd, 1)
        await_copied(copying, target.pid)
        target.kill()
        data = whole(fd)
        assert len(data) == os.fstat(fd).st_size > SIZE * MEBIBYTE
        start = offset_of(data, int(target.truth["start"], 16))
        assert data[start : start + 8] != bytes(8)
        assert errno_of(lambda: os.open(copying / target.pid, os.O_RDONLY)) == errno.ENOENT
    eventually(lambda: stops(copying, target.pid) == 1)


def resident_memory(pid: int) -> int:
    return int(task_status.status(pid)["VmRSS"].split()[0]) * 1024


def test_the_memory_is_given_back_at_the_last_close(
    copying: Mount, spawn: Callable[..., Target]
) -> None:
    target = spawn("bulk", 4 * SIZE)
    # The buffers of a reader stay.
    with opened(copying / target.pid) as fd:
        whole(fd)
    eventually(lambda: stops(copying, target.pid) == 1)
    before = resident_memory(copying.server)
    for number in (2, 3, 4):
        with opened(copying / target.pid) as fd, opened(copying / target.pid) as other:
            os.read(fd, 1)
            await_copied(copying, target.pid)
            assert resident_memory(copying.server) - before > 3 * SIZE * MEBIBYTE
            os.close(os.dup(other))
        eventually(partial(has_stopped, copying, target.pid, number))
        eventually(lambda: resident_memory(copying.server) - before < 16 * MEBIBYTE)


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("idle_timeout=0.5", "its file was not read for 0.5 s"),
        ("max_stop=0.5", "it was stopped for 0.5 s"),
    ],
)
def test_a_copy_is_kept_as_long_as_a_process_would_be_held(
    mount_with: Callable[..., Mount], spawn: Callable[..., Target], option: str, why: str
) -> None:
    mount = mount_with(f"hold=copy,{option}")
    mount.expect(f"let go, {why}")
    mount.expect("the process was let go")  # the read that fails
    target = spawn("bulk", SIZE)
    with opened(mount / target.pid) as fd:
        header = os.read(fd, 4096)
        server = mount.server
        eventually(lambda: report(mount, target.pid)["state"] == "let go")
        assert report(mount, target.pid)["why"] == why
        assert errno_of(lambda: os.pread(fd, 1, memory_offset(header))) == errno.EIO
        assert os.pread(fd, 4096, 0) == header
        eventually(lambda: resident_memory(server) < SIZE * MEBIBYTE + (60 << 20))


def test_release_gives_up_a_copy(copying: Mount, spawn: Callable[..., Target]) -> None:
    copying.expect("the process was let go")  # the read that fails
    target = spawn("threads", 1)
    with opened(copying / target.pid) as fd:
        header = os.read(fd, 4096)
        await_copied(copying, target.pid)
        assert gcorefs("release", target.pid, "--mount", copying.path).returncode == 0
        assert errno_of(lambda: os.pread(fd, 1, memory_offset(header))) == errno.EIO
        assert report(copying, target.pid)["state"] == "let go"


def await_told(mount: Mount, text: str) -> None:
    """A process whose file is closed before that is let go, and then nothing is told."""
    eventually(lambda: any(text in line for line in mount.warnings()))


def test_over_the_limit_a_process_is_held_and_the_reason_is_shown(
    mount_with: Callable[..., Mount], spawn: Callable[..., Target]
) -> None:
    mount = mount_with("hold=copy,copy_limit=8")
    target = spawn("bulk", 16)
    mount.expect(f"process {target.pid}: held, not copied: its ")
    file = mount / target.pid
    with opened(file) as fd:
        data = whole(fd)
        assert is_held(target.pid)
        why = note_of(data)["policy"]["held_why"]
        assert why.endswith(" MiB are over copy_limit")
        facts = report(mount, target.pid)
        assert (facts["state"], facts["why"]) == ("stopped", f"not copied: {why}")
        assert (facts["hold"], facts["held"], facts["held_why"]) == ("copy", "stop", why)
        found = attributes(file)
        assert (found["policy.held"], found["policy.held_why"]) == ("stop", why)
        shown = gcorefs("status", "--mount", mount.path).stdout.decode()
        assert f"stopped: not copied: {why}" in shown
    eventually(lambda: stops(mount, target.pid) == 1)
    assert f", held (not copied: {why})" in mount.log.read_text()


def test_what_fails_when_the_note_is_made_is_said_everywhere_else(
    copying: Mount, spawn: Callable[..., Target]
) -> None:
    target = spawn("uffd")
    why = "a page is not in memory, and somebody must supply it"
    told = f"process {target.pid}: held, not copied: {why}"
    copying.expect(told)
    file = copying / target.pid
    with opened(file) as fd:
        header = os.pread(fd, memory_offset(os.read(fd, 4096)), 0)
        eventually(lambda: report(copying, target.pid)["why"] != "")
        await_told(copying, told)
        assert is_held(target.pid)
        assert note_of(header)["policy"].items() >= {"hold": "copy", "held": "copy"}.items()
        found = attributes(file)
        assert (found["state"], found["policy.hold"], found["policy.held"]) == (
            "stopped",
            "copy",
            "stop",
        )
        assert found["policy.held_why"] == report(copying, target.pid)["held_why"]
        assert why in found["policy.held_why"]
    eventually(lambda: stops(copying, target.pid) == 1)


def test_a_death_between_the_copy_and_letting_go_does_not_matter(
    paused: Callable[..., Mount], spawn: Callable[..., Target]
) -> None:
    pause = Pause(Step.RELEASING)
    seen = Pause(Step.DEATH_TOLD)
    mount = paused(pause, seen, options="hold=copy")
    target = spawn("bulk", SIZE)
    with opened(mount / target.pid) as fd:
        pause.wait()
        target.popen.kill()
        seen.wait()  # the server has heard of the death
        seen.end()
        pause.end()
        data = whole(fd)
        assert len(data) == os.fstat(fd).st_size > SIZE * MEBIBYTE
        assert report(mount, target.pid)["state"] == "copied"


def test_the_copies_of_a_user_have_a_share_together(
    mount_with: Callable[..., Mount], spawn: Callable[..., Target]
) -> None:
    mount = mount_with("hold=copy,copy_limit=40")
    first, second = spawn("bulk", 24), spawn("bulk", 24)
    told = f"process {second.pid}: held, not copied: uid 0 has not enough of its copy_limit left"
    mount.expect(told)
    with opened(mount / first.pid) as fd:
        os.read(fd, 1)
        await_copied(mount, first.pid)
        with opened(mount / second.pid) as other:
            os.read(other, 1)
            eventually(lambda: report(mount, second.pid)["held"] == "stop")
            await_told(mount, told)
            assert is_held(second.pid)
    eventually(lambda: stops(mount, first.pid) == stops(mount, second.pid) == 1)
    with opened(mount / second.pid) as other:
        os.read(other, 1)
        await_copied(mount, second.pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_the_server_in_the_middle_hurts_nobody(
    paused: Callable[..., Mount], spawn: Callable[..., Target], number: int, tmp_path: Path
) -> None:
    # The server stops before it fills its copy.
    pause = Pause(Step.COPYING)
    mount = paused(pause, options="hold=copy,allow_other")
    target = spawn("counter")
    fd = os.open(mount / target.pid, os.O_RDONLY)
    try:
        pause.wait()
        assert is_held(target.pid)
        os.kill(mount.server, number)
        eventually(lambda: is_free(target.pid))
    finally:
        errno_of(lambda: os.close(fd))
    assert target.ask("report")["errors"] == 0


def test_reads_are_answered_while_the_copy_is_made(
    paused: Callable[..., Mount], spawn: Callable[..., Target]
) -> None:
    pause = Pause(Step.COPYING)
    mount = paused(pause, options="hold=copy")
    target = spawn("counter")
    with opened(mount / target.pid) as fd:
        pause.wait()
        data = whole(fd)
        assert is_held(target.pid)
        assert report(mount, target.pid)["state"] == "stopped"
        pause.end()
        await_copied(mount, target.pid)
        assert whole(fd) == data


def test_dump_lets_go_before_it_writes(spawn: Callable[..., Target], tmp_path: Path) -> None:
    target = spawn("bulk", SIZE)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = ["dump", target.pid, "-o", fifo, "--hold", "copy"]
    dump = subprocess.Popen([str(word) for word in (GCOREFS, *command)])
    with dump, fifo.open("rb") as reader:
        data = reader.read(4096)
        # The reader waits until we go on, and the process waits for nobody.
        eventually(lambda: is_free(target.pid))
        target.ask("gap")
        data += reader.read()
    assert dump.returncode == 0
    assert note_of(data)["policy"].items() >= {"hold": "copy", "held": "copy"}.items()
    assert len(data) > SIZE * MEBIBYTE


def test_dump_holds_what_is_over_the_limit_and_says_so(
    spawn: Callable[..., Target], tmp_path: Path
) -> None:
    target = spawn("bulk", 16)
    words = ("--hold", "copy", "--copy-limit", 8)
    result = gcorefs("dump", target.pid, "-o", tmp_path / "core", *words)
    assert result.returncode == 0
    (line,) = result.stderr.decode().splitlines()
    assert line.startswith("held until it was written, not copied: its ")
    policy = note_of((tmp_path / "core").read_bytes())["policy"]
    assert (policy["hold"], policy["held"]) == ("copy", "stop")
    assert line.endswith(policy["held_why"])


def test_other_words_are_refused(unmounted: Mount) -> None:
    result = gcorefs("mount", "-o", "hold=move", unmounted.path)
    assert_refused(result, "hold", "stop, copy")
    assert gcorefs("dump", 1, "--hold", "move").returncode == 2


UNDUMPABLE = """
import ctypes, os, sys
secret = bytearray(reversed(b"seye s'ydobon rof ton"))  # in no other place
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
print('{"pid": %d}' % os.getpid(), flush=True)
for line in sys.stdin:
    secret[:] = bytes(len(secret))
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
    print("{}", flush=True)
"""


def test_a_process_that_was_not_dumpable_keeps_its_secret_when_it_is(copying: Mount) -> None:
    target = Target([*AS_NOBODY, "/usr/bin/python3", "-c", UNDUMPABLE])
    try:
        file = copying / target.pid
        copying.expect("the kernel does not allow the opener to trace it")
        with opened(file) as fd:
            await_copied(copying, target.pid)
            assert SECRET in whole(fd)
            assert run(*AS_NOBODY, "cat", file).returncode == 1
            target.ask("dumpable")
            seen = run(*AS_NOBODY, "cat", file)
            assert (seen.returncode, seen.stdout[:4]) == (0, b"\x7fELF")
            assert SECRET not in seen.stdout
            assert SECRET in whole(fd)
        eventually(lambda: stops(copying, target.pid) == 2)
    finally:
        eventually(lambda: is_free(target.pid))
        target.kill()


def test_a_copy_is_shared_by_one_user_and_not_by_two(
    copying: Mount, spawn: Callable[..., Target], tmp_path: Path
) -> None:
    """Root may see every copy.  A user that was not judged at the stop gets a new stop."""
    target = Target([*AS_NOBODY, "sh", "-c", "echo '{\"pid\": '$$'}'; exec sleep 1000"])
    try:
        file = copying / target.pid
        eventually(lambda: task_stat.stat(target.pid).comm == b"sleep")
        with opened(file) as fd:
            await_copied(copying, target.pid)
            number = os.fstat(fd).st_ino
            with opened(file) as again:
                assert os.fstat(again).st_ino == number
            seen = run(
                *AS_NOBODY,
                "sh",
                "-c",
                f"exec 3<{file}; cat <&3 >/dev/null; stat -c %i -L /dev/fd/3",
            )
            assert seen.returncode == 0
            assert int(seen.stdout) != number
        eventually(lambda: stops(copying, target.pid) == 2)
    finally:
        eventually(lambda: is_free(target.pid))
        target.kill()


def test_a_process_is_held_for_nobody_when_only_copies_are_open(
    mount_with: Callable[..., Mount], spawn: Callable[..., Target]
) -> None:
    mount = mount_with("idle_timeout=600")
    target = spawn("counter")
    with opened(mount.path / "@hold=copy" / str(target.pid)) as copy:
        with opened(mount / target.pid) as held:
            assert os.pread(held, 4, 0) == os.pread(copy, 4, 0) == b"\x7fELF"
            before = whole(copy)
            assert is_held(target.pid)
        eventually(lambda: is_free(target.pid))
        assert report(mount, target.pid)["state"] == "copied"
        # Its plain name leads to a new stop, also while the copy is open.
        with opened(mount / target.pid) as again:
            assert os.pread(again, 4, 0) == b"\x7fELF"
            assert is_held(target.pid)
            assert whole(copy) == before
        eventually(lambda: is_free(target.pid))
        assert whole(copy) == before
