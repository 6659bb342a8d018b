"""A look at a process that disturbs no thread (stop=none).

It has the interface of a Tracer.  No thread is traced, so it works also if a debugger or strace(1)
has the process, if a thread is in an uninterruptible sleep, and if the process is frozen or writes
its own core.  The registers of a thread that sleeps come from BPF, or in part from /proc
(sleeping.py).  The process runs on while its memory is read.
"""

import time
from collections.abc import Sequence

from gcorefs.arch import machine_of
from gcorefs.arch.machine import Machine
from gcorefs.arch.xsave import XsaveAccount
from gcorefs.kernel.proc import address_space, task_stat, tasks
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.policy import Bpf, XState
from gcorefs.process.errors import ProcessError, Reason, told
from gcorefs.process.progress import Progress
from gcorefs.sources.judging import Judge, judged_records
from gcorefs.sources.sleeping import sleeping
from gcorefs.sources.thread_record import ThreadRecord, in_reading_order


class Onlooker:
    """One look at one process."""

    xstate: XsaveAccount | None = None
    """The place of the vector registers in the records, after `wait` has returned."""
    late: Sequence[int] = ()

    def __init__(
        self,
        process: Process,
        progress: Progress,
        bpf: Bpf,
        xstate: XState,
        judge: Judge | None = None,
    ) -> None:
        self.process = process
        self.progress = progress
        self._judge = judge
        self._bpf: Bpf = bpf
        self._layout: XState = xstate

    @property
    def machine(self) -> Machine:
        """The kind of process.  ProcessError GONE, FOREIGN."""
        pid = self.process.pid
        with told(pid, Reason.GONE):
            machine = machine_of(tasks.ask_live_thread(pid, address_space.is_32_bit))
        if machine is None:
            raise ProcessError(Reason.FOREIGN, pid)
        return machine

    def start(self) -> None:
        """Nothing has to be done before `wait`."""

    def wait(self) -> list[ThreadRecord]:
        """A record of each thread.  ProcessError: that of the judgement, and GONE, FOREIGN."""
        pid = self.process.pid
        self.progress.stopped_at = self.progress.released_at = time.monotonic()
        with told(pid, Reason.GONE):
            tids = [tid for tid in tasks.tids(pid) if _is_of_program(pid, tid)]
        threads = sleeping(pid, self.machine, self._bpf, self._layout)
        if self._judge is None:
            records = threads.records(tids)
        else:
            records = judged_records(threads, tids, self._judge)
        if not records:
            raise ProcessError(Reason.GONE, pid)
        self.xstate = threads.xstate_account(records)
        return in_reading_order(records, pid)

    def release(self) -> None:
        """No more reads: the bytes of an open core are those of its time."""
        self.progress.end()

    def join(self) -> None:
        """Nobody is traced."""

    def join_late(self, timeout: float) -> bool:
        del timeout
        return True


def _is_of_program(pid: int, tid: int) -> bool:
    """False for a dead thread, and for a worker of io_uring or vhost."""
    try:
        stat = task_stat.stat(pid, tid)
    except ProcessLookupError:
        return False
    return not (stat.is_dead or stat.is_worker)
