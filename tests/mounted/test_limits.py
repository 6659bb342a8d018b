"""A user who opens everything, or never reads, blocks no other user."""

import errno
import functools
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.kernel.proc import task_stat
from tests.cgroups import group_of_tasks
from tests.conftest import GCOREFS, Mount, Target
from tests.mounted.conftest import (
    AS_NOBODY,
    end,
    eventually,
    is_free,
    is_held,
    memory_offset,
    opened,
    run,
)

OPENERS = 500


@pytest.fixture
def nobodys(build: Callable[[str], Path], tmp_path: Path) -> Iterator[Callable[..., Target]]:
    """Start a target that belongs to nobody."""
    targets: list[Target] = []

    def start(name: str, *arguments: object) -> Target:
        program = tmp_path / name
        if not program.exists():
            shutil.copy(build(name), program)
        targets.append(Target([*AS_NOBODY, str(program), *map(str, arguments)]))
        return targets[-1]

    yield start
    for target in reversed(targets):
        eventually(functools.partial(is_free, target.pid))
        target.kill()


HOLD = """
import os, sys
for path in sys.argv[1:]:
    try:
        fd = os.open(path, os.O_RDONLY)
        os.read(fd, 1)
        print(0, flush=True)
    except OSError as error:
        print(error.errno, flush=True)
sys.stdin.read()
"""


class Nobody:
    """A process of nobody that opens and reads files one after the other, and keeps them open."""

    def __init__(self, *paths: Path) -> None:
        command = [*AS_NOBODY, "/usr/bin/python3", "-c", HOLD, *map(str, paths)]
        self._popen = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._popen.stdout is not None
        self.errnos = [int(self._popen.stdout.readline()) for _ in paths]

    def __enter__(self) -> "Nobody":
        return self

    def __exit__(self, *_: object) -> None:
        self._popen.communicate(timeout=20)


def test_a_user_has_so_many_files(
    mount_with: Callable[..., Mount], nobodys: Callable[..., Target]
) -> None:
    mount = mount_with("allow_other,user_files=3")
    target = nobodys("threads", 1)
    file = mount / target.pid
    mount.expect(f"process {target.pid}: its opener has too many open files")
    with Nobody(*[file] * 5) as nobody:
        assert nobody.errnos == [0, 0, 0, errno.EMFILE, errno.EMFILE]
        with opened(file) as fd:
            assert os.read(fd, 4) == b"\x7fELF"
    # release(2) follows close(2) a moment later.
    eventually(lambda: run(*AS_NOBODY, "head", "-c", "4", file).stdout == b"\x7fELF")


def test_a_user_has_so_many_directories(mount_with: Callable[..., Mount]) -> None:
    mount = mount_with("allow_other,user_files=3")
    mount.expect("the mount: its opener has too many open files")
    with Nobody(*[mount.path] * 5) as nobody:
        assert nobody.errnos == [errno.EISDIR] * 3 + [errno.EMFILE] * 2
        assert os.listdir(mount.path)


def test_all_users_together_have_so_many_files_and_root_gets_in(
    mount_with: Callable[..., Mount], nobodys: Callable[..., Target]
) -> None:
    mount = mount_with("allow_other,max_files=3")
    target = nobodys("threads", 1)
    file = mount / target.pid
    mount.expect(f"process {target.pid}: too many files are open")
    with Nobody(*[file] * 4) as nobody:
        assert nobody.errnos == [0, 0, 0, errno.EAGAIN]
        with opened(file) as fd:
            assert os.read(fd, 4) == b"\x7fELF"


@pytest.mark.parametrize(
    ("option", "expected", "words"),
    [
        ("user_stops=2", errno.EMFILE, "its opener holds too many processes"),
        ("max_stops=2", errno.EAGAIN, "too many processes are held"),
    ],
)
def test_a_user_holds_so_many_processes(
    mount_with: Callable[..., Mount],
    nobodys: Callable[..., Target],
    option: str,
    expected: int,
    words: str,
) -> None:
    mount = mount_with(f"allow_other,{option}")
    targets = [nobodys("threads", 1) for _ in range(3)]
    files = [mount / target.pid for target in targets]
    mount.expect(f"process {targets[2].pid}: {words}")
    with Nobody(files[0], files[1], files[2], files[0]) as nobody:
        # A second file of a held process is not another stop.
        assert nobody.errnos == [0, 0, expected, 0]
        assert is_free(targets[2].pid)
        with opened(files[2]) as fd:
            assert os.read(fd, 4) == b"\x7fELF"
    eventually(lambda: run(*AS_NOBODY, "head", "-c", "4", files[2]).stdout == b"\x7fELF")


