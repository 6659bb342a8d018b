"""A mount from its beginning to its end, however it ends: no process stays stopped, none hangs."""

import errno
import os
import pty
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcorefs.mount.mountpoints import FSTYPE
from gcorefs.steps import Step
from tests.conftest import GCOREFS, Mount, Target, mounts, text_of, wait_until_gone
from tests.features import why_no_bpf
from tests.mounted.conftest import (
    CUT_OFF,
    Pause,
    assert_refused,
    blocked,
    errno_of,
    eventually,
    gcorefs,
    is_free,
    is_held,
    memory_offset,
    opened,
    run,
    stops,
)


def is_mounted(mount: Mount) -> bool:
    return (str(mount.path), FSTYPE) in mounts()


def test_the_command_returns_once_the_mount_answers(unmounted: Mount) -> None:
    # Both ends of every pipe: the server, which stays, must not keep them open.
    result = gcorefs("mount", "--log-file", unmounted.log, unmounted.path, stdin=subprocess.PIPE)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert is_mounted(unmounted)
    assert os.path.exists(unmounted / os.getpid())
    server = unmounted.server
    assert os.getsid(server) != os.getsid(0)
    assert os.readlink(f"/proc/{server}/cwd") == "/"
    for number in (0, 1, 2):
        assert os.readlink(f"/proc/{server}/fd/{number}") == os.devnull
    assert gcorefs("umount", unmounted.path).returncode == 0
    wait_until_gone(server)


def test_the_type_says_whose_it_is(mount: Mount) -> None:
    line = run("findmnt", "--noheadings", "--output", "SOURCE,FSTYPE,OPTIONS", mount.path).stdout
    source, fstype, options = line.decode().split()
    assert (source, fstype) == ("gcorefs", "fuse.gcorefs")
    assert {"nosuid", "nodev", "noexec", "default_permissions"} <= set(options.split(","))


@pytest.fixture
def foreground(unmounted: Mount) -> Iterator[subprocess.Popen[bytes]]:
    command = [GCOREFS, "mount", "--foreground", unmounted.path]
    with subprocess.Popen(text_of(command), stderr=subprocess.PIPE) as process:
        try:
            eventually(lambda: is_mounted(unmounted) or process.poll() is not None)
            yield process
        finally:
            process.kill()


def in_use() -> str:
    why_not = why_no_bpf()
    return "mappings come from " + (f"smaps: {why_not}" if why_not else "BPF")


def said_at_first(server: "subprocess.Popen[bytes]") -> bytes:
    """The two lines of a server that has mounted."""
    assert server.stderr is not None
    return server.stderr.readline() + server.stderr.readline()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_in_the_foreground_it_stays_until_told(
    unmounted: Mount, foreground: "subprocess.Popen[bytes]", number: signal.Signals
) -> None:
    assert str(os.getpid()) in os.listdir(unmounted.path)
    assert foreground.poll() is None
    assert foreground.stderr is not None
    first = said_at_first(foreground)
    foreground.send_signal(number)
    _, said = foreground.communicate()
    assert foreground.returncode == 0
    assert (first + said).decode().splitlines() == [
        f"gcorefs: INFO: mounted at {unmounted.path}",
        f"gcorefs: INFO: {in_use()}",
        f"gcorefs: INFO: ends on {number.name}",
    ]
    assert not is_mounted(unmounted)


@pytest.mark.parametrize("milliseconds", [0, 1, 2, 5, 10, 20])
def test_a_signal_while_it_mounts_leaves_no_dead_mount(unmounted: Mount, milliseconds: int) -> None:
    command = text_of([GCOREFS, "mount", "--foreground", unmounted.path])
    with subprocess.Popen(command, stderr=subprocess.PIPE) as server:
        eventually(lambda: is_mounted(unmounted))
        time.sleep(milliseconds / 1000)  # whatever it does by then
        server.send_signal(signal.SIGTERM)
        server.communicate()
    assert server.returncode == 0
    assert not is_mounted(unmounted)


def test_when_its_terminal_is_gone_it_ends(unmounted: Mount) -> None:
    pid, terminal = pty.fork()
    if not pid:
        words = [GCOREFS, "mount", "--foreground", "--log-file", unmounted.log, unmounted.path]
        os.execv(GCOREFS, text_of(words))
    try:
        eventually(lambda: is_mounted(unmounted))
    finally:
        os.close(terminal)
    assert os.waitpid(pid, 0) == (pid, 0)
    assert not is_mounted(unmounted)


