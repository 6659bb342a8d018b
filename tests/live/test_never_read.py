"""Files whose missing pages a read would make for good: those of a ramfs, and arenas of BPF."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gcorefs.arch import HOST
from gcorefs.process.pagemap import Pagemap
from gcorefs.sources.procfs import ProcMappings
from tests.conftest import Target
from tests.live.accounts import held
from tests.mounted.conftest import PAGE

Spawn = Callable[..., Target]

PAGES = 4096
WRITTEN = 0, 77


@pytest.fixture
def ramfs(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "ramfs"
    folder.mkdir()
    subprocess.run(["mount", "-t", "ramfs", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def populated(pid: int, start: int) -> list[int]:
    pages = Pagemap(pid).populated(start, PAGES * PAGE)
    return [number for number, is_there in enumerate(pages) if is_there]


def assert_only_what_is_there_is_read(pid: int, start: int, **policy: Any) -> None:
    before = populated(pid, start)
    assert set(WRITTEN) <= set(before)
    assert len(before) < PAGES // 2
    expected = bytearray(PAGES * PAGE)
    for number in WRITTEN:
        at = number * PAGE
        expected[at : at + 8] = (start + at).to_bytes(8, "little")
    with held(pid, **policy) as snapshot:
        assert bytes(expected) in snapshot.read(0, snapshot.size)
        assert snapshot.core.unreadable >= PAGES - len(before)
        memory = snapshot.stop.memory
        assert memory.read_bytes(start, PAGES * PAGE) == expected
        for offset in (5, 76 * PAGE + 4091, 77 * PAGE + 3):
            assert memory.read_bytes(start + offset, PAGE) == expected[offset : offset + PAGE]
    assert populated(pid, start) == before


@pytest.mark.parametrize(
    ("is_deleted", "policy"),
    [(False, {"memory": "all"}), (True, {"memory": "all"}), (True, {})],
    ids=["by name", "deleted", "deleted, by the filter"],
)
@pytest.mark.parametrize("is_hidden", [False, True], ids=["mounted", "unmounted"])
def test_a_sparse_file_of_a_ramfs(
    spawn: Spawn, ramfs: Path, is_deleted: bool, policy: dict[str, str], is_hidden: bool
) -> None:
    path = ramfs / "sparse"
    path.touch()
    os.truncate(path, PAGES * PAGE)
    target = spawn("mapper")
    start = int(target.ask(f"map {path} {PAGES * PAGE} 1")["start"], 16)
    for number in WRITTEN:
        target.ask(f"poke {start + number * PAGE:x}")
    if is_deleted:
        path.unlink()
    if is_hidden:
        subprocess.run(["umount", "--lazy", ramfs], check=True)
    try:
        assert_only_what_is_there_is_read(target.pid, start, **policy)
    finally:
        if is_hidden:  # for the fixture
            subprocess.run(["mount", "-t", "ramfs", "none", ramfs], check=True)


def test_an_arena(spawn: Spawn) -> None:
    target = spawn("arena", PAGES)
    if "errno" in target.truth:
        assert target.truth["errno"] in (errno.EINVAL, errno.ENOTSUP, errno.E2BIG)
        pytest.skip("the kernel has no arenas of BPF")
    assert_only_what_is_there_is_read(target.pid, int(target.truth["start"], 16), memory="all")


RING = """
import ctypes, os, sys
context = ctypes.c_ulong()
assert ctypes.CDLL(None).syscall(int(sys.argv[1]), 1000, ctypes.byref(context)) == 0
print('{"pid": %d, "ring": %d}' % (os.getpid(), context.value), flush=True)
sys.stdin.read()
"""


def test_a_ring_of_io_setup_is_read() -> None:
    """Its file is sparse for stat(2), and on a mount that nobody sees; the kernel writes to it."""
    target = Target([sys.executable, "-c", RING, str(HOST.call("io_setup"))])
    try:
        ring = int(target.truth["ring"])
        (vma,) = (each for each in ProcMappings(target.pid).mappings() if each.start == ring)
        with held(target.pid) as snapshot:
            memory = snapshot.stop.memory
            assert vma.size >= 1000 * 32
            data = memory.read_bytes(ring, vma.size)
            assert int.from_bytes(data[16:20], "little") == 0xA10A10A1  # fs/aio.c, AIO_RING_MAGIC
            assert ring not in memory.unreadable_pages
            assert ring + vma.size - PAGE not in memory.unreadable_pages
    finally:
        target.kill()