def test_a_stop_that_is_over_counts_as_long_as_its_header_can_be_read(
    mount_with: Callable[..., Mount], nobodys: Callable[..., Target]
) -> None:
    mount = mount_with("allow_other,user_stops=1,idle_timeout=0.1")
    target, other = nobodys("threads", 1), nobodys("threads", 1)
    mount.expect("its file was not read for 0.1 s")
    mount.expect(f"process {other.pid}: its opener holds too many processes")
    with Nobody(mount / target.pid) as first:
        assert first.errnos == [0]
        eventually(lambda: is_free(target.pid))
        with Nobody(mount / other.pid) as second:
            assert second.errnos == [errno.EMFILE]


def test_a_header_that_is_too_large_for_its_user_is_refused(
    mount_with: Callable[..., Mount], nobodys: Callable[..., Target]
) -> None:
    mount = mount_with("allow_other,user_memory=4")
    small, large = nobodys("threads", 1), nobodys("mappings", 30_000)
    mount.expect(f"process {large.pid}: the headers of its opener need too much memory")
    with Nobody(mount / large.pid, mount / small.pid) as nobody:
        assert nobody.errnos == [errno.EMFILE, 0]
        eventually(lambda: is_free(large.pid))
    # Nothing of it counts any more.
    eventually(lambda: run(*AS_NOBODY, "head", "-c", "4", mount / small.pid).stdout != b"")


