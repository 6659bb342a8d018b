"""hold=fork through the mount, the command and the Python API: whoever dies, it lives on."""

import contextlib
import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import gcorefs
from gcorefs.arch import HOST
from gcorefs.kernel.proc import task_status, tasks
from gcorefs.process.errors import Reason
from tests.conftest import Mount, Target, take_away, wait_until_asleep, wait_until_gone
from tests.live.test_fork import AS_BEFORE, children, pin, state
from tests.mounted import faultpoints as at
from tests.mounted.conftest import (
    CUT_OFF,
    errno_of,
    eventually,
    family,
    is_free,
    note_of,
    opened,
    stops,
    whole,
)
from tests.mounted.conftest import gcorefs as command
from tests.mounted.faultpoints import Point
from tests.mounted.parties import Ledger
from tests.mounted.test_faults import HeldAt
from tests.mounted.test_hold import attributes, await_copied
from tests.mounted.test_precopy import assert_arena

Spawn = Callable[..., Target]

pytestmark = pytest.mark.skipif(
    HOST.native.injected is None, reason="no call is made in a process of this machine"
)

SIZE = 16
POINTS = pytest.mark.parametrize("point", [at.FORKING, at.FORKED], ids=str)


def child_of(mount: Mount) -> int:
    """The process that a worker of the mount traces, and that is no worker of it."""
    workers = {str(tid) for pid in family(mount.server) for tid in os.listdir(f"/proc/{pid}/task")}
    (found,) = [pid for pid in tasks.pids() if tracer_of(pid) in workers]
    return found


def tracer_of(pid: int) -> str:
    try:
        return task_status.status(pid)["TracerPid"].decode()
    except OSError:
        return ""


def process_of(tid: int) -> int:
    return int(task_status.status(tid)["Tgid"])


