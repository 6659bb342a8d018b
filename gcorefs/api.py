"""The Python interface: stop a process, take cores of it, let it go.

    with gcorefs.stop(pid, gcorefs.Policy(memory="kernel")) as stop:
        core = stop.core()
        magic = core.read(0, 4)
        sink = gcorefs.open_sink("core", is_chosen=True)
        core.write_to(sink)
    sink.commit()

Everything blocks.  A call that may hang (a page that never comes, a file of /proc that never
answers) runs in a thread of its own with a time limit, so that a signal always gets through and the
process is always let go.  The first stop marks the calling process as a process that stops others:
from then on no gcorefs stops it (mark.py).

A child of fork(2) has none of these threads, and is no tracer.  So it reads nothing of a stop of
its parent, and the end of a `with` block in it does nothing.
"""

import _thread
import concurrent.futures
import contextlib
import os
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from gcorefs import core as cores
from gcorefs import tuning
from gcorefs.errors import GcorefsError
from gcorefs.export.sink import FileSink, Sink, SinkError, open_sink
from gcorefs.hold.choice import Rooms, holder_of
from gcorefs.hold.holder import Holder
from gcorefs.hold.room import Disk, Room
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.lifecycle import Phase
from gcorefs.option import OptionError
from gcorefs.policy import DEFAULT, Policy
from gcorefs.process.admission import find
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.mark import mark
from gcorefs.process.worker_threads import Worker
from gcorefs.sources.bpf_choice import choose_for
from gcorefs.stopped import CLOSE_TIMEOUT
from gcorefs.stopped import Stop as StoppedProcess

