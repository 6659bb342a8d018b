"""What is held, and how to release it; what a file says about itself."""

import errno
import json
import os
import select
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gcorefs.steps import Step
from tests.conftest import GCOREFS, Mount, Target, text_of
from tests.features import has_pagemap_scan, why_no_bpf
from tests.mounted.conftest import (
    NOBODY,
    Pause,
    assert_refused,
    end,
    errno_of,
    eventually,
    gcorefs,
    is_free,
    is_held,
    memory_offset,
    note_of,
    opened,
    run,
    user,
    whole,
)

OTHER = 4321
"""A user who is neither root nor nobody."""


def status(mount: Mount, *prefix: str) -> list[dict[str, Any]]:
    """The held processes, as a user sees them."""
    result = run(*prefix, "cat", mount.path / ".gcorefs" / "status")
    assert (result.returncode, result.stderr) == (0, b"")
    stops: list[dict[str, Any]] = json.loads(result.stdout)["stops"]
    return stops


def release_errno(mount: Mount, data: bytes, *prefix: str) -> int:
    """The errno with which a write to the release file fails; 0 if it succeeds."""
    script = "import os, sys; os.write(os.open(sys.argv[1], os.O_WRONLY), sys.stdin.buffer.read())"
    place = mount.path / ".gcorefs" / "release"
    result = run(*prefix, "/usr/bin/python3", "-c", script, place, input=data)
    if result.returncode == 0:
        return 0
    return int(result.stderr.split(b"[Errno ")[1].split(b"]")[0])


def attribute_names(path: Path, *prefix: str) -> list[str]:
    script = "import json, os, sys; print(json.dumps(os.listxattr(sys.argv[1])))"
    names: list[str] = json.loads(run(*prefix, "/usr/bin/python3", "-c", script, path).stdout)
    return names


def test_nothing_is_held_before_anything_is_opened(mount: Mount) -> None:
    assert status(mount) == []
    result = gcorefs("status", "--mount", mount.path)
    missing = f"{mount.path}: mappings come from smaps: {why_no_bpf()}\n" if why_no_bpf() else ""
    assert (result.returncode, result.stdout.decode()) == (0, f"nothing is held\n{missing}")
    assert json.loads(gcorefs("status", "--json", "--mount", mount.path).stdout) == []


def test_status_shows_what_the_kernel_can_do(mount: Mount) -> None:
    features = json.loads((mount.path / ".gcorefs" / "status").read_text())["kernel"]
    assert features["PAGEMAP_SCAN"] == has_pagemap_scan()
    assert features["process_vm_readv"]
    lines = gcorefs("status", "--kernel", "--mount", mount.path).stdout.decode().splitlines()
    expected = [f"{mount.path}: {name}: {'yes' if it else 'no'}" for name, it in features.items()]
    source = f"smaps: {why_no_bpf()}" if why_no_bpf() else "BPF"
    assert lines == ["nothing is held", f"{mount.path}: mappings come from {source}", *expected]


@pytest.mark.parametrize("option", ["auto", "off"])
def test_log_and_status_say_once_where_mappings_come_from(unmounted: Mount, option: str) -> None:
    why = "bpf=off" if option == "off" else why_no_bpf()
    line = f"mappings come from {f'smaps: {why}' if why else 'BPF'}"
    unmounted.make(f"bpf={option}")
    try:
        text = json.loads((unmounted.path / ".gcorefs" / "status").read_text())
        assert text["mappings"] == line
        assert text["is_bpf_missing"] == (option == "auto" and bool(why))
        eventually(lambda: unmounted.log.read_text().count(line) == 1)
    finally:
        end(unmounted.server)


def test_status_shows_who_holds_what(mount: Mount, spawn: Callable[..., Target]) -> None:
    target = spawn("threads", 3)
    with opened(mount / target.pid) as fd, opened(mount / target.pid):
        data = whole(fd)
        (stop,) = status(mount)
        expected = {
            "pid": target.pid,
            "name": "threads",
            "state": "stopped",
            "why": "",
            "threads": 4,
            "threads_not_stopped": 0,
            "bytes_read": len(data),
            "pages_unreadable": 0,
            "size": len(data),
            "files": 2,
            "openers": [{"pid": os.getpid(), "uid": 0}],
        }
        assert {name: stop[name] for name in expected} == expected
        assert stop["stopped_ms"] >= stop["ready_ms"] > 0
        lines = gcorefs("status", "--mount", mount.path).stdout.decode().splitlines()
        headings = "PID  NAME  THREADS  STOPPED  READ  OPENED BY  STATE"
        assert " ".join(lines[0].split()) == " ".join(headings.split())
        assert lines[1].split()[:3] == [str(target.pid), "threads", "4"]
        assert f"{os.getpid()} (uid 0) and 1 more" in lines[1]
        (as_json,) = json.loads(gcorefs("status", "--json", "--mount", mount.path).stdout)
        assert as_json["mount"] == str(mount.path)
        assert {name: as_json[name] for name in expected} == expected
    eventually(lambda: status(mount) == [])


