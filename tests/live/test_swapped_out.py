"""Memory that is swapped out while a process is held can be read."""

import ctypes
import os
import struct
import time
from collections.abc import Callable

import pytest

from gcorefs.kernel.proc import task_status
from tests.conftest import Target
from tests.live.accounts import held

SYS_PROCESS_MADVISE = 440
MADV_PAGEOUT = 21
MEBIBYTES = 4


def page_out(pid: int, start: int, size: int) -> None:
    """Ask for it until at least half of the memory is out (process_madvise(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.pidfd_open(pid)
    try:
        deadline = time.monotonic() + 200
        while swapped(pid) < size // 2:
            assert time.monotonic() < deadline
            area = struct.pack("<QQ", start, size)
            done = libc.syscall(SYS_PROCESS_MADVISE, fd, area, 1, MADV_PAGEOUT, 0)
            assert done == size, os.strerror(ctypes.get_errno())
            time.sleep(0.01)
    finally:
        os.close(fd)


def swapped(pid: int) -> int:
    """The number of bytes that are swapped out."""
    return int(task_status.status(pid)["VmSwap"].split()[0]) << 10


def written(size: int) -> bytes:
    """The content of the target's memory (targets/target.h, canary)."""
    words = (0x9E3779B97F4A7C15 * (place + 1) % (1 << 64) for place in range(0, size, 8))
    return struct.pack(f"<{size // 8}Q", *words)


@pytest.mark.usefixtures("swap")
def test_what_is_swapped_out_while_it_is_held(spawn: Callable[..., Target]) -> None:
    target = spawn("bulk", MEBIBYTES)
    start, size = int(target.truth["start"], 16), target.truth["size"]
    with held(target.pid) as snapshot:
        before = snapshot.read(0, snapshot.size)
        assert written(size) in bytes(before)
        page_out(target.pid, start, size)
        assert bytes(snapshot.read(0, snapshot.size)) == bytes(before)
        assert snapshot.unreadable == 0
    assert target.ask("gap")["gap"] > 0
