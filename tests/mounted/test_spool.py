"""spool= through the mount: a copy on a disk is read like any other file, by all its readers."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from gcorefs.elfcore.elf import page_up
from tests.conftest import Mount, Target
from tests.mounted.conftest import opened, run, whole
from tests.mounted.test_hold import await_copied
from tests.mounted.test_precopy import assert_arena

PAGE = 4096
MANY = 16 * PAGE
SIZE = 16
READERS = 4
ROUNDS = 5
SCATTERED = 20_000

Spooling = Callable[[str], Mount]


@pytest.fixture
def spooling(mount_with: Callable[..., Mount], tmp_path: Path) -> Spooling:
    folder = tmp_path / "spool"
    folder.mkdir()
    return lambda hold: mount_with(f"hold={hold},spool={folder}")


@pytest.mark.parametrize("hold", ["copy", "precopy"])
def test_each_page_of_a_copy_on_a_disk_can_be_read_alone(
    spooling: Spooling, spawn: Callable[..., Target], hold: str
) -> None:
    mount = spooling(hold)
    target = spawn("writer", SIZE)
    with opened(mount / target.pid) as fd:
        os.read(fd, 1)
        await_copied(mount, target.pid)
        assert target.ask("all") == {"did": "all"}
        # One page at a time, from the last on: nothing is read ahead.
        first = page_up(os.fstat(fd).st_size) // PAGE - 1
        pages = [os.pread(fd, PAGE, number * PAGE) for number in range(first, -1, -1)]
        data = b"".join(reversed(pages))
        assert_arena(data, target)
        assert whole(fd) == data


@pytest.mark.parametrize("hold", ["copy", "precopy"])
def test_cp_has_all_of_a_copy_on_a_disk(
    spooling: Spooling, spawn: Callable[..., Target], tmp_path: Path, hold: str
) -> None:
    mount = spooling(hold)
    target = spawn("writer", SIZE)
    output = tmp_path / "core"
    assert run("cp", mount / target.pid, output).returncode == 0
    assert_arena(output.read_bytes(), target)


def test_the_first_readers_of_a_copy_on_a_disk_may_come_together(
    spooling: Spooling, spawn: Callable[..., Target]
) -> None:
    """The part that the stop has copied is in many pieces, and is put in order once."""
    mount = spooling("precopy")
    target = spawn("scattered", SCATTERED)
    for _ in range(ROUNDS):
        assert_alike_for_all(mount, target.pid)


def assert_alike_for_all(mount: Mount, pid: int) -> None:
    """Readers that come at the same time have the bytes of one that comes later."""
    start = Barrier(READERS)

    def read(place: int) -> bytes:
        with opened(mount / pid) as fd:
            start.wait()
            return os.pread(fd, MANY, place)

    with opened(mount / pid) as fd, ThreadPoolExecutor(READERS) as readers:
        os.read(fd, 1)
        size = os.fstat(fd).st_size
        await_copied(mount, pid)
        places = [size * number // READERS for number in range(READERS)]
        found = [*readers.map(read, places)]
        data = whole(fd)
    assert found == [data[place : place + MANY] for place in places]
