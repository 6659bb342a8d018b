"""Changes between look-up, open, stop and first read are noticed: the bytes are those of the
process that was asked for, and nobody gets them who may not have them now."""

import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Thread

import pytest

from gcorefs.kernel.proc import procfile, task_status
from gcorefs.steps import Step
from tests.conftest import Mount, Target
from tests.mounted.conftest import Pause, errno_of, eventually, is_free, opened, replace
from tests.mounted.test_listing import switches
from tests.mounted.test_status import release_errno, status

USER = 4001
AS_USER = ("groups=", f"gid={USER},{USER},{USER}", f"uid={USER},{USER},{USER}", "dumpable=1")


@pytest.fixture
def set_uid(build: Callable[[str], Path], tmp_path: Path) -> Path:
    """A program that runs as root, whoever starts it."""
    path = tmp_path / "set_uid"
    shutil.copy(build("identity"), path)
    os.chmod(path, 0o4755)
    return path


@pytest.fixture
def stop() -> Pause:
    """All checks are done, and nothing is stopped yet."""
    return Pause(Step.STARTING)


def become_set_uid(target: Target, program: Path) -> None:
    target.tell(f"exec {program}")
    assert target.line() == {"pid": target.pid}
    assert task_status.status(target.pid)["Uid"].split() == [b"4001", b"0", b"0", b"0"]


def test_a_set_uid_program_that_begins_before_the_stop_is_not_shown(
    paused: Callable[..., Mount], stop: Pause, spawn: Callable[..., Target], set_uid: Path
) -> None:
    mount = paused(stop)
    target, opener = spawn("identity", *AS_USER), spawn("identity", *AS_USER)
    mount.expect(f"process {target.pid}: the kernel does not allow the opener to trace it")
    assert opener.ask(f"open {mount / target.pid}")["ours"] == 0
    stop.wait()
    become_set_uid(target, set_uid)
    stop.end()
    assert opener.ask("read")["ours"] == errno.EACCES
    assert opener.ask("splice")["ours"] == errno.EACCES
    eventually(lambda: is_free(target.pid))  # while the file is still open


def test_an_opener_who_joined_before_it_began_gets_nothing_either(
    paused: Callable[..., Mount], stop: Pause, spawn: Callable[..., Target], set_uid: Path
) -> None:
    mount = paused(stop)
    target, joiner = spawn("identity", *AS_USER), spawn("identity", *AS_USER)
    mount.expect(f"process {target.pid}: the kernel does not allow the opener to trace it")
    with opened(mount / target.pid) as fd:
        stop.wait()
        assert joiner.ask(f"open {mount / target.pid}")["ours"] == 0
        become_set_uid(target, set_uid)
        stop.end()
        # Not even the user who may: their reads would fill the page cache for the other.
        assert errno_of(lambda: os.pread(fd, 4, 0)) == errno.EACCES
        eventually(lambda: is_free(target.pid))
        assert joiner.ask("splice")["ours"] == errno.EACCES
        assert joiner.ask("read")["ours"] == errno.EACCES
        with opened(mount / target.pid) as again:
            assert os.pread(again, 4, 0) == b"\x7fELF"
            assert joiner.ask("splice")["ours"] == errno.EACCES


def test_a_user_who_looked_it_up_before_it_began_gets_nothing_either(
    paused: Callable[..., Mount], spawn: Callable[..., Target], set_uid: Path
) -> None:
    stop = Pause(Step.STARTING, nth=2)
    mount = paused(stop)
    target, joiner = spawn("identity", *AS_USER), spawn("identity", *AS_USER)
    mount.expect(f"process {target.pid}: the kernel does not allow the opener to trace it")
    path = mount.path / ".gcorefs" / "exact" / str(target.pid)
    # The kernel sends two look-ups at a time only if it knows the name (fs/dcache.c,
    # d_alloc_parallel).
    with opened(path) as fd:
        os.read(fd, 1)
    eventually(lambda: is_free(target.pid) and not status(mount))
    found: list[int] = []
    look = Thread(target=lambda: found.append(errno_of(path.stat)))
    look.start()
    stop.wait()
    joiner.tell(f"open {path}")
    eventually(lambda: joiner.pid in [each["pid"] for each in status(mount)[0]["openers"]])
    become_set_uid(target, set_uid)
    stop.end()
    look.join()
    assert joiner.line()["ours"] == errno.EACCES
    # The stop ended for both, and the kernel asked again for each (fs/fuse/dir.c,
    # fuse_dentry_revalidate): one line for the stop, and one for each request.
    assert found == [0]
    assert mount.log.read_text().count("does not allow the opener to trace it") >= 3
    (waiting,) = status(mount)
    assert [each["uid"] for each in waiting["openers"]] == [0]
    assert release_errno(mount, b"%d" % target.pid) == 0


def test_an_opener_judged_before_it_began_and_joining_after(
    paused: Callable[..., Mount], stop: Pause, spawn: Callable[..., Target], set_uid: Path
) -> None:
    judged = Pause(Step.JOINER_JUDGED)
    mount = paused(stop, judged)
    target, joiner = spawn("identity", *AS_USER), spawn("identity", *AS_USER)
    mount.expect(f"process {target.pid}: the kernel does not allow the opener to trace it")
    with opened(mount / target.pid) as fd:
        stop.wait()
        joiner.tell(f"open {mount / target.pid}")
        judged.wait()
        become_set_uid(target, set_uid)
        stop.end()
        assert os.pread(fd, 4, 0) == b"\x7fELF"
        judged.end()
        assert joiner.line()["ours"] == errno.EACCES


@pytest.fixture
def later() -> Iterator[Callable[[Target], int]]:
    """A process in the place of a target, asleep and left alone."""
    pids = []

    def start(target: Target) -> int:
        pids.append(replace(target))
        # Before that, it may wait for a page of its program.
        eventually(lambda: procfile.read(f"{target.pid}/wchan") == b"hrtimer_nanosleep")
        return target.pid

    yield start
    for pid in pids:
        eventually(partial(is_free, pid))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_name_looked_up_is_never_a_later_process_of_that_pid(
    mount: Mount, spawn: Callable[..., Target], later: Callable[[Target], int]
) -> None:
    target = spawn("threads", 1)
    with opened(mount / target.pid, os.O_PATH) as name:
        before = switches(later(target))
        assert errno_of(lambda: os.open(f"/proc/self/fd/{name}", os.O_RDONLY)) == errno.ESRCH
    assert switches(target.pid) == before


@pytest.mark.parametrize(
    "place",
    [
        (Step.IDENTIFY,),  # its attributes are known
        (Step.CHECK, 2),  # it has been let in
        (Step.STARTING,),  # it is about to be stopped
    ],
)
def test_nor_does_a_later_process_take_its_place_while_it_is_opened(
    paused: Callable[..., Mount],
    spawn: Callable[..., Target],
    later: Callable[[Target], int],
    place: tuple[Step, int],
) -> None:
    pause = Pause(*place)
    mount = paused(pause)
    target, opener = spawn("threads", 1), spawn("identity")
    mount.expect(f"process {target.pid}: there is no such process")
    opener.tell(f"open {mount / target.pid}")
    pause.wait()
    before = switches(later(target))
    pause.end()
    answer = opener.line()["ours"] or opener.ask("read")["ours"]
    assert answer == errno.ESRCH
    assert switches(target.pid) == before
