"""execve(2) by one of several threads discards the interrupt of the thread that calls it
(fs/exec.c, de_thread; kernel/signal.c, zap_other_threads)."""

import contextlib
import ctypes
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from gcorefs.elfcore.provenance import How
from gcorefs.steps import Step
from gcorefs.tuning import Tuning
from tests.conftest import Target
from tests.live.accounts import assert_free, held

# include/uapi/linux/fanotify.h
FAN_CLOEXEC, FAN_CLASS_CONTENT, FAN_MARK_ADD, FAN_ALLOW = 1, 4, 1, 1
FAN_OPEN_EXEC_PERM = 0x40000
AT_FDCWD = -100


class Listener:
    """Who is asked before a program is executed (fanotify(7), FAN_OPEN_EXEC_PERM)."""

    def __init__(self, queue: int) -> None:
        self.fd = -1
        """Of the open file in question."""
        self._queue = queue

    def wait(self) -> None:
        event = os.read(self._queue, 4096)
        self.fd = struct.unpack_from("=IBBHQii", event)[5]

    def allow(self) -> None:
        if self.fd >= 0:
            os.write(self._queue, struct.pack("=iI", self.fd, FAN_ALLOW))
            os.close(self.fd)
            self.fd = 1 << 30  # it is not asked again


@contextlib.contextmanager
def execs_of(program: str) -> Iterator[Listener]:
    libc = ctypes.CDLL(None, use_errno=True)
    queue = libc.fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC, os.O_RDONLY | os.O_CLOEXEC)
    assert queue >= 0, os.strerror(ctypes.get_errno())
    try:
        mask = ctypes.c_uint64(FAN_OPEN_EXEC_PERM)
        done = libc.fanotify_mark(queue, FAN_MARK_ADD, mask, AT_FDCWD, program.encode())
        assert done == 0, os.strerror(ctypes.get_errno())
        yield Listener(queue)
    finally:
        os.close(queue)  # allows what was not answered


def test_an_execve_discards_the_interrupt_of_the_leader(
    build: Callable[[str], Path], tmp_path: Path, tune: Callable[[Tuning], None]
) -> None:
    """The leader is interrupted in execve(2), where the open of the program waits for a listener.
    The execve goes on then, and the new program sleeps."""
    program = str(shutil.copy(build("churn"), tmp_path))
    target = Target([program, "again"])
    with contextlib.ExitStack() as stack:
        stack.callback(target.kill)
        listener = stack.enter_context(execs_of(program))

        def reach(step: Step, pid: int) -> None:
            if pid == target.pid and step is Step.SEIZED_ALL and listener.fd < 0:
                target.tell("exec")
                listener.wait()
            elif pid == target.pid and step is Step.INTERRUPTED_ALL:
                listener.allow()

        tune(Tuning(reach=reach))
        with held(target.pid) as snapshot:
            assert target.states() == {target.pid: ("t", os.getpid())}
            (record,) = snapshot.records
            assert record.how is How.STOPPED
        assert_free(target.pid)