def test_a_header_that_was_refused_is_not_kept(
    mount_with: Callable[..., Mount],
    nobodys: Callable[..., Target],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # One heap for all threads (mallopt(3)): otherwise each thread keeps what it has used once.
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    mount = mount_with("allow_other,user_memory=4")
    server = mount.server
    targets = [nobodys("mappings", 30_000) for _ in range(25)]
    mount.expect("the headers of its opener need too much memory")
    for target in targets[:5]:  # the memory that is needed for one at a time
        with Nobody(mount / target.pid):
            pass
    before = resident(server)
    with Nobody(*(mount / target.pid for target in targets)) as nobody:
        assert set(nobody.errnos) == {errno.EMFILE}
        # If kept, they would be some 60 MiB; 20 of these were there before, for the largest one.
        assert resident(server) - before < 20 << 20


def test_stops_that_do_not_come_off_keep_no_other_user_waiting(
    mount_with: Callable[..., Mount], nobodys: Callable[..., Target], spawn: Callable[..., Target]
) -> None:
    mount = mount_with("allow_other,stop_timeout=60")
    targets = [nobodys("vforker") for _ in range(60)]
    other = spawn("threads", 1)
    with ExitStack() as stack:
        for target in targets:
            script = 'exec 3< "$0"; echo; read line'
            opener = subprocess.Popen(
                [*AS_NOBODY, "sh", "-c", script, mount / target.pid],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            stack.callback(opener.communicate)
            assert opener.stdout is not None
            assert opener.stdout.readline() == b"\n"
        with opened(mount / other.pid) as fd:
            assert os.read(fd, 4) == b"\x7fELF"
            assert is_held(other.pid)
    for target in targets:
        eventually(functools.partial(is_free, target.pid))
        assert target.ask("release") == {"released": True}


def resident(pid: int) -> int:
    """Bytes of resident memory."""
    return task_stat.stat(pid).resident * PAGE_SIZE


def test_ten_thousand_opens_from_five_hundred_processes_keep_nobody_out(
    mount_with: Callable[..., Mount], nobodys: Callable[..., Target], spawn: Callable[..., Target]
) -> None:
    mount = mount_with("allow_other,stop_timeout=1000")
    # Not ready for as long as we like: its readers wait.
    target, other = nobodys("vforker"), spawn("threads", 3)
    server = mount.server
    mount.expect(f"process {target.pid}: too many requests of its opener are waiting")
    mount.allow(" more times")
    before, descriptors = resident(server), len(os.listdir(f"/proc/{server}/fd"))
    crowd = nobodys("crowd", mount / target.pid, OPENERS, 20, 4)
    report: dict[str, Any] = {}

    def all_have_opened_and_read() -> bool:
        report.update(crowd.ask("report"))
        begun = report["reading"] + sum(report["read"].values())
        # As many wait as one user may have; the others get an error.
        settled = begun == report["readers"] > 0 and report["reading"] <= 256
        return bool(report["done"] == OPENERS and settled)

    eventually(all_have_opened_and_read, 900)
    if str(errno.EMFILE) in report["open"]:
        mount.expect(f"process {target.pid}: its opener has too many open files")
    refused = {int(number) for number in report["open"]}
    assert refused <= {errno.EMFILE, errno.EAGAIN}
    assert report["opened"] + sum(report["open"].values()) == OPENERS * 20
    assert 0 < report["opened"] <= 4096
    assert set(report["read"]) == {str(errno.EAGAIN)}
    assert report["reading"] > 0
    # All other users can come and go.
    for _ in range(20):
        assert (mount / other.pid).stat().st_size > 0
        with opened(mount / other.pid) as fd:
            header = os.read(fd, 1 << 12)
            assert len(os.pread(fd, 1, memory_offset(header))) == 1
        eventually(lambda: is_free(other.pid))
    assert str(other.pid) in os.listdir(mount.path)
    assert len(os.listdir(f"/proc/{server}/fd")) <= descriptors + 100
    assert resident(server) - before < 200 << 20
    # A process that waits for an answer cannot be killed (fs/fuse/dev.c, request_wait_answer).
    os.kill(target.truth["child_pid"], signal.SIGKILL)
    crowd.ask("end")
    eventually(lambda: is_free(target.pid))
    with opened(mount / target.pid) as fd:
        assert os.read(fd, 4) == b"\x7fELF"


def test_the_server_takes_all_descriptors_that_it_may_have(mount: Mount) -> None:
    soft, hard = resource.prlimit(mount.server, resource.RLIMIT_NOFILE)
    assert soft == hard


def test_with_few_descriptors_fewer_processes_are_held(
    unmounted: Mount, nobodys: Callable[..., Target]
) -> None:
    targets = [nobodys("threads", 1) for _ in range(3)]
    unmounted.expect("user_stops=2, max_stops=6: RLIMIT_NOFILE is 288")
    unmounted.expect(f"process {targets[2].pid}: its opener holds too many processes")
    command = ["prlimit", "--nofile=288", GCOREFS, "mount", "-o", "allow_other"]
    result = run(*command, "--log-file", unmounted.log, unmounted.path)
    assert (result.returncode, result.stderr) == (0, b"")
    with Nobody(*(unmounted / target.pid for target in targets)) as nobody:
        assert nobody.errnos == [0, 0, errno.EMFILE]
    end(unmounted.server)


def test_no_user_keeps_root_from_a_core_of_a_process(
    mount_with: Callable[..., Mount], nobodys: Callable[..., Target]
) -> None:
    mount = mount_with("allow_other")
    target = nobodys("threads", 1)
    paths = [mount.path / f"@largest={number}" / str(target.pid) for number in range(1, 66)]
    mount.expect("its stop has too many cores with different policies")
    with Nobody(*paths) as nobody:
        assert nobody.errnos == [*64 * [0], errno.EAGAIN]
        with opened(mount / target.pid) as fd:
            assert os.read(fd, 4) == b"\x7fELF"


@pytest.fixture
def few_tasks() -> Iterator[Path]:
    """A group that may have 105 tasks."""
    with group_of_tasks() as path:
        (path / "pids.max").write_text("105")
        yield path


# The command is in the group from its first byte on.
ENTER = ("sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"')


def test_with_few_tasks_fewer_processes_are_held(
    few_tasks: Path, unmounted: Mount, nobodys: Callable[..., Target], spawn: Callable[..., Target]
) -> None:
    targets = [nobodys("threads", 1) for _ in range(6)]
    roots = spawn("threads", 1)
    unmounted.expect("our control group may have 105 tasks (pids.max)")
    for each in targets[4:]:
        unmounted.expect(f"process {each.pid}: its opener holds too many processes")
    words = ("mount", "-o", "allow_other", "--log-file", unmounted.log, unmounted.path)
    result = run(*ENTER, few_tasks, GCOREFS, *words)
    assert (result.returncode, result.stderr) == (0, b"")
    with Nobody(*(unmounted / each.pid for each in targets)) as nobody:
        assert nobody.errnos == [0, 0, 0, 0, errno.EMFILE, errno.EMFILE]
        with opened(unmounted / roots.pid) as fd:
            assert os.read(fd, 4) == b"\x7fELF"
    end(unmounted.server)