__all__ = [
    "Core",
    "GcorefsError",
    "OptionError",
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
"""Takes the bytes written so far and the bytes in total."""

_CHUNK = 2 << 20
"""Bytes that are read while as many are written.  Two threads that wait for each other cost 0.1 ms,
which is half of the time in which 512 KiB are read."""
_LONGEST_COPY = 64 << 20
_LONGEST_ROUND = 600.0
"""Seconds.  The copy itself gives up if it makes no progress (hold/copy.py)."""


def stop(process: int | Process, policy: Policy = DEFAULT) -> "Stop":
    """A context manager: the process stands still in the `with` block, and is let go at its end.

    `process`: a pid; or one process, whatever has its pid by now.  ProcessError: ESRCH, EINVAL,
    EACCES if it is not a process that we can stop.  The `with` statement itself raises ProcessError
    for every other reason (errors.Reason).
    """
    return Stop(process, policy)


class Stop:
    """One process, stopped from the beginning of a `with` block to its end."""

    def __init__(self, process: int | Process, policy: Policy = DEFAULT) -> None:
        """ESRCH, EINVAL, EACCES; ValueError if the pid is not positive."""
        self.pid = pid = process if isinstance(process, int) else process.pid
        if pid <= 0:
            raise ValueError(f"{pid} is no pid")
        self._policy = policy
        found = find(pid)
        if found != process and not isinstance(process, int):
            raise ProcessError(Reason.GONE, pid)
        choose_for(pid, policy)
        self._stop = StoppedProcess(found, policy=policy)
        # Prepared before the stop, because that may take long.
        self._holder: Holder | None = _holder(policy)
        self._worker = Worker()
        self._home = _Home(pid)
        self._has_begun = False
        self._is_copied = False

    def __enter__(self) -> "Stop":
        self._home.check()
        if self._has_begun or self._holder is None:
            raise RuntimeError(f"process {self.pid}: a Stop is one stop, and it has begun already")
        self._has_begun = True
        # The end of a block can fail before it has begun: Python runs the handler of a signal when
        # it enters __exit__, and that may raise.
        finalizer = weakref.finalize(self, _close_forgotten, self._stop, self._worker, self._home)
        finalizer.atexit = False  # the kernel lets the process go then
        mark()
        try:
            taking = self._worker.submit(self._stop.take, self._holder)
            timeout = self._policy.stop_timeout + tuning.now().take_timeout
            if self._policy.hold == "precopy":
                # As many stops, and a last round that has begun just in time.
                timeout *= 1 + self._policy.precopy_rounds
                timeout += self._policy.precopy_time + _LONGEST_ROUND
            _within(timeout, taking, self.pid, "it could not be recorded in time")
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._home.is_here:
            self._close()

    def core(self, policy: Policy | None = None, runs_on: bool = True) -> "Core":
        """A core of the process, with the policy of the stop or another.

        With `hold="copy"` or "precopy" this copies the memory of the core, and lets the process go
        unless another core needs it, or `runs_on` is False.  If the copy fails, `Core.not_copied`
        says why.  ProcessError.
        """
        self._home.check()
        policy = policy or self._policy
        holder = None
        if policy is self._policy:
            holder, self._holder = self._holder, None
        making = self._worker.submit(self._stop.core, policy, holder or _holder(policy))
        core = _within(
            tuning.now().take_timeout, making, self.pid, "it could not be recorded in time"
        )
        # The copy itself gives up if it makes no progress (hold/copy.py).
        self._is_copied = self._worker.submit(self._stop.copy, core).result()
        if runs_on:
            self.run_on()
        return Core(core, self, self._worker, self._home, bool(policy.spool))

    def run_on(self) -> None:
        """Let the process go if the memory of all its cores is copied.  For `core`, with `runs_on`
        False."""
        if self._is_copied:
            self._stop.run_on()

    @property
    def woken(self) -> int:
        """With `stop="gentle"`: how many threads that were left asleep have run since they were
        recorded."""
        return self._stop.woken

    @property
    def holds(self) -> bool:
        """True while threads of the process stand still for this stop."""
        return self._stop.life.stands_still and not self._policy.is_read_live

    @property
    def stopped_seconds(self) -> float:
        """How long the process stood still, until its release or until now."""
        return self._stop.stopped_seconds

    @property
    def late(self) -> Sequence[int]:
        """Threads that are still traced after the block has ended: they were interrupted but have
        not stopped yet: most of them get no CPU.  Each is let go when it has stopped."""
        return self._stop.late

    def wait_late(self, timeout: float) -> bool:
        """Block until `late` is empty.  False after `timeout` seconds.

        If the calling process ends earlier, the late threads see that they were interrupted.
        """
        return self._stop.wait_late(timeout)

    def _close(self) -> None:
        """A call that hangs is left behind; the kernel lets go of tracees that we leave."""
        self._stop.let_go()
        deadline = time.monotonic() + CLOSE_TIMEOUT
        closer = Worker()  # the other one may hang
        closing = closer.submit(self._stop.close)
        for each in (closer, self._worker):
            each.join(max(0.0, deadline - time.monotonic()))
        self._stop.child.end_calls()
        if closing.done():
            closing.result()


def _close_forgotten(stop: StoppedProcess, worker: Worker, home: "_Home") -> None:
    """Let a process go whose stop nobody has any more, wherever the garbage collector runs."""
    if home.is_here and not stop.life.has_been(Phase.ENDED):
        # In a thread, because the one that runs here may hold a lock of the stop.
        try:
            _thread.start_new_thread(_close_both, (stop, worker))
        except RuntimeError:  # there is none
            stop.abandon()


def _close_both(stop: StoppedProcess, worker: Worker) -> None:
    worker.close()
    stop.close()


class _Home:
    """The process that has stopped process `pid`: it has the threads that read."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._home = os.getpid()

    @property
    def is_here(self) -> bool:
        """False in a child of fork(2), which has only the thread that called fork(2)."""
        return os.getpid() == self._home

    def check(self) -> None:
        """EIO (FORKED)."""
        if not self.is_here:
            raise ProcessError(Reason.FORKED, self._pid)


class Core:
    """One ELF core.  The header stays readable after the block of its stop has ended; the memory
    is readable only before that."""

    def __init__(
        self, core: cores.Core, stop: Stop, worker: Worker, home: _Home, is_spooled: bool
    ) -> None:
        """`stop`: of which it is.  `is_spooled`: a copy of its memory lies in a file."""
        self._core = core
        self._stop = stop  # which lasts as long as one of its cores
        self._is_spooled = is_spooled
        self._worker = worker
        self._home = home
        self._given = 0

    @property
    def size(self) -> int:
        """Bytes."""
        return self._core.size

    @property
    def header(self) -> bytes:
        """Everything before the memory: program headers and notes.  ProcessError: EIO."""
        self._home.check()
        # Another thread may still make the notes.  And after the block nobody closes `_worker`.
        with contextlib.closing(Worker()) as worker:
            reading = worker.submit(lambda: self._core.layout.header)
            return _within(tuning.now().read_timeout, reading, self._core.pid)

    @property
    def facts(self) -> dict[str, Any]:
        """How the core was made: the content of its GCOREFS note (docs/note.md)."""
        return self._core.provenance.facts()

    @property
    def unreadable(self) -> int:
        """Pages that are zeros because they could not be read, as far as known by now."""
        return self._core.unreadable

    @property
    def given(self) -> int:
        """Bytes that have been read of it so far, each as often as it was read."""
        return self._given

    @property
    def not_copied(self) -> str:
        """Why the process is held although the policy wants a copy; empty otherwise."""
        return self._core.not_copied

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes at `offset`; fewer only at the end.  ProcessError: EIO; ValueError: one of
        them is negative."""
        self._home.check()
        if offset < 0 or length < 0:
            raise ValueError(f"{length} bytes at {offset}: no core has a negative offset or length")
        reading = self._worker.submit(self._core.read, offset, length)
        data = _within(tuning.now().read_timeout, reading, self._core.pid)
        self._given += len(data)
        return data

    def write_to(self, sink: Sink, progress: Progress = lambda done, size: None) -> None:
        """Write the whole core to `sink`, without a commit.  ProcessError: EIO; SinkError.

        The process stands still meanwhile.  Commit after it has been let go: that may take long.
        """
        self._home.check()
        if isinstance(sink, FileSink) and self._is_spooled and self._core.is_copied:
            self._write_copied(sink, progress)
            return
        # One buffer is read into while the other is written out.  Both calls release the
        # interpreter lock, so the process stands still for the longer of the two, not their sum.
        filling, full = memoryview(bytearray(_CHUNK)), memoryview(bytearray(_CHUNK))
        offset = 0
        reading = self._worker.submit(self._core.read_into, offset, filling)
        while count := _within(tuning.now().read_timeout, reading, self._core.pid):
            offset += count
            self._given += count
            filling, full = full, filling
            reading = self._worker.submit(self._core.read_into, offset, filling)
            sink.write(full[:count])
            progress(offset, self.size)

    def _write_copied(self, sink: FileSink, progress: Progress) -> None:
        """The same for a copy that lies in a file, perhaps of the same file system (spool=)."""
        buffer = memoryview(bytearray(_CHUNK))
        offset = 0
        while offset < self.size:
            place = self._core.place(offset, min(self.size - offset, _LONGEST_COPY))
            count = 0
            if place.file is not None:
                count = sink.copy_from(place.file, place.offset, place.length)
            if not count:
                count = min(place.length, _CHUNK)
                reading = self._worker.submit(self._core.read_into, offset, buffer[:count])
                _within(tuning.now().read_timeout, reading, self._core.pid)
                sink.write(buffer[:count])
            offset += count
            self._given += count
            progress(offset, self.size)


def _holder(policy: Policy) -> Holder:
    rooms = Rooms(
        lambda: Room(policy.copy_limit << 20),
        lambda: Disk(policy.spool_limit << 20, policy.spool),
    )
    return holder_of(policy, rooms)


def _within(timeout: float, future: "Future[T]", pid: int, detail: str = "") -> T:
    """The result of work for process `pid`, or its exception.

    EIO (STUCK): there is no result within `timeout` seconds.
    """
    # Not Future.result(timeout): its TimeoutError looks like ETIMEDOUT of the call itself.
    if not concurrent.futures.wait([future], timeout).done:
        raise ProcessError(Reason.STUCK, pid, detail)
    return future.result()