def test_status_tells_of_a_process_that_is_being_stopped(
    mount_with: Callable[..., Mount], spawn: Callable[..., Target]
) -> None:
    mount = mount_with("stop_timeout=60")
    target = spawn("vforker")
    with opened(mount / target.pid):
        (stop,) = status(mount)
        assert (stop["pid"], stop["state"], stop["size"]) == (target.pid, "stopping", None)
    eventually(lambda: status(mount) == [])
    assert target.ask("release") == {"released": True}


def test_status_tells_why_a_process_was_let_go(
    mount_with: Callable[..., Mount], spawn: Callable[..., Target]
) -> None:
    mount = mount_with("idle_timeout=0.2")
    target = spawn("threads", 1)
    why = "its file was not read for 0.2 s"
    mount.expect(f"process {target.pid}: let go, {why}")
    with opened(mount / target.pid):
        eventually(lambda: status(mount)[0]["state"] == "let go")
        assert status(mount)[0]["why"] == why
        eventually(lambda: is_free(target.pid))
    eventually(lambda: status(mount) == [])


def test_status_tells_of_a_death_and_of_a_failure(
    mount: Mount, spawn: Callable[..., Target], strace: Callable[[int], int]
) -> None:
    dead, traced = spawn("threads", 1), spawn("threads", 1)
    tracer = strace(traced.truth["threads"][0]["tid"])
    mount.expect(f"TracerPid {tracer}")
    with opened(mount / dead.pid) as fd, opened(mount / traced.pid) as other:
        os.read(fd, 1)
        assert errno_of(lambda: os.read(other, 1)) == errno.EBUSY
        dead.kill()
        eventually(lambda: status(mount)[0]["state"] == "died")
        assert status(mount)[1]["state"] == "failed"
        assert f"TracerPid {tracer}" in status(mount)[1]["why"]


