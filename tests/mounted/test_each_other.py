"""Two gcorefs that are asked to stop each other: neither stands still."""

import errno
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gcorefs.steps import Step
from tests.conftest import GCOREFS, Mount, Target, text_of
from tests.mounted.conftest import (
    Pause,
    assert_refused,
    end,
    errno_of,
    eventually,
    gcorefs,
    is_free,
    is_held,
    opened,
)

LINE = "it stops processes for gcorefs: two could wait for each other"
OPENS = 50


@pytest.fixture(params=["the same namespaces", "a container"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Mount, int]]:
    """A second mount, and the pid of its server as we number it."""
    path = tmp_path / "mnt2"
    path.mkdir()
    mount = Mount(path, tmp_path / "log2")
    if request.param == "a container":
        mount.prefix = ["unshare", "--mount", "--pid", "--fork", "--mount-proc"]
        # A pid namespace ends with its first process.
        command = [*mount.prefix, GCOREFS, "mount", "--foreground", "--log-file", mount.log, path]
        with subprocess.Popen(text_of(command)) as container:
            eventually(lambda: mount.log.exists() and "mounted at" in mount.log.read_text())
            yield mount, mount.server
            os.kill(mount.server, signal.SIGTERM)
            container.wait(timeout=20)
    else:
        mount.make()
        server = mount.server
        yield mount, server
        end(server)


def open_errno(path: Path) -> int:
    def open_and_read() -> None:
        with opened(path) as fd:
            os.pread(fd, 1, 0)

    return errno_of(open_and_read)


def test_a_mount_does_not_stop_the_server_of_another(
    mount: Mount, other: tuple[Mount, int], tmp_path: Path
) -> None:
    server = other[1]
    mount.expect(f"process {server}: {LINE}")
    assert open_errno(mount / server) == errno.EDEADLK
    assert_refused(gcorefs("dump", server, "-o", tmp_path / "core"), LINE)
    assert_refused(gcorefs("info", server), LINE)
    assert not (tmp_path / "core").exists()


def test_two_mounts_that_are_asked_to_stop_each_others_servers_stop_neither(
    mount: Mount, tmp_path: Path, spawn: Callable[..., Target]
) -> None:
    target = spawn("threads", 1)
    second = Mount(tmp_path / "mnt2", tmp_path / "log2")
    second.path.mkdir()
    second.make()
    servers = mount.server, second.server
    try:
        mount.expect(f"process {servers[1]}: {LINE}")
        paths = [mount / servers[1], second / servers[0]] * OPENS
        with ThreadPoolExecutor(len(paths)) as threads:
            assert {*threads.map(open_errno, paths)} == {errno.EDEADLK}
        for each in (mount, second):
            assert open_errno(each / target.pid) == 0
            eventually(lambda: is_free(target.pid))
    finally:
        end(servers[1])
    assert f"process {servers[0]}: {LINE}" in "\n".join(second.warnings())


def test_a_dump_that_holds_a_process_is_not_stopped(
    mount: Mount, spawn: Callable[..., Target], tmp_path: Path
) -> None:
    target = spawn("threads", 1)
    sink = tmp_path / "sink"
    os.mkfifo(sink)
    command = [str(word) for word in (GCOREFS, "dump", target.pid, "-o", sink)]
    with subprocess.Popen(command) as dump, sink.open("rb") as reader:
        eventually(lambda: is_held(target.pid))
        mount.expect(f"process {dump.pid}: {LINE}")
        assert open_errno(mount / dump.pid) == errno.EDEADLK
        assert_refused(gcorefs("info", dump.pid), LINE)
        assert reader.read()[:4] == b"\x7fELF"
        assert dump.wait(timeout=20) == 0
    eventually(lambda: is_free(target.pid))


def test_a_process_that_is_read_does_not_get_the_core_of_its_reader(
    paused: Callable[..., Mount], spawn: Callable[..., Target]
) -> None:
    """Each would stand still until the other closes its file."""
    identified = Pause(Step.IDENTIFIED)
    mount = paused(identified)
    one, other = spawn("identity"), spawn("identity")
    mount.expect(f"process {one.pid}: it reads the core of its opener: each would wait")
    other.tell(f"open {mount / one.pid}")
    identified.wait()
    assert one.ask(f"open {mount / other.pid}")["ours"] == 0
    identified.end()
    assert one.ask("read")["ours"] == 0
    assert is_held(other.pid)
    assert one.ask("close")["ours"] == 0
    assert other.line()["ours"] == errno.EDEADLK
    # When nobody waits for it, it may.
    assert other.ask(f"open {mount / one.pid}")["ours"] == 0
    assert other.ask("read")["ours"] == 0
    assert other.ask("close")["ours"] == 0


def test_a_copy_makes_no_ring(mount: Mount, spawn: Callable[..., Target]) -> None:
    one, other = spawn("identity"), spawn("identity")
    assert one.ask(f"open {mount.path / '@hold=copy' / str(other.pid)}")["ours"] == 0
    assert one.ask("read")["ours"] == 0
    assert other.ask(f"open {mount / one.pid}")["ours"] == 0
    assert other.ask("read")["ours"] == 0
    assert other.ask("close")["ours"] == 0
    assert one.ask("close")["ours"] == 0
