"""Reads that nobody waits for in a system call: aio(7).

The kernel sends them, what it reads ahead itself, and every FUSE_RELEASE as background requests, of
which only so many may be under way in one mount (fs/fuse/dev.c, flush_bg_queue).
"""

import ctypes
import os
import platform
import signal
import struct
from collections.abc import Callable
from functools import partial

import pytest

from gcorefs.tuning import Tuning
from tests.conftest import Mount, Target
from tests.mounted.conftest import eventually, is_free, is_held, opened, sleeping_in
from tests.mounted.test_stuck_reads import in_a_child, segment
from tests.tuned import program

PAGE = os.sysconf("SC_PAGE_SIZE")
READS = 200
"""Fewer than a user may have under way in the mount."""

IO_SETUP, IO_SUBMIT, IO_GETEVENTS = {
    "x86_64": (206, 209, 208),
    "aarch64": (0, 2, 4),
}[platform.machine()]
IOCB = struct.Struct("<QII HhI QQqQ II")  # include/uapi/linux/aio_abi.h
EVENT = 32  # bytes of a struct io_event
_libc = ctypes.CDLL(None, use_errno=True)


def call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def read_at_once(fd: int, offset: int) -> None:
    """Begin many reads of one page, and wait for all of them."""
    context = ctypes.c_ulong(0)
    call(IO_SETUP, READS, ctypes.byref(context))
    buffer = ctypes.create_string_buffer(PAGE)
    block = IOCB.pack(0, 0, 0, 0, 0, fd, ctypes.addressof(buffer), PAGE, offset, 0, 0, 0)
    blocks = [ctypes.create_string_buffer(block) for _ in range(READS)]
    pointers = (ctypes.c_void_p * READS)(*map(ctypes.addressof, blocks))
    assert call(IO_SUBMIT, context, ctypes.c_long(READS), pointers) == READS
    events = ctypes.create_string_buffer(EVENT * READS)
    assert call(IO_GETEVENTS, context, ctypes.c_long(READS), ctypes.c_long(READS), events, 0)


@pytest.fixture
def patient(unmounted: Mount) -> Mount:
    """A mount in which a read may wait for ever."""
    folder = unmounted.path.parent / "program"
    folder.mkdir()
    unmounted.program = program(folder, Tuning(read_timeout=1e6))
    unmounted.make()
    return unmounted


def test_reads_that_wait_keep_nobody_from_closing(
    spawn: Callable[..., Target], patient: Mount
) -> None:
    target, other = spawn("uffd"), spawn("threads", 1)
    patient.allow(f"process {target.pid}: the process died")  # at the end, for each read
    with opened(patient / target.pid) as fd:
        offset, _ = segment(fd, int(target.truth["start"], 16))
        reader = in_a_child(lambda: read_at_once(fd, offset + PAGE))
        try:
            # It waits for the reads, or for room for more.
            eventually(lambda: bool(sleeping_in(reader) & {"read_events", "fuse_get_req"}))
            with opened(patient / other.pid) as other_fd:
                assert os.read(other_fd, 4) == b"\x7fELF"
                assert is_held(other.pid)
            eventually(partial(is_free, other.pid), 20)
            assert is_held(target.pid)
        finally:
            target.kill()  # the page never comes
            os.kill(reader, signal.SIGKILL)
            os.waitpid(reader, 0)
