"""A core is made when it is opened, and its times say so: programs that copy newer files copy it
again, and programs that look for a change while they read see none."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Mount, Target
from tests.mounted.conftest import eventually, is_free, opened, run, stops


def times(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns


def test_before_it_is_opened_a_file_is_of_now(mount: Mount, spawn: Callable[..., Target]) -> None:
    path = mount / spawn("threads", 1).pid
    for _ in range(2):
        before = time.time_ns()
        atime, mtime, ctime = times(path.stat())
        assert before <= mtime <= time.time_ns()
        assert atime == ctime == mtime


def test_an_open_file_is_of_its_stop(mount: Mount, spawn: Callable[..., Target]) -> None:
    path = mount / spawn("threads", 1).pid
    before = time.time_ns()
    with opened(path) as fd:
        after = time.time_ns()
        atime, mtime, ctime = times(os.fstat(fd))
        assert before <= mtime <= after
        assert atime == ctime == mtime
        with opened(path):  # this joins the stop
            assert times(os.fstat(fd)) == times(path.stat()) == (mtime, mtime, mtime)
    closed = time.time_ns()
    eventually(lambda: path.stat().st_mtime_ns >= closed)


def test_a_file_whose_process_was_let_go_keeps_its_time(
    mount_with: Callable[..., Mount], spawn: Callable[..., Target]
) -> None:
    mount = mount_with("idle_timeout=0.2")
    mount.expect("its file was not read for 0.2 s")
    target = spawn("threads", 1)
    with opened(mount / target.pid) as fd:
        before = times(os.fstat(fd))
        eventually(lambda: is_free(target.pid))
        assert times(os.fstat(fd)) == before
        # By its name it is another file, with the present time.
        assert (mount / target.pid).stat().st_mtime_ns > before[1]


def test_cp_u_copies_again(mount: Mount, spawn: Callable[..., Target], tmp_path: Path) -> None:
    target, copy = spawn("threads", 1), tmp_path / "core"
    assert_each_is_a_new_core(mount, target, copy, "cp", "-u", mount / target.pid, copy)


def test_rsync_copies_again(mount: Mount, spawn: Callable[..., Target], tmp_path: Path) -> None:
    target, copy = spawn("threads", 1), tmp_path / "core"
    assert_each_is_a_new_core(mount, target, copy, "rsync", "-a", mount / target.pid, copy)


def assert_each_is_a_new_core(mount: Mount, target: Target, copy: Path, *command: object) -> None:
    cores = []
    for _ in range(2):
        result = run(*command)
        assert (result.returncode, result.stderr) == (0, b"")
        cores.append(copy.read_bytes())
        eventually(lambda: is_free(target.pid))
    # The note of each says when it was made.
    assert cores[0] != cores[1]


def test_rsync_and_cp_u_leave_out_what_they_have_of_the_same_stop(
    mount: Mount, spawn: Callable[..., Target], tmp_path: Path
) -> None:
    target, copy = spawn("threads", 1), tmp_path / "core"
    path = mount / target.pid
    with opened(path):
        for command in (("rsync", "-a", "--itemize-changes"), ("cp", "-u", "-v")):
            copy.unlink(missing_ok=True)
            said = [run(*command, path, copy).stdout for _ in range(2)]
            assert b"core" in said[0] or str(target.pid).encode() in said[0]
            assert said[1] == b""
    eventually(lambda: stops(mount, target.pid) == 1)


def test_find_takes_it_for_newer_than_any_copy(
    mount: Mount, spawn: Callable[..., Target], tmp_path: Path
) -> None:
    path, copy = mount / spawn("threads", 1).pid, tmp_path / "core"
    assert run("cp", path, copy).returncode == 0
    found = run("find", path, "-newer", copy, "-newerat", "now - 1 hour", "-mmin", "-1")
    assert found.stdout == os.fsencode(path) + b"\n"


def test_ls_shows_the_time_of_the_stop(mount: Mount, spawn: Callable[..., Target]) -> None:
    path = mount / spawn("threads", 1).pid
    with opened(path) as fd:
        began = os.fstat(fd).st_mtime_ns
        for words in (["ls", "-lt"], ["ls", "-ltu"], ["ls", "-ltc"]):
            line = run(*words, "--time-style=+%s.%N", path).stdout.split()
            assert line[5] == b"%d.%09d" % divmod(began, 10**9)


def test_tar_sees_no_change_while_it_reads(
    mount: Mount, spawn: Callable[..., Target], tmp_path: Path
) -> None:
    # tar compares st_ctime before and after (src/create.c, dump_file0).
    path = mount / spawn("threads", 1).pid
    result = run("tar", "-c", "-f", tmp_path / "a.tar", "-C", path.parent, path.name)
    assert (result.returncode, result.stderr) == (0, b"")