def test_without_a_terminal_a_sighup_ends_nothing(unmounted: Mount) -> None:
    command = text_of([GCOREFS, "mount", "--foreground", unmounted.path])
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as server:
        assert server.stderr is not None
        said_at_first(server)
        server.send_signal(signal.SIGHUP)
        assert b"SIGHUP: there are " in server.stderr.readline()
        assert is_mounted(unmounted)
        server.send_signal(signal.SIGTERM)
        assert server.communicate()[1] == b"gcorefs: INFO: ends on SIGTERM\n"


def test_a_signal_that_was_ignored_stays_ignored(unmounted: Mount) -> None:
    # By nohup(1), for example.
    command = text_of(["sh", "-c", 'trap "" HUP USR1; exec "$@"', "-"])
    command += text_of([GCOREFS, "mount", "--foreground", unmounted.path])
    with subprocess.Popen(command, stderr=subprocess.PIPE) as server:
        said_at_first(server)
        server.send_signal(signal.SIGHUP)
        server.send_signal(signal.SIGUSR1)
        server.send_signal(signal.SIGRTMIN + 1)
        said = server.communicate()[1].decode()
    assert server.returncode == 0
    assert said == f"gcorefs: INFO: ends on signal {signal.SIGRTMIN + 1}\n"
    assert not is_mounted(unmounted)


def test_a_signal_that_the_caller_blocks_ends_it(unmounted: Mount) -> None:
    command = text_of([GCOREFS, "mount", "--foreground", unmounted.path])
    with blocked(signal.SIGTERM), subprocess.Popen(command, stderr=subprocess.PIPE) as server:
        said_at_first(server)
        server.send_signal(signal.SIGTERM)
        assert server.communicate(timeout=60)[1] == b"gcorefs: INFO: ends on SIGTERM\n"
    assert not is_mounted(unmounted)


def test_told_again_and_again_it_ends_in_good_order(
    unmounted: Mount, foreground: "subprocess.Popen[bytes]", spawn: Callable[..., Target]
) -> None:
    target = spawn("threads", 3)
    with opened(unmounted / target.pid) as fd:
        os.read(fd, 1)
        deadline = time.monotonic() + 200
        while foreground.poll() is None and time.monotonic() < deadline:
            foreground.send_signal(signal.SIGTERM)
            foreground.send_signal(signal.SIGINT)
            time.sleep(0.001)  # otherwise it has no time for anything else
    assert foreground.returncode == 0
    assert not is_mounted(unmounted)
    eventually(lambda: is_free(target.pid))


def test_in_the_foreground_it_ends_with_its_mount(
    unmounted: Mount, foreground: "subprocess.Popen[bytes]"
) -> None:
    os.listdir(unmounted.path)
    assert gcorefs("umount", unmounted.path).returncode == 0
    assert foreground.wait() == 0


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("missing", "No such file or directory"),
        ("missing/below", "No such file or directory"),
        ("file", "not a directory"),
        ("file/below", "Not a directory"),
    ],
)
@pytest.mark.parametrize("how", ["--foreground", "--verbose"])
def test_a_place_that_is_not_a_directory_is_refused(
    tmp_path: Path, place: str, words: str, how: str
) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / place
    assert_refused(gcorefs("mount", how, path), f"{path}: ", words)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("nonsense", "nonsense"),
        ("nonsense=1", "nonsense"),
        ("idle_timeout", "idle_timeout"),
        ("idle_timeout=", "idle_timeout"),
        ("idle_timeout=soon", "idle_timeout"),
        ("idle_timeout=-1", "idle_timeout"),
        ("idle_timeout=nan", "idle_timeout"),
        ("idle_timeout=inf", "idle_timeout"),
        ("allow_other,stop_timeout=1s", "stop_timeout"),
    ],
)
def test_an_option_that_is_wrong_is_refused(unmounted: Mount, option: str, words: str) -> None:
    assert_refused(gcorefs("mount", "-o", option, unmounted.path), words)
    assert not is_mounted(unmounted)


def test_a_log_that_cannot_be_written_is_refused(unmounted: Mount) -> None:
    result = gcorefs("mount", "--log-file", unmounted.path / "no" / "log", unmounted.path)
    assert_refused(result, "No such file or directory")
    assert not is_mounted(unmounted)


