"""The service for systemd: a unit without faults, and a server that is ready when it answers."""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcorefs.kernel.proc import tasks
from gcorefs.mount.mountpoints import answers
from gcorefs.process.errors import Reason
from gcorefs.tuning import Tuning
from tests.conftest import GCOREFS, Mount, Target, text_of
from tests.mounted.conftest import (
    CUT_OFF,
    UNIT,
    end,
    errno_of,
    eventually,
    is_free,
    is_held,
    opened,
    run,
)
from tests.tuned import program


def test_the_unit_has_no_faults(tmp_path: Path) -> None:
    text = UNIT.read_text()
    assert "\nType=notify\n" in text
    program = "/usr/local/bin/gcorefs"
    assert f"\nExecStart={program} mount --foreground /mnt/gcore\n" in text
    # The verification needs the program to exist; nothing else is changed.
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace(program, str(GCOREFS)))
    result = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", copy)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


# Reports the kernel's first request (FUSE_INIT) to the socket for readiness, before it is answered.
SERVES = """
import os, socket
from gcorefs.mount.fs import GcoreFS

first = GcoreFS.init

def init(fs):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"serves", os.environ["NOTIFY_SOCKET"])
    first(fs)

GcoreFS.init = init
"""


def test_readiness_is_told_after_the_kernels_first_request(
    unmounted: Mount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = program(tmp_path, first=SERVES)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        command = [serving, "mount", "--foreground", "--log-file", unmounted.log, unmounted.path]
        with subprocess.Popen(text_of(command)) as server:
            try:
                assert listener.recv(4096) == b"serves"
                while listener.recv(4096) != b"READY=1":
                    pass
                assert str(os.getpid()) in os.listdir(unmounted.path)
            finally:
                end(server.pid)
        assert server.returncode == 0


class Supervised:
    """A server in the foreground, and its messages to its supervisor."""

    def __init__(self, folder: Path, mount: Mount, *options: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.listener.bind(str(folder / "notify"))
        environment = os.environ | {
            "NOTIFY_SOCKET": str(folder / "notify"),
            "WATCHDOG_USEC": str(PERIOD * 1_000_000),
        }
        command = [mount.program, "mount", "--foreground", "--log-file", mount.log]
        command += [*options, mount.path]
        self.server = subprocess.Popen(text_of(command), env=environment)
        self.wait_for(b"READY=1")

    def wait_for(self, word: bytes) -> None:
        self.listener.settimeout(60)
        while self.listener.recv(4096) != word:
            pass

    def watch(self) -> None:
        """Kill it when it has said nothing for a period, as systemd does (sd_notify(3))."""
        self.listener.settimeout(PERIOD)
        try:
            while self.listener.recv(4096):
                pass
        except TimeoutError:
            self.server.send_signal(signal.SIGKILL)
        assert self.server.wait(timeout=20) == -signal.SIGKILL


PERIOD = 2


@pytest.fixture
def supervised(tmp_path: Path, unmounted: Mount) -> Iterator[Callable[..., Supervised]]:
    made: list[Supervised] = []

    def start(*options: str) -> Supervised:
        made.append(Supervised(tmp_path, unmounted, *options))
        return made[-1]

    yield start
    for each in made:
        each.listener.close()
        each.server.send_signal(signal.SIGCONT)
        end(each.server.pid)
        each.server.wait()


def unit_command(key: str, mount: Mount) -> list[str]:
    """The command in the unit, with another mount point."""
    found = re.findall(rf"^{key}=-?(.*umount.*)$", UNIT.read_text(), re.MULTILINE)
    assert len(found) == 1
    return [str(mount.path) if word == "/mnt/gcore" else word for word in found[0].split()]


@pytest.mark.parametrize("call", ["epoll_wait", "nanosleep", "recv_rcvtimeo"])
def test_a_server_that_is_stopped_is_killed_and_what_it_held_never_knows(
    supervised: Callable[..., Supervised],
    unmounted: Mount,
    spawn: Callable[..., Target],
    call: str,
) -> None:
    service, target = supervised(), spawn("eintr", call)
    assert target.ask("blocked") == {"blocked": True}
    fd = os.open(unmounted / target.pid, os.O_RDONLY)
    try:
        assert os.read(fd, 4) == b"\x7fELF"
        assert is_held(target.pid)
        service.wait_for(b"WATCHDOG=1")
        service.server.send_signal(signal.SIGSTOP)
        service.watch()
        eventually(lambda: is_free(target.pid))
        assert target.ask("blocked") == {"blocked": True}
        counts = target.ask("counts")
        assert (counts["spurious"], counts["genuine"], counts["other"]) == (0, 0, 0), counts
        # The dead mount is unmounted, although a file of it is open, and a new one can be made.
        assert not answers(str(unmounted.path))
        for key in ("ExecStopPost", "ExecStartPre"):
            run(*unit_command(key, unmounted))
        assert os.listdir(unmounted.path) == []
        unmounted.make()
        assert run("head", "-c", "4", unmounted / target.pid).stdout == b"\x7fELF"
        end(unmounted.server)
    finally:
        assert errno_of(lambda: os.close(fd)) in (0, *CUT_OFF)


def test_a_server_that_can_make_no_more_stops_is_started_again(
    supervised: Callable[..., Supervised], unmounted: Mount
) -> None:
    service = supervised()
    service.wait_for(b"WATCHDOG=1")
    unmounted.expect(f"the watchdog is not told: {Reason.NO_WORKER.text}")
    (zygote,) = tasks.children(service.server.pid)
    os.kill(zygote, signal.SIGKILL)
    service.watch()


def test_a_process_that_is_held_too_long_keeps_the_watchdog_from_being_told(
    supervised: Callable[..., Supervised],
    unmounted: Mount,
    spawn: Callable[..., Target],
    tmp_path: Path,
) -> None:
    # With this a process should have been let go long before max_stop, while it is held.
    unmounted.program = program(tmp_path, Tuning(overdue=-1000.0))
    service, target = supervised("-o", "max_stop=1000"), spawn("threads", 1)
    text = f"the watchdog is not told: process {target.pid} is held past max_stop"
    unmounted.expect(text)
    with opened(unmounted / target.pid) as fd:
        assert os.read(fd, 4) == b"\x7fELF"
        eventually(lambda: unmounted.log.read_text().count(text) > 1)
        service.watch()
    eventually(lambda: is_free(target.pid))