def test_a_name_cannot_speak_to_the_terminal(mount: Mount) -> None:
    code = "import sys; open('/proc/self/comm', 'w').write('a\\x1b[2J'); print(flush=True); input()"
    process = subprocess.Popen(
        ["/usr/bin/python3", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        with opened(mount / process.pid) as fd:
            os.read(fd, 1)
            shown = gcorefs("status", "--mount", mount.path).stdout
            assert b"\x1b" not in shown
            assert rb"a\x1b[2J" in shown
        eventually(lambda: is_free(process.pid))
    finally:
        process.kill()
        process.communicate()


def test_a_user_sees_only_what_they_opened(
    mount_with: Callable[..., Mount], spawn: Callable[..., Target]
) -> None:
    mount = mount_with("allow_other")
    roots = spawn("threads", 1)
    with ExitStack() as stack:
        nobodys = stack.enter_context(subprocess.Popen([*user(NOBODY), "sleep", "1000"]))
        stack.callback(nobodys.kill)
        eventually(lambda: Path(f"/proc/{nobodys.pid}/comm").read_text() == "sleep\n")
        tail = [*user(NOBODY), "tail", "-f", mount / nobodys.pid]
        reader = stack.enter_context(subprocess.Popen(text_of(tail), stdout=subprocess.DEVNULL))
        stack.callback(reader.kill)
        eventually(lambda: len(status(mount, *user(NOBODY))) == 1)
        with opened(mount / roots.pid), opened(mount / nobodys.pid):
            (seen,) = status(mount, *user(NOBODY))
            assert seen["pid"] == nobodys.pid
            assert seen["openers"] == [{"pid": reader.pid, "uid": NOBODY}]
            assert status(mount, *user(OTHER)) == []
            # A core has some when it is made.
            eventually(lambda: attribute_names(mount / nobodys.pid, *user(NOBODY)) != [])
            assert attribute_names(mount / nobodys.pid, *user(OTHER)) == []
            assert {stop["pid"] for stop in status(mount)} == {roots.pid, nobodys.pid}
            both = next(stop for stop in status(mount) if stop["pid"] == nobodys.pid)
            assert [each["uid"] for each in both["openers"]] == [NOBODY, 0]
            # Only root may release a process that root has open too.
            mount.expect("another user holds it, and only root may release it")
            pid = b"%d\n" % nobodys.pid
            assert release_errno(mount, pid, *user(NOBODY)) == errno.EPERM
            assert release_errno(mount, pid, *user(OTHER)) == errno.EPERM
            assert is_held(nobodys.pid)
        reader.kill()
        eventually(lambda: is_free(nobodys.pid))


def test_a_status_that_is_being_made_holds_up_nobody(
    paused: Callable[..., Mount], spawn: Callable[..., Target]
) -> None:
    making = Pause(Step.STATUS_MADE)
    mount = paused(making)
    one, other = spawn("threads", 1), spawn("threads", 1)
    with ExitStack() as stack, ThreadPoolExecutor() as threads:
        stack.enter_context(opened(mount / one.pid))
        first = threads.submit(status, mount)
        making.wait()
        assert status(mount, *user(NOBODY)) == []
        fd = stack.enter_context(opened(mount / other.pid))
        assert os.pread(fd, 4, 0) == b"\x7fELF"
        # A later question gets the state at that time.
        second = threads.submit(status, mount)
        making.end()
        assert [stop["pid"] for stop in first.result()] == [one.pid]
        assert [stop["pid"] for stop in second.result()] == [one.pid, other.pid]


def test_nobody_has_any_number_of_status_files_open(mount: Mount) -> None:
    file = mount.path / ".gcorefs" / "status"
    mount.expect("the mount: its opener has too many open files (user_files=) (uid 0)")
    with ExitStack() as stack:
        for _ in range(32):
            stack.enter_context(opened(file))
        assert errno_of(lambda: os.open(file, os.O_RDONLY)) == errno.EMFILE
    eventually(lambda: errno_of(lambda: os.close(os.open(file, os.O_RDONLY))) == 0)


def test_a_process_is_let_go_by_hand(mount: Mount, spawn: Callable[..., Target]) -> None:
    target = spawn("threads", 3)
    mount.expect(f"process {target.pid}: the process was let go")
    with opened(mount / target.pid) as fd:
        header = os.read(fd, 1 << 12)
        number = os.fstat(fd).st_ino
        assert is_held(target.pid)
        result = gcorefs("release", target.pid, "--mount", mount.path)
        assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
        eventually(lambda: is_free(target.pid))
        assert os.pread(fd, len(header), 0) == header
        assert errno_of(lambda: os.pread(fd, 1, memory_offset(header))) == errno.EIO
        (stop,) = status(mount)
        assert stop["state"] == "let go"
        assert stop["why"].endswith("(uid 0) released it")
        with opened(mount / target.pid) as new:
            assert os.fstat(new).st_ino != number
            assert len(whole(new)) == os.fstat(new).st_size
            assert errno_of(lambda: os.pread(fd, 1, memory_offset(header))) == errno.EIO
    assert f"process {target.pid}: let go, process " in mount.log.read_text()
    assert target.ask("ping") == {"pong": 1}


def test_a_shell_can_let_go(mount: Mount, spawn: Callable[..., Target]) -> None:
    target = spawn("threads", 1)
    with opened(mount / target.pid) as fd:
        os.read(fd, 1)
        script = f"echo {target.pid} > {mount.path}/.gcorefs/release"
        result = run("sh", "-c", script)
        assert (result.returncode, result.stderr) == (0, b"")
        eventually(lambda: is_free(target.pid))
        poller = select.poll()
        poller.register(fd, 0)
        assert poller.poll(20_000) == [(fd, select.POLLERR)]


def test_a_process_is_let_go_while_it_is_being_stopped(
    mount_with: Callable[..., Mount], spawn: Callable[..., Target]
) -> None:
    mount = mount_with("stop_timeout=60")
    target = spawn("vforker")
    mount.expect(f"process {target.pid}: the process was let go")
    with opened(mount / target.pid) as fd:
        assert gcorefs("release", target.pid, "--mount", mount.path).returncode == 0
        assert errno_of(lambda: os.read(fd, 1)) == errno.EIO
        eventually(lambda: is_free(target.pid))
    assert target.ask("release") == {"released": True}


@pytest.mark.parametrize("data", [b"", b"\n", b"0", b"-1", b"x", b"1 2", b"1\n2\n", b"9" * 4096])
def test_text_that_is_not_a_pid_releases_nobody(mount: Mount, data: bytes) -> None:
    if data:  # without data, write(2) sends no request
        mount.expect("the text written to .gcorefs/release is not a pid")
    before = mount.log.read_bytes().count(b"\n")
    assert release_errno(mount, data) == (errno.EINVAL if data else 0)
    # Its text is the writer's choice, so it is not in the log.
    lines = mount.log.read_bytes().splitlines()[before:]
    assert all(line.endswith(b"is not a pid (uid 0)") for line in lines)


def test_a_process_that_is_not_held_is_not_let_go(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    target = spawn("threads", 1)
    mount.expect(f"process {target.pid}: it is not held")
    assert release_errno(mount, b"%d" % target.pid) == errno.ESRCH
    result = gcorefs("release", target.pid, "--mount", mount.path)
    assert_refused(result, f"process {target.pid} is not held")


@pytest.mark.parametrize("command", [("status",), ("release", 1)])
def test_if_nothing_is_mounted_one_line_says_so(
    tmp_path: Path, command: tuple[object, ...]
) -> None:
    assert_refused(gcorefs(*command, "--mount", tmp_path), f"{tmp_path}: no gcorefs is mounted")


def test_a_mount_without_its_server_is_reported_and_hides_no_other(
    mount: Mount, tmp_path_factory: pytest.TempPathFactory, spawn: Callable[..., Target]
) -> None:
    target = spawn("threads", 1)
    dead = Mount(tmp_path_factory.mktemp("dead"), tmp_path_factory.mktemp("log") / "log")
    dead.make()
    try:
        os.kill(dead.server, 9)
        eventually(lambda: errno_of(lambda: os.stat(dead.path)) == errno.ENOTCONN)
        words = "Transport endpoint is not connected"
        assert_refused(gcorefs("status", "--mount", dead.path), f"{dead.path}: {words}")
        with opened(mount / target.pid) as fd:
            os.read(fd, 1)
            result = gcorefs("status", "--json")
            assert str(target.pid).encode() in result.stdout
            assert f"{dead.path}: {words}\n".encode() in result.stderr
    finally:
        subprocess.run([GCOREFS, "umount", dead.path], check=True)


def test_the_control_files_are_reached_by_name_only(mount: Mount) -> None:
    assert ".gcorefs" not in os.listdir(mount.path)
    control = mount.path / ".gcorefs"
    assert sorted(os.listdir(control)) == ["exact", "release", "status"]
    modes = {path: oct(path.stat().st_mode) for path in (control, *control.iterdir())}
    assert modes == {
        control: "0o40555",
        control / "exact": "0o40555",
        control / "release": "0o100222",
        control / "status": "0o100444",
    }
    assert errno_of(lambda: os.stat(control / "1")) == errno.ENOENT
    assert errno_of(lambda: os.open(control / "status", os.O_WRONLY)) == errno.EROFS
    assert errno_of(lambda: os.open(control / "release", os.O_RDONLY)) == errno.EACCES
    assert errno_of(lambda: os.unlink(control / "status")) == errno.EROFS
    assert errno_of(lambda: os.open(control / "new", os.O_CREAT | os.O_WRONLY)) == errno.EROFS


def test_a_file_says_what_it_is(
    mount_with: Callable[..., Mount], spawn: Callable[..., Target]
) -> None:
    mount = mount_with("stop_timeout=0.2")
    target = spawn("vforker")
    file = mount / target.pid
    assert os.listxattr(file) == []
    with opened(file) as fd:
        data = whole(fd)
        names = os.listxattr(file)
        found = {name: os.getxattr(file, name).decode() for name in names}
        assert {name: os.getxattr(fd, name).decode() for name in names} == found
        expected = {
            "user.gcorefs.pid": str(target.pid),
            "user.gcorefs.host": os.uname().nodename,
            "user.gcorefs.policy.unresponsive": "partial",
            "user.gcorefs.threads.stopped": "4",
            "user.gcorefs.threads.partial": "1",
            "user.gcorefs.tids.partial": str(target.truth["vfork_tid"]),
            "user.gcorefs.state": "stopped",
        }
        assert {name: found[name] for name in expected} == expected
        # The note says the same.
        facts = note_of(data)
        assert facts["stopped_at"] == found["user.gcorefs.stopped_at"]
        shown = run("getfattr", "--absolute-names", "-d", file).stdout.decode()
        for name, value in expected.items():
            assert f'{name}="{value}"\n' in shown
        assert errno_of(lambda: os.getxattr(file, "user.gcorefs.nonsense")) == errno.ENODATA
        assert errno_of(lambda: os.getxattr(file, "user.nonsense")) == errno.ENODATA
        assert errno_of(lambda: os.setxattr(file, "user.gcorefs.pid", b"1")) == errno.EROFS
    eventually(lambda: os.listxattr(file) == [])
    assert target.ask("release") == {"released": True}


def test_a_mount_of_another_user_that_never_answers_holds_up_nobody(tmp_path: Path) -> None:
    """With user_allow_other in fuse.conf(5) any user may mount that before root's eyes."""
    silent = tmp_path / "silent"
    silent.mkdir()
    server = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={server},rootmode=40000,user_id={NOBODY},group_id={NOBODY},allow_other"
    command = ["mount", "-i", "-t", "fuse.gcorefs", "-o", options, "theirs", str(silent)]
    subprocess.run(command, check=True, pass_fds=[server])
    try:
        with subprocess.Popen([GCOREFS, "status"], stderr=subprocess.PIPE) as asking:
            try:
                said = asking.communicate(timeout=30)[1]
            finally:
                os.close(server)  # whoever waits gets ENOTCONN: no signal would help
        assert asking.returncode == 0
        assert str(silent).encode() not in said
    finally:
        subprocess.run(["umount", "--lazy", silent], check=True)