def test_a_second_mount_at_the_same_place_is_refused(mount: Mount) -> None:
    assert_refused(gcorefs("mount", mount.path), "already mounted", f"gcorefs umount {mount.path}")
    assert mounts().count((str(mount.path), FSTYPE)) == 1


@pytest.fixture(params=["folder", "mount point", "both"])
def linked(request: pytest.FixtureRequest, unmounted: Mount, tmp_path: Path) -> Path:
    """Another path of a mount point, through symbolic links, as /var/run is one."""
    path = unmounted.path
    if request.param != "mount point":
        (tmp_path / "there").symlink_to(tmp_path)
        path = tmp_path / "there" / path.name
    if request.param != "folder":
        (tmp_path / "link").symlink_to(path)
        path = tmp_path / "link"
    return path


def test_a_mount_point_has_every_name_that_leads_to_it(
    linked: Path, unmounted: Mount, spawn: Callable[..., Target]
) -> None:
    pid = spawn("threads", 1).pid
    assert gcorefs("mount", "--log-file", unmounted.log, linked).returncode == 0
    assert is_mounted(unmounted)
    assert_refused(gcorefs("mount", linked), "already mounted")
    assert gcorefs("status", "--mount", linked).stdout == b"nothing is held\n"
    unmounted.allow(f"process {pid}: it is not held")
    assert_refused(gcorefs("release", "--mount", linked, pid), f"process {pid} is not held")
    server = unmounted.server
    result = gcorefs("umount", linked)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert not is_mounted(unmounted)
    wait_until_gone(server)


def test_a_name_that_leads_to_a_dead_mount_is_taken_for_it(linked: Path, unmounted: Mount) -> None:
    unmounted.make()
    server = unmounted.server
    os.kill(server, signal.SIGSTOP)
    try:
        assert_refused(gcorefs("status", "--mount", linked), "its server does not answer")
        assert gcorefs("umount", "--lazy", linked).returncode == 0
        assert not is_mounted(unmounted)
    finally:
        os.kill(server, signal.SIGCONT)
    wait_until_gone(server)


@pytest.mark.parametrize("command", [[GCOREFS, "umount"], ["fusermount3", "-u"], ["umount"]])
def test_an_unmounted_server_ends(unmounted: Mount, command: list[str]) -> None:
    unmounted.make()
    server = unmounted.server
    result = run(*command, unmounted.path)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert not is_mounted(unmounted)
    wait_until_gone(server)


def test_what_is_not_ours_is_not_unmounted(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing", Path("/proc"), Path("/")):
        assert_refused(gcorefs("umount", path), f"{path}: no gcorefs is mounted there")
    assert os.path.ismount("/proc")


@pytest.mark.parametrize("options", [[], ["--lazy"]])
def test_a_mount_whose_server_does_not_answer_is_taken_away(
    unmounted: Mount, options: list[str]
) -> None:
    unmounted.make()
    server = unmounted.server
    os.kill(server, signal.SIGSTOP)
    try:
        result = gcorefs("status", "--mount", unmounted.path)
        assert_refused(result, f"{unmounted.path}: its server does not answer")
        result = gcorefs("mount", unmounted.path)
        assert_refused(result, f"{unmounted.path}: a mount whose server does not answer")
        result = gcorefs("umount", *options, unmounted.path)
        assert (result.returncode, result.stderr) == (0, b"")
        assert not is_mounted(unmounted)
    finally:
        os.kill(server, signal.SIGCONT)
    wait_until_gone(server)


def test_a_mount_in_use_is_unmounted_only_lazily(
    unmounted: Mount, spawn: Callable[..., Target]
) -> None:
    target = spawn("threads", 1)
    unmounted.make()
    server = unmounted.server
    with opened(unmounted / target.pid) as fd:
        assert_refused(gcorefs("umount", unmounted.path), "busy")
        assert gcorefs("umount", "--lazy", unmounted.path).returncode == 0
        assert not is_mounted(unmounted)
        assert os.pread(fd, 4, 0) == b"\x7fELF"
        assert is_held(target.pid)
    eventually(lambda: is_free(target.pid))
    wait_until_gone(server)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGXCPU,
        signal.SIGRTMIN + 1,
    ],
)
def test_a_signal_lets_go_what_a_reader_has_open(
    unmounted: Mount, spawn: Callable[..., Target], number: int
) -> None:
    target = spawn("threads", 3)
    unmounted.make()
    server = unmounted.server
    with opened(unmounted / target.pid) as fd:
        header = os.read(fd, 1 << 12)
        os.kill(server, number)
        wait_until_gone(server)
        assert is_free(target.pid)
        assert errno_of(lambda: os.pread(fd, 1, memory_offset(header))) in CUT_OFF
        assert not is_mounted(unmounted)
    assert target.ask("ping") == {"pong": 1}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_reader_that_waits_is_told_when_the_server_ends(
    unmounted: Mount, spawn: Callable[..., Target], number: signal.Signals
) -> None:
    target = spawn("vforker")  # not ready before its child ends
    unmounted.make("stop_timeout=60")
    server = unmounted.server
    if number == signal.SIGTERM:
        unmounted.expect("the process was let go")
    found: list[int] = []
    with opened(unmounted / target.pid) as fd:
        reader = threading.Thread(target=lambda: found.append(errno_of(lambda: os.read(fd, 1))))
        reader.start()
        wchan = Path(f"/proc/self/task/{reader.native_id}/wchan")
        eventually(lambda: wchan.read_text() == "request_wait_answer")
        eventually(lambda: not is_free(target.pid))
        os.kill(server, number)
        reader.join(200)
        assert set(found) and set(found) <= CUT_OFF
        wait_until_gone(server)
        if number == signal.SIGTERM:
            assert is_free(target.pid)
        eventually(lambda: is_free(target.pid))  # by its worker, when that hears of the end


