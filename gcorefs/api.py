"""The Python interface: stop a process, take cores of it, let it go.

    with gcorefs.stop(pid, gcorefs.Policy(memory="kernel")) as stop:
        core = stop.core()
        magic = core.read(0, 4)
        sink = gcorefs.open_sink("core", is_chosen=True)
        core.write_to(sink)
    sink.commit()

Everything blocks.  What may hang (a page that never comes, a file of /proc that never answers) is
asked in a thread of its own and under a bound, so that a signal always gets through and the process
is always let go.  From the first stop on, the calling process counts as one that stops others: no
gcorefs stops it (mark.py).
"""

import concurrent.futures
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from gcorefs import core as cores
from gcorefs.core import READ_TIMEOUT
from gcorefs.export.sink import Sink, SinkError, open_sink
from gcorefs.holder import HoldCopy, Holder, HoldProcess
from gcorefs.policy import DEFAULT, Policy
from gcorefs.process.admission import find
from gcorefs.process.copy import Room
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.later import Worker
from gcorefs.process.mark import mark
from gcorefs.stopped import CLOSE_TIMEOUT, TAKE_TIMEOUT
from gcorefs.stopped import Stop as StoppedProcess

__all__ = [
    "Core",
    "Policy",
    "ProcessError",
    "Reason",
    "Sink",
    "SinkError",
    "Stop",
    "open_sink",
    "stop",
]

T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Takes how many bytes are written, and of how many."""

_CHUNK = 512 << 10


def stop(pid: int, policy: Policy = DEFAULT) -> "Stop":
    """A process that stands still in the block of a `with` statement, whatever ends the block.

    ProcessError: ESRCH, EINVAL, EACCES where there is no such process to stop; in the `with`
    statement itself whatever else speaks against it (errors.Reason).
    """
    return Stop(pid, policy)


class Stop:
    """One process, stopped from the beginning of a `with` block to its end."""

    def __init__(self, pid: int, policy: Policy = DEFAULT) -> None:
        """ESRCH, EINVAL, EACCES."""
        self.pid = pid
        self._policy = policy
        self._stop = StoppedProcess(find(pid), policy=policy)
        # Made ready before the stop: that may take long.
        self._holder: Holder | None = _holder(policy)
        self._worker = Worker()

    def __enter__(self) -> "Stop":
        mark()
        assert self._holder is not None
        try:
            taking = self._worker.submit(self._stop.take, self._holder.prepare)
            timeout = self._policy.stop_timeout + TAKE_TIMEOUT
            _within(timeout, taking, self.pid, "it could not be recorded in time")
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def core(self, policy: Policy | None = None) -> "Core":
        """A core of the process, with the policy of the stop or another.

        One with `hold="copy"` is copied here, and the process let go, unless another core of it
        needs it; where that cannot be, `Core.not_copied` says why.  ProcessError.
        """
        policy = policy or self._policy
        holder, self._holder = self._holder, None
        if holder is None or policy is not self._policy:
            holder = _holder(policy)
        making = self._worker.submit(self._stop.core, policy, holder)
        core = _within(TAKE_TIMEOUT, making, self.pid, "it could not be recorded in time")
        # It is given up by itself where it does not come on (copy.py).
        if self._worker.submit(self._stop.copy, core).result():
            self._stop.run_on()
        return Core(core, self._worker)

    @property
    def late(self) -> Sequence[int]:
        """Threads that are traced still when the block has ended: they were interrupted and have
        not stopped yet, for they get no CPU.  Each is let go when it has stopped."""
        return self._stop.late

    def wait_late(self, timeout: float) -> bool:
        """Block until there is none in `late`, or for `timeout` seconds: then False.

        A process that ends earlier lets these threads see that they were interrupted.
        """
        return self._stop.wait_late(timeout)

    def _close(self) -> None:
        """What hangs until the end is left behind; the kernel lets go what we leave traced."""
        self._stop.let_go()
        deadline = time.monotonic() + CLOSE_TIMEOUT
        closer = Worker()  # the other one may hang
        closing = closer.submit(self._stop.close)
        for each in (closer, self._worker):
            each.join(max(0.0, deadline - time.monotonic()))
        if closing.done():
            closing.result()


class Core:
    """One ELF core.  Its header can be read when the block of its stop has ended, its memory only
    before that."""

    def __init__(self, core: cores.Core, worker: Worker) -> None:
        self._core = core
        self._worker = worker

    @property
    def size(self) -> int:
        """Bytes."""
        return self._core.size

    @property
    def header(self) -> bytes:
        """All that lies before memory: program headers and notes."""
        return self._core.layout.header

    @property
    def facts(self) -> dict[str, Any]:
        """How it was had, as its GCOREFS note says (docs/gcorefs-note.md)."""
        return self._core.provenance.facts()

    @property
    def unreadable(self) -> int:
        """Pages that are zeros because they could not be read, as far as is known by now."""
        return self._core.unreadable

    @property
    def not_copied(self) -> str:
        """Why the process is held, where its memory was to be copied; empty otherwise."""
        return self._core.not_copied

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes at `offset`, fewer only at the end.  ProcessError: EIO."""
        reading = self._worker.submit(self._core.read, offset, length)
        return _within(READ_TIMEOUT, reading, self._core.pid)

    def write_to(self, sink: Sink, progress: Progress = lambda done, size: None) -> None:
        """Write all of it, and commit nothing.  ProcessError: EIO; SinkError.

        The process stands still meanwhile.  Commit when it has been let go: that may take long.
        """
        # One buffer is read into while the other is written out: both calls let go of the
        # interpreter lock, and the process stands still for the longer of the two, not the sum.
        filling, full = memoryview(bytearray(_CHUNK)), memoryview(bytearray(_CHUNK))
        offset = 0
        reading = self._worker.submit(self._core.read_into, offset, filling)
        while count := _within(READ_TIMEOUT, reading, self._core.pid):
            offset += count
            filling, full = full, filling
            reading = self._worker.submit(self._core.read_into, offset, filling)
            sink.write(full[:count])
            progress(offset, self.size)


def _holder(policy: Policy) -> Holder:
    return HoldCopy(Room(policy.copy_limit << 20)) if policy.hold == "copy" else HoldProcess()


def _within(timeout: float, future: "Future[T]", pid: int, detail: str = "") -> T:
    """The result of what is done for process `pid`, or what it raises.

    EIO (STUCK): it is not there within `timeout` seconds.
    """
    # Not Future.result(timeout): its TimeoutError could be the call's own ETIMEDOUT.
    if not concurrent.futures.wait([future], timeout).done:
        raise ProcessError(Reason.STUCK, pid, detail)
    return future.result()