def test_a_file_has_the_memory_of_its_stop(mount: Mount, spawn: Spawn) -> None:
    target = spawn("writer", SIZE)
    path = mount.path / "@hold=fork" / str(target.pid)
    with opened(path) as fd:
        os.read(fd, 1)
        facts = await_copied(mount, target.pid)
        assert (facts["hold"], facts["held"]) == ("fork", "fork")
        assert target.ask("all") == {"did": "all"}
        data = whole(fd)
        assert_arena(data, target)
        assert whole(fd) == data
        assert note_of(data)["policy"].items() >= {"hold": "fork", "held": "fork"}.items()
        assert attributes(path)["policy.held"] == "fork"
        child = child_of(mount)
    eventually(lambda: not tracer_of(child))
    with opened(path) as fd:
        assert_arena(whole(fd), target, target.truth["size"] // 4096)
    eventually(lambda: is_free(target.pid))


def test_two_files_of_one_process(mount: Mount, spawn: Spawn) -> None:
    """The second one comes when the first has let the process go: it is of a stop of its own."""
    target = spawn("writer", SIZE)
    with opened(mount.path / "@hold=fork" / str(target.pid)) as first:
        os.read(first, 1)
        await_copied(mount, target.pid)
        assert target.ask("all") == {"did": "all"}
        with opened(mount.path / "@hold=fork,memory=all" / str(target.pid)) as second:
            assert_arena(whole(second), target, target.truth["size"] // 4096)
        assert_arena(whole(first), target)
    eventually(lambda: is_free(target.pid))


def test_the_child_is_killed(mount: Mount, spawn: Spawn) -> None:
    target = spawn("writer", SIZE)
    mount.allow(Reason.CHILD_GONE.text)
    with opened(mount.path / "@hold=fork" / str(target.pid)) as fd:
        os.read(fd, 1)
        await_copied(mount, target.pid)
        child = child_of(mount)
        os.kill(child, signal.SIGKILL)
        eventually(lambda: not tracer_of(child))
        assert errno_of(lambda: whole(fd)) == errno.EIO
    with opened(mount / target.pid) as fd:
        assert_arena(whole(fd), target)
    assert target.ask("all") == {"did": "all"}


ROUNDS = 12


@pytest.fixture
def subreaper(spawn: Spawn, tmp_path: Path) -> Target:
    """A process that has to reap the child: it is stopped once more for that."""
    target = spawn("forked", "subreaper", tmp_path / "lock")
    pin(target.pid)
    return target


def take_forked(mount: Mount, target: Target, words: str = "@hold=fork") -> None:
    eventually(lambda: state(target.pid) == "S")
    with opened(mount.path / words / str(target.pid)) as fd:
        os.read(fd, 1)
        assert await_copied(mount, target.pid)["held"] == "fork"


def test_a_process_reaps_its_child_before_its_next_stop(mount: Mount, subreaper: Target) -> None:
    """Its worker ends after that, and not while the process has registers that are not its own."""
    for _ in range(ROUNDS):
        take_forked(mount, subreaper)
        with opened(mount / subreaper.pid) as fd:  # waits for the end of the other stop
            assert whole(fd)
    eventually(lambda: children(subreaper.pid) == [])
    assert subreaper.ask("look") == AS_BEFORE


def test_a_process_with_two_cores_reaps_the_child_of_one(mount: Mount, subreaper: Target) -> None:
    """Each core asks for a child, and the stop has one for the first."""
    paths = [
        mount.path / words / str(subreaper.pid) for words in ("@hold=fork", "@hold=fork,memory=all")
    ]
    for _ in range(ROUNDS):
        eventually(lambda: state(subreaper.pid) == "S")
        with opened(paths[0]) as one, opened(paths[1]) as other:
            assert os.read(one, 4) == os.read(other, 4) == b"\x7fELF"
        with opened(mount / subreaper.pid) as fd:
            assert whole(fd)
    eventually(lambda: children(subreaper.pid) == [])
    assert subreaper.ask("look") == AS_BEFORE


def test_a_process_reaps_its_child_when_another_stop_has_ended(
    mount: Mount, subreaper: Target
) -> None:
    eventually(lambda: state(subreaper.pid) == "S")
    with opened(mount.path / "@hold=fork" / str(subreaper.pid)) as forked:
        os.read(forked, 1)
        await_copied(mount, subreaper.pid)
        fd = os.open(mount / subreaper.pid, os.O_RDONLY)
        os.read(fd, 1)
    try:
        (child,) = children(subreaper.pid)
        eventually(lambda: state(child) == "Z")  # its memory is free
        with opened(mount / subreaper.pid) as joining:  # the child keeps nobody out
            assert whole(joining) == whole(fd)
    finally:
        os.close(fd)
    eventually(lambda: children(subreaper.pid) == [])
    assert subreaper.ask("look") == AS_BEFORE


def test_a_core_without_a_child_ends_no_other_s(mount: Mount, spawn: Spawn) -> None:
    """Its worker is at another stop by the time at which its file is closed."""
    words = mount.path / "@hold=fork,stop=gentle"  # nobody is forked who does not stand still
    others = [spawn("threads", 1) for _ in range(4)]
    target = spawn("writer", SIZE)
    with contextlib.ExitStack() as held:
        closed = []
        for each in others:
            wait_until_asleep(each.pid)
            closed.append(os.open(words / str(each.pid), os.O_RDONLY))
            os.read(closed[-1], 1)
            assert await_copied(mount, each.pid)["held"] == "copy"
        fd = held.enter_context(opened(mount.path / "@hold=fork" / str(target.pid)))
        os.read(fd, 1)
        assert await_copied(mount, target.pid)["held"] == "fork"
        for each_fd in closed:
            os.close(each_fd)
        eventually(lambda: all(stops(mount, each.pid) for each in others))
        for each in others:  # the event loop has told the workers by then
            os.stat(mount / each.pid)
        for _ in range(20):
            assert_arena(whole(fd), target)


def test_two_stops_of_a_process_reap_the_child_of_each(mount: Mount, subreaper: Target) -> None:
    """Each waits for the other: the first one for the end of the second, which has a child too."""
    forked = mount.path / "@hold=fork" / str(subreaper.pid)
    eventually(lambda: state(subreaper.pid) == "S")
    first = os.open(forked, os.O_RDONLY)
    os.read(first, 1)
    await_copied(mount, subreaper.pid)
    with contextlib.ExitStack() as second:
        fds = [
            second.enter_context(opened(mount.path / words / str(subreaper.pid)))
            for words in ("@hold=fork,memory=all", "@memory=all")
        ]
        for fd in fds:
            os.read(fd, 1)
        assert len(children(subreaper.pid)) == 2
        os.close(first)
    eventually(lambda: children(subreaper.pid) == [])
    with opened(mount / subreaper.pid) as fd:
        assert whole(fd)
    assert subreaper.ask("look") == AS_BEFORE


def test_a_process_reaps_a_child_that_was_killed(mount: Mount, subreaper: Target) -> None:
    """As the kernel kills it if memory is short."""
    mount.allow(Reason.CHILD_GONE.text)
    eventually(lambda: state(subreaper.pid) == "S")
    with opened(mount.path / "@hold=fork" / str(subreaper.pid)) as fd:
        os.read(fd, 1)
        await_copied(mount, subreaper.pid)
        (child,) = children(subreaper.pid)
        os.kill(child, signal.SIGKILL)
        eventually(lambda: state(child) == "Z")
        assert errno_of(lambda: whole(fd)) == errno.EIO
    eventually(lambda: children(subreaper.pid) == [])
    assert subreaper.ask("look") == AS_BEFORE


def test_a_process_reaps_its_child_when_the_mount_ends(unmounted: Mount, subreaper: Target) -> None:
    unmounted.make()
    eventually(lambda: state(subreaper.pid) == "S")
    with opened(unmounted.path / "@hold=fork" / str(subreaper.pid)) as fd:
        os.read(fd, 1)
        await_copied(unmounted, subreaper.pid)
        server = unmounted.server
        os.kill(server, signal.SIGTERM)
        wait_until_gone(server)
    eventually(lambda: children(subreaper.pid) == [])
    assert subreaper.ask("look") == AS_BEFORE


def test_a_dump_has_the_process_reap_its_child(subreaper: Target, tmp_path: Path) -> None:
    for number in range(ROUNDS):
        eventually(lambda: state(subreaper.pid) == "S")
        path = str(tmp_path / f"core{number}")
        command("dump", "--hold", "fork", "-o", path, str(subreaper.pid))
        assert children(subreaper.pid) == []
    assert subreaper.ask("look") == AS_BEFORE


@pytest.mark.parametrize("victim", ["server", "worker"])
def test_who_keeps_the_child_is_killed(unmounted: Mount, spawn: Spawn, victim: str) -> None:
    unmounted.make()
    target = spawn("writer", SIZE)
    with opened(unmounted.path / "@hold=fork" / str(target.pid)) as fd:
        os.read(fd, 1)
        await_copied(unmounted, target.pid)
        child, server = child_of(unmounted), unmounted.server
        unmounted.allow("its worker was killed")
        unmounted.allow(Reason.CHILD_GONE.text)
        tracer = int(tracer_of(child))
        os.kill(server if victim == "server" else process_of(tracer), signal.SIGKILL)
        eventually(lambda: not tracer_of(child))
        assert errno_of(lambda: whole(fd)) in (errno.EIO, *CUT_OFF)
    assert target.ask("all") == {"did": "all"}
    assert is_free(target.pid)
    if victim == "server":
        wait_until_gone(server)
        take_away(unmounted)


@POINTS
def test_the_server_or_a_worker_is_killed_meanwhile(
    point: Point, ledger: Callable[[], Ledger], held_at: HeldAt, unmounted: Mount
) -> None:
    for is_server in (False, True):
        unmounted.make("hold=fork")
        unmounted.allow("its worker was killed")
        each = ledger()
        with held_at(point, each.pid) as hold, opened(unmounted / each.pid) as fd:
            os.set_blocking(fd, False)
            hold.wait()
            server = unmounted.server
            (worker,) = {
                process_of(int(tracer))
                for tid in tasks.tids(each.pid)
                if (tracer := task_status.status(each.pid, tid)["TracerPid"]) != b"0"
            }
            os.kill(server if is_server else worker, signal.SIGKILL)
            hold.go_on()
            wait_until_gone(server if is_server else worker)
            os.set_blocking(fd, True)
            assert errno_of(lambda: whole(fd)) in (errno.EIO, *CUT_OFF)
        each.assert_unhurt()
        take_away(unmounted)


@POINTS
def test_the_process_is_killed_meanwhile(
    point: Point, ledger: Callable[[], Ledger], held_at: HeldAt, unmounted: Mount
) -> None:
    unmounted.make("hold=fork")
    unmounted.allow(Reason.DIED.text)
    each = ledger()
    with held_at(point, each.pid) as hold, opened(unmounted / each.pid) as fd:
        hold.wait()
        os.kill(each.pid, signal.SIGKILL)
        hold.go_on()
        assert errno_of(lambda: os.read(fd, 1)) == errno.EIO
        each.hear(signal.SIGKILL)
    os.stat(unmounted / os.getpid())


@POINTS
def test_signals_come_meanwhile(
    point: Point, ledger: Callable[[], Ledger], held_at: HeldAt, unmounted: Mount
) -> None:
    unmounted.make("hold=fork")
    each = ledger()
    with held_at(point, each.pid) as hold, opened(unmounted / each.pid) as fd:
        hold.wait()
        each.signal(3)
        hold.go_on()
        assert os.read(fd, 4) == b"\x7fELF"
    each.assert_unhurt()


def test_a_dump_has_the_memory_of_its_stop(spawn: Spawn, tmp_path: Path) -> None:
    target = spawn("writer", SIZE)
    path = tmp_path / "core"
    result = command("dump", "--hold", "fork", "-o", path, target.pid)
    assert (result.returncode, result.stderr) == (0, b"")
    assert_arena(path.read_bytes(), target)
    with gcorefs.stop(target.pid, gcorefs.Policy(hold="fork")) as stop:
        core = stop.core()
        assert target.ask("all") == {"did": "all"}
        assert_arena(core.read(0, core.size), target)
    assert is_free(target.pid)


def test_nobody_is_forked_who_may_not_be_traced(
    mount_with: Callable[..., Mount], spawn: Spawn
) -> None:
    target = spawn("writer", SIZE)
    mount = mount_with("allow_other")
    mount.allow(Reason.DENIED.text)
    path = mount.path / "@hold=fork" / str(target.pid)
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        os._exit(errno_of(lambda: os.close(os.open(path, os.O_RDONLY))))
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == errno.EACCES
    assert is_free(target.pid)