def test_a_server_that_is_killed_leaves_nobody_stopped(
    unmounted: Mount, spawn: Callable[..., Target]
) -> None:
    target = spawn("threads", 3)
    unmounted.make()
    server = unmounted.server
    with opened(unmounted / target.pid) as fd:
        os.read(fd, 1)
        assert is_held(target.pid)
        os.kill(server, signal.SIGKILL)
        wait_until_gone(server)
        eventually(lambda: is_free(target.pid))
        assert errno_of(lambda: os.pread(fd, 1, 0)) in CUT_OFF
    assert target.ask("ping") == {"pong": 1}
    # What is left is a dead mount.
    assert errno_of(lambda: os.stat(unmounted.path)) == errno.ENOTCONN
    assert_refused(gcorefs("mount", unmounted.path), "server is gone", "gcorefs umount")
    assert gcorefs("umount", unmounted.path).returncode == 0
    assert not is_mounted(unmounted)
    unmounted.make()
    with opened(unmounted / target.pid) as fd:
        assert os.read(fd, 4) == b"\x7fELF"
    eventually(lambda: is_free(target.pid))
    server = unmounted.server
    assert gcorefs("umount", unmounted.path).returncode == 0
    wait_until_gone(server)


def test_a_dead_mount_with_open_files_is_unmounted_too(
    unmounted: Mount, spawn: Callable[..., Target]
) -> None:
    target = spawn("threads", 1)
    unmounted.make()
    server = unmounted.server
    with opened(unmounted / target.pid):
        os.kill(server, signal.SIGKILL)
        wait_until_gone(server)
        assert gcorefs("umount", unmounted.path).returncode == 0
        assert not is_mounted(unmounted)


def test_a_reader_that_sleeps_loses_the_process(
    mount_with: Callable[..., Mount], spawn: Callable[..., Target]
) -> None:
    mount = mount_with("idle_timeout=1")
    target = spawn("threads", 3)
    mount.expect(f"process {target.pid}: let go, its file was not read for 1 s")
    mount.expect(f"process {target.pid}: the process was let go")
    with opened(mount / target.pid) as fd:
        header = os.read(fd, 1 << 12)
        before = os.fstat(fd)
        assert is_held(target.pid)
        eventually(lambda: is_free(target.pid))
        assert errno_of(lambda: os.pread(fd, 1, memory_offset(header))) == errno.EIO
        assert os.pread(fd, len(header), 0) == header
        assert os.fstat(fd).st_size == before.st_size
        # A new stop is a new file: the bytes of the old file never mix with it.
        with opened(mount / target.pid) as new:
            assert os.fstat(new).st_ino != before.st_ino == os.fstat(fd).st_ino
            head = os.pread(new, 1 << 12, 0)
            assert len(os.pread(new, 1, memory_offset(head))) == 1
            assert is_held(target.pid)
            assert errno_of(lambda: os.pread(fd, 1, memory_offset(header))) == errno.EIO
        eventually(lambda: stops(mount, target.pid) == 2)
    assert target.ask("ping") == {"pong": 1}


