"""spool=: copies that are kept in a file of a directory."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import gcorefs
from gcorefs.hold.copied import HoldCopy
from gcorefs.hold.precopied import HoldPrecopy, Rounds
from gcorefs.hold.room import Disk, Room
from gcorefs.hold.spool import Spool
from gcorefs.hold.store import Store
from gcorefs.policy import Policy
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.tuning import Tuning
from tests.conftest import GCOREFS, Target
from tests.features import needs_soft_dirty
from tests.live.test_precopy import PRECOPY, assert_true
from tests.mounted.conftest import note_of
from tests.mounted.test_precopy import assert_arena
from tests.snapshot import Snapshot, find

Spawn = Callable[..., Target]

PAGE = 4096
MIB = 1 << 20
ALL = 4 << 30


def spool_in(folder: Path, disk: int = ALL, memory: int = ALL) -> Callable[[], Store]:
    return lambda: Spool(str(folder), Disk(disk, str(folder)), Room(memory))


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 20 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


@pytest.mark.parametrize("name", ["memory", "scattered", "writer"])
@pytest.mark.parametrize("is_ahead", [False, True])
def test_what_is_copied_to_a_disk_is_what_would_have_been_read(
    spawn: Spawn, tmp_path: Path, tune: Callable[[Tuning], None], name: str, is_ahead: bool
) -> None:
    tune(Tuning(copy_piece=5 * PAGE))
    words: dict[str, tuple[object, ...]] = {
        "memory": (tmp_path,),
        "scattered": (500,),
        "writer": (32,),
    }
    folder = tmp_path / "spool"
    folder.mkdir()
    target = spawn(name, *words[name])
    holder = HoldCopy(spool_in(folder))
    if is_ahead:
        holder = HoldPrecopy(spool_in(folder), Rounds(3, 60.0))
    snapshot = Snapshot(find(target.pid), policy=PRECOPY, holder=holder)
    try:
        snapshot.take()
        assert_true(snapshot)
        assert os.listdir(folder) == []
    finally:
        snapshot.close()


def test_what_the_stop_copies_goes_to_the_disk_if_memory_is_short(
    spawn: Spawn, tmp_path: Path
) -> None:
    target = spawn("writer", 32)
    holder = HoldPrecopy(spool_in(tmp_path, memory=PAGE), Rounds(1, 60.0))
    snapshot = Snapshot(find(target.pid), policy=PRECOPY, holder=holder)
    try:
        snapshot.take()
        assert_true(snapshot)
    finally:
        snapshot.close()


def assert_held(target: Target, holder: HoldCopy, why: str) -> None:
    snapshot = Snapshot(find(target.pid), policy=Policy(hold="copy"), holder=holder)
    try:
        snapshot.take()
        before = snapshot.read(0, snapshot.size)
        snapshot.copy()
        assert (snapshot.not_copied, snapshot.is_copied) == (why, False)
        assert target.state_letters() == {"t"}
        assert snapshot.read(0, snapshot.size) == before
    finally:
        snapshot.close()


def test_a_full_disk_is_a_process_that_is_held(spawn: Spawn, small: Path) -> None:
    target = spawn("writer", 32)
    room = Room(ALL)  # which does not look at the disk first
    why = f"spool {small}: {os.strerror(errno.ENOSPC)}"
    assert_held(target, HoldCopy(lambda: Spool(str(small), room, room)), why)
    assert os.statvfs(small).f_bfree == os.statvfs(small).f_blocks


def test_a_part_of_the_disk_is_left_to_others(spawn: Spawn, small: Path) -> None:
    target = spawn("writer", 19)
    holder = HoldCopy(spool_in(small))
    snapshot = Snapshot(find(target.pid), policy=Policy(hold="copy"), holder=holder)
    try:
        snapshot.take()
        snapshot.copy()
        assert snapshot.not_copied.startswith(f"the disk of {small} is short for its ")
    finally:
        snapshot.close()


def test_a_limit_is_told_by_its_name(spawn: Spawn, tmp_path: Path) -> None:
    target = spawn("writer", 32)
    holder = HoldCopy(spool_in(tmp_path, disk=MIB))
    snapshot = Snapshot(find(target.pid), policy=Policy(hold="copy"), holder=holder)
    try:
        snapshot.take()
        assert snapshot.not_copied.endswith(" MiB are over spool_limit")
    finally:
        snapshot.close()


def test_a_directory_that_is_not_there_is_a_process_that_is_held(
    spawn: Spawn, tmp_path: Path
) -> None:
    why = f"spool {tmp_path}/nowhere: {os.strerror(errno.ENOENT)}"
    assert_held(spawn("writer", 32), HoldCopy(spool_in(tmp_path / "nowhere")), why)


def test_a_disk_that_fails_later_is_an_error_of_the_read(
    spawn: Spawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Spool, offset: int, buffer: memoryview) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    target = spawn("writer", 32)
    snapshot = Snapshot(
        find(target.pid), policy=Policy(hold="copy"), holder=HoldCopy(spool_in(tmp_path))
    )
    try:
        snapshot.take()
        snapshot.copy()
        monkeypatch.setattr(Spool, "read_into", fail)
        with pytest.raises(ProcessError) as caught:
            snapshot.read(snapshot.layout.memory_offset, PAGE)
        assert (caught.value.reason, caught.value.errno) == (Reason.SPOOL, errno.EIO)
        assert snapshot.read(0, 4) == b"\x7fELF"
    finally:
        snapshot.close()


def test_the_api_takes_a_directory(spawn: Spawn, tmp_path: Path) -> None:
    target = spawn("writer", 32)
    with gcorefs.stop(target.pid, gcorefs.Policy(hold="copy", spool=str(tmp_path))) as stop:
        core = stop.core()
        assert (core.not_copied, core.facts["policy"]["held"]) == ("", "copy")
        first = core.read(0, core.size)
        assert target.ask("all") == {"did": "all"}
        assert core.read(0, core.size) == first
    with pytest.raises(ValueError, match="absolute"):
        gcorefs.Policy.of("hold=copy,spool=relative")


REFUSED = [errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP]


@pytest.mark.parametrize("refused", [0, *REFUSED], ids=lambda each: errno.errorcode.get(each, "ok"))
@pytest.mark.parametrize("name", ["writer", "scattered"])
def test_a_copy_on_the_same_disk_becomes_the_file(
    spawn: Spawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, refused: int
) -> None:
    """By copy_file_range(2), if the file system can do it, and else through memory."""
    target = spawn(name, 16 if name == "writer" else 3000)
    copied: list[int] = []
    copy = os.copy_file_range

    def copy_some(source: int, to: int, count: int, offset: int) -> int:
        if refused:
            raise OSError(refused, os.strerror(refused))
        copied.append(copy(source, to, min(count, 3 * PAGE), offset))
        return copied[-1]

    monkeypatch.setattr(os, "copy_file_range", copy_some)
    with gcorefs.stop(target.pid, gcorefs.Policy(hold="copy", spool=str(tmp_path))) as stop:
        core = stop.core()
        sink = gcorefs.open_sink(str(tmp_path / "core"), is_chosen=True)
        try:
            core.write_to(sink)
            sink.commit()
        finally:
            sink.abort()
        assert (tmp_path / "core").read_bytes() == core.read(0, core.size)
    assert bool(copied) is not bool(refused)


def test_a_dump_keeps_what_it_copies_ahead_beside_its_file(spawn: Spawn, tmp_path: Path) -> None:
    needs_soft_dirty()
    target = spawn("writer", 32)
    # In memory there is no room for so much.
    options = ["--hold", "precopy", "--copy-limit", "1", "-o", tmp_path / "core"]
    command = [GCOREFS, "dump", *options, target.pid]
    subprocess.run([str(word) for word in command], check=True, timeout=100)
    data = (tmp_path / "core").read_bytes()
    assert note_of(data)["policy"]["held"] == "precopy"
    assert_arena(data, target)
    assert os.listdir(tmp_path) == ["core"]
