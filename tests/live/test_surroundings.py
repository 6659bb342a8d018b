"""Processes in other namespaces, of other users, with other programs, short of memory."""

import contextlib
import errno
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import NoteSegment

from gcorefs.kernel.proc import task_status, tasks
from gcorefs.process.access import Opener
from gcorefs.process.errors import ProcessError, Reason
from tests.cgroups import memory_group
from tests.conftest import Target
from tests.live.accounts import Account, assert_free, await_rounds, held, report, stop_often
from tests.live.test_tracer import prstatus_notes, tid_of
from tests.snapshot import Snapshot, find

Build = Callable[[str], Path]

STOPS = 40
NOBODY = 65534
ROOT = Opener(pid=1, uid=0, gid=0, groups=(), capabilities=(1 << 41) - 1)
USER = Opener(pid=1, uid=NOBODY, gid=NOBODY, groups=(), capabilities=0)


@contextlib.contextmanager
def started(*argv: str | Path) -> Iterator[Target]:
    target = Target([*map(str, argv)])
    try:
        yield target
    finally:
        target.kill()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in which every user may run a program."""
    path = Path(tempfile.mkdtemp(prefix="gcorefs-test-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def owner_of(pid: int) -> int:
    """The directory does not depend on dumpability (fs/proc/base.c, task_dump_owner)."""
    return os.stat(f"/proc/{pid}/status").st_uid


def assert_goes_on(target: Target) -> None:
    await_rounds(target)
    account: Account = report(target)
    assert all(outcomes == {"ok"} for outcomes in account.values()), account


def mapped_names(snapshot: Snapshot) -> set[str]:
    core = ELFFile(io.BytesIO(snapshot.layout.header))
    (segment,) = core.iter_segments("PT_NOTE")
    assert isinstance(segment, NoteSegment)
    (note,) = (each for each in segment.iter_notes() if each["n_type"] == "NT_FILE")
    return {name.decode() for name in note["n_desc"]["filename"]}


def names_in_maps(pid: int) -> set[str]:
    rows = [line.split(maxsplit=5) for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    return {row[5] for row in rows if len(row) == 6 and row[5].startswith("/")}


def test_a_process_in_namespaces_of_its_own_is_numbered_as_it_numbers_itself(build: Build) -> None:
    spaces = [
        "--user",
        "--map-root-user",
        "--pid",
        "--mount",
        "--net",
        "--ipc",
        "--uts",
        "--fork",
        "--kill-child",
    ]
    with started("unshare", *spaces, build("confined")) as target:
        own_pid = target.pid
        (child,) = (
            Path(f"/proc/{target.popen.pid}/task/{target.popen.pid}/children").read_text().split()
        )
        target.pid = int(child)
        assert own_pid == 1 != target.pid
        with held(target.pid) as snapshot:
            assert {tid_of(note) for note in prstatus_notes(snapshot)} == {
                int(task_status.status(target.pid, tid)["NSpid"].split()[-1])
                for tid in tasks.tids(target.pid)
            }
            assert tid_of(prstatus_notes(snapshot)[0]) == own_pid
            assert mapped_names(snapshot) == names_in_maps(target.pid)
        stop_often(target, STOPS)
        assert_free(target.pid)
        assert_goes_on(target)


def test_a_set_uid_program_is_root_s_alone(build: Build, folder: Path) -> None:
    program = folder / "program"
    shutil.copy(build("confined"), program)
    program.chmod(0o4755)
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    with started(*user, program) as target:
        assert task_status.status(target.pid)["Uid"].split()[:2] == [str(NOBODY).encode(), b"0"]
        owner = owner_of(target.pid)
        refused(target.pid, USER)
        for _ in range(STOPS):
            with held(target.pid, opener=ROOT):
                pass
            assert owner_of(target.pid) == owner
        assert_goes_on(target)


def test_a_process_that_is_not_dumpable_is_root_s_alone_and_stays_so(
    build: Build, folder: Path
) -> None:
    program = folder / "program"
    shutil.copy(build("confined"), program)
    program.chmod(0o755)
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    with started(*user, program, "undumpable") as target:
        # Files of a process that is not dumpable belong to root (proc(5)).
        assert owner_of(target.pid) == 0
        refused(target.pid, USER)
        stop_often(target, STOPS, opener=ROOT)
        assert owner_of(target.pid) == 0
        refused(target.pid, USER)
        assert_goes_on(target)
    with started(*user, program) as target:
        assert owner_of(target.pid) == NOBODY
        stop_often(target, STOPS, opener=USER)
        assert_goes_on(target)


def refused(pid: int, opener: Opener) -> None:
    snapshot = Snapshot(find(pid), opener)
    with pytest.raises(ProcessError) as caught:
        snapshot.take()
    assert (caught.value.reason, caught.value.errno) == (Reason.DENIED, errno.EACCES)
    assert snapshot.stopped_seconds == 0


@pytest.mark.parametrize("replaced", [False, True], ids=["deleted", "replaced"])
def test_a_program_whose_file_is_gone(build: Build, tmp_path: Path, replaced: bool) -> None:
    program = tmp_path / "program"
    shutil.copy(build("confined"), program)
    with started(program) as target:
        if replaced:
            other = tmp_path / "other"
            other.write_bytes(b"not the program")
            other.rename(program)
        else:
            program.unlink()
        with held(target.pid) as snapshot:
            names = mapped_names(snapshot)
            assert f"{program} (deleted)" in names
            assert names == names_in_maps(target.pid)
        stop_often(target, STOPS)
        assert_goes_on(target)


def test_what_we_read_is_not_on_the_bill_of_a_process_short_of_memory(build: Build) -> None:
    with memory_group() as group, started(build("confined")) as target:
        group.add(target.pid)
        group.limit(max(group.usage, 1 << 20) + (256 << 10))
        for _ in range(STOPS):
            with held(target.pid) as snapshot:
                assert len(snapshot.read(0, snapshot.size)) == snapshot.size
        assert group.hits == 0
        assert_goes_on(target)