def test_a_process_is_stopped_no_longer_than_max_stop(
    mount_with: Callable[..., Mount], spawn: Callable[..., Target]
) -> None:
    mount = mount_with("max_stop=1")
    target = spawn("threads", 3)
    mount.expect(f"process {target.pid}: let go, it was stopped for 1 s")
    mount.expect(f"process {target.pid}: the process was let go")
    with opened(mount / target.pid) as fd:
        offset = memory_offset(os.read(fd, 1 << 12))
        while errno_of(lambda: os.pread(fd, 1, offset)) == 0:
            pass  # reading does not keep it
        assert errno_of(lambda: os.pread(fd, 1, offset)) == errno.EIO
        eventually(lambda: is_free(target.pid))
    assert target.ask("ping") == {"pong": 1}


@pytest.mark.parametrize("step", [Step.SMAPS, Step.ASSEMBLING], ids=lambda step: step.name)
def test_max_stop_counts_while_the_core_is_made(
    paused: Callable[..., Mount], spawn: Callable[..., Target], step: Step
) -> None:
    pause = Pause(step)
    mount = paused(pause, options="max_stop=0.3")
    target = spawn("threads", 3)
    mount.expect(f"process {target.pid}: let go, it was stopped for 0.3 s")
    with opened(mount / target.pid) as fd:
        pause.wait()
        eventually(lambda: is_free(target.pid))
        pause.end()
        assert errno_of(lambda: os.read(fd, 1)) == errno.EIO
    mount.allow("the process was let go")
    assert target.ask("ping") == {"pong": 1}


def test_an_open_that_was_asked_for_long_ago_meets_no_tracer_of_a_later_stop(
    paused: Callable[..., Mount], spawn: Callable[..., Target]
) -> None:
    """Its file has another inode by now, and another stop."""
    pause = Pause(Step.IDENTIFIED)
    mount = paused(pause)
    target = spawn("threads", 1)
    file = mount / target.pid
    with subprocess.Popen(["head", "-c", "4", file], stdout=subprocess.PIPE) as slow:
        pause.wait()
        with opened(file) as fd:
            os.read(fd, 1)
            assert gcorefs("release", target.pid, "--mount", mount.path).returncode == 0
            eventually(lambda: is_free(target.pid))
            later = os.open(file, os.O_RDONLY)
            os.read(later, 1)
        # The first stop is forgotten, and the second one is under way.
        eventually(lambda: stops(mount, target.pid) == 1)
        assert is_held(target.pid)
        pause.end()
        out, _ = slow.communicate()
        os.close(later)
    assert (slow.returncode, out) == (0, b"\x7fELF")


@pytest.mark.parametrize("descriptors", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_a_server_may_be_started_with_standard_descriptors_closed(
    unmounted: Mount, descriptors: tuple[int, ...]
) -> None:
    def close() -> None:
        for number in descriptors:
            os.close(number)

    command = [GCOREFS, "mount", "--log-file", unmounted.log, unmounted.path]
    subprocess.run(text_of(command), check=True, timeout=30, preexec_fn=close)
    server = unmounted.server
    assert os.path.exists(unmounted / os.getpid())
    for number in (0, 1, 2):
        assert os.readlink(f"/proc/{server}/fd/{number}") == os.devnull
    assert gcorefs("umount", unmounted.path).returncode == 0
    wait_until_gone(server)


def test_an_aborted_connection_leaves_no_dead_mount(
    unmounted: Mount, spawn: Callable[..., Target], tmp_path: Path
) -> None:
    """fusectl: /sys/fs/fuse/connections/N/abort (Documentation/filesystems/fuse/fuse.rst)."""
    unmounted.make()
    server, target = unmounted.server, spawn("threads", 2)
    number = os.minor(os.stat(unmounted.path).st_dev)
    control = tmp_path / "control"
    control.mkdir()
    subprocess.run(["mount", "-t", "fusectl", "none", control], check=True)
    try:
        with opened(unmounted / target.pid) as fd:
            os.read(fd, 1)
            unmounted.expect("its connection was aborted, and the mount is taken away")
            (control / str(number) / "abort").write_text("1")
            wait_until_gone(server)
            assert not is_mounted(unmounted)
            assert is_free(target.pid)
    finally:
        subprocess.run(["umount", control], check=True)
