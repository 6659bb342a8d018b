"""One stop of one process, carried out by an OS thread of its own.

One OS thread makes every ptrace call for a process and every call that waits for a tracee, except
`Stopping.reap_for_seize`.  For the kernel the tracer is that thread, and when the thread ends, the
kernel detaches all tracees.  So the thread lives until the last tracee is let go.  A thread of a
pool would not do: the pool decides when such a thread ends.

Every tracee is let go, whatever happens: we detach it, or the kernel does if we die.  So we set no
PTRACE_O_EXITKILL, and do not use PTRACE_ATTACH, which sends a SIGSTOP: that SIGSTOP would stay if
we died before we took it back.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence

from gcorefs import tuning
from gcorefs.arch.machine import Machine
from gcorefs.arch.xsave import XsaveAccount
from gcorefs.kernel import wait4
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.policy import DEFAULT, XState
from gcorefs.process.late import LATE, may_stop
from gcorefs.process.progress import Progress
from gcorefs.process.threads import start_thread
from gcorefs.sources.holding import hold, let_go
from gcorefs.sources.ptrace import PtraceRegisters
from gcorefs.sources.stopping import SEIZE_PATIENCE, Stopping
from gcorefs.sources.thread_record import ThreadRecord
from gcorefs.sources.tracees import SHORTEST_NAP, Tracees
from gcorefs.steps import Step

_RING_AGAIN = 0.01
"""Seconds after which `join` rings again at the latest (kernel/wait4.py)."""


class Tracer:
    """One stop of one process.

    `start` returns at once.  `wait` returns the records when every thread is stopped.  `release`
    lets the process go; any thread may call it, at any time, more than once.
    """

    def __init__(
        self,
        process: Process,
        stop_timeout: float,
        on_end: Callable[[], None] = lambda: None,
        xstate: XState = DEFAULT.xstate,
        progress: Progress | None = None,
    ) -> None:
        """`on_end`: called if the hold ends before `release`, in the OS thread of the tracer."""
        self.process = process
        self.records: list[ThreadRecord] = []
        self.progress = progress or Progress()
        self._stop_timeout = stop_timeout
        self._on_end = on_end
        self._failure: BaseException | None = None
        self._ready = threading.Event()
        self._release = threading.Event()
        self._has_begun = threading.Event()
        self._is_free = threading.Event()  # every tracee is let go, except those that are late
        self._has_ended = threading.Event()
        self._is_late = False  # some tracees were late when `_is_free` was set (process/late.py)
        self._successor: Tracer | None = None
        self._registers = PtraceRegisters(process.pid, xstate)
        self._tracees = Tracees(process.pid, self._registers)
        self._stopping = Stopping(
            process, self._tracees, self.progress, stop_timeout, self._release
        )
        self._thread: threading.Thread | None = None

    @property
    def machine(self) -> Machine:
        """The kind of process, after `wait` has returned."""
        return self._registers.machine

    @property
    def xstate(self) -> XsaveAccount | None:
        """The place of the vector registers in the records, after `wait` has returned."""
        return self._registers.xstate_account(self.records)

    @property
    def late(self) -> Sequence[int]:
        """The threads that were interrupted, have not stopped yet, and are waited for."""
        return sorted(self._tracees.awaited) if self._is_late else ()

    def start(self) -> None:
        """Begin in a new OS thread, or in that of a stop whose threads are late.  NoThread."""
        tuning.now().reach(Step.STARTING, self.process.pid)
        wait4.hang_bell()
        predecessor = LATE.succeed(self)
        if isinstance(predecessor, Tracer):
            self._thread = predecessor._thread
            self._ring()
        else:
            name = f"gcorefs-tracer-{self.process.pid}"
            self._thread = start_thread(name, _trace, self)

    def hand_over(self, successor: "Tracer") -> None:
        """Let another stop of the process go on in the same OS thread (process/late.py)."""
        self._successor = successor

    def wait(self) -> list[ThreadRecord]:
        """Block until every thread is recorded.

        ProcessError: GONE, TRACED, DUMPING, DENIED, FOREIGN, LET_GO.
        """
        while not self._ready.wait(SEIZE_PATIENCE):
            if not self._has_begun.is_set():
                self._ring()
            self._stopping.reap_for_seize()
        if self._failure is not None:
            raise self._failure
        return self.records

    def release(self) -> None:
        """Let the process go.  Returns at once."""
        tuning.now().reach(Step.RELEASING, self.process.pid)
        self._release.set()
        self._ring()

    def _ring(self) -> None:
        """Wake the OS thread if it sleeps until the kernel reports something of a tracee."""
        if self._thread is not None and self._thread.native_id is not None:
            wait4.ring(self._thread.native_id)

    def join(self) -> None:
        """Block until every thread has been let go and none is traced, except those in `late`."""
        self._on_end = lambda: None  # it refers to the owner of this object
        if self._thread is None:
            return
        again = SHORTEST_NAP  # the process stands still until the OS thread hears the ring
        while not self._is_free.wait(again):
            self._ring()
            again = min(again * 2, _RING_AGAIN)
        # The kernel lets the threads go that never stopped and are not late, when the OS thread
        # ends.  That comes a moment after the end of the Python thread.
        while not self._is_late and os.path.exists(f"/proc/self/task/{self._thread.native_id}"):
            time.sleep(SHORTEST_NAP)

    def join_late(self, timeout: float) -> bool:
        """Block until no thread is late any more, or for `timeout` seconds: then False."""
        return self._thread is None or self._has_ended.wait(timeout)

    # All below runs in the OS thread of the tracer.

    def run(self) -> "Tracer | None":
        """Carry out the stop.  Returns the next stop of the process, if it takes over."""
        self._has_begun.set()
        try:
            self._stop_and_hold()
            let_go(
                self._tracees,
                self.progress,
                min(self._stop_timeout, tuning.now().last_look),
                self._is_taken_over,
                self._may_wait,
            )
            return self._leave()
        finally:
            self.progress.end()
            self.progress.disown()
            self._registers.close()  # again, because some may have been recorded since
            self._is_free.set()
            self._has_ended.set()

    def _stop_and_hold(self) -> None:
        try:
            self.progress.own()
            self.records = self._stopping.stop_all()
        except BaseException as error:  # `wait` raises it
            self._failure = error
            return
        finally:
            self._registers.close()
            self._ready.set()
        try:
            hold(self._tracees, self._release, self._die)
        except (OSError, MemoryError):  # of a thread that stopped late: there is no stop any more
            self._on_end()

    def _die(self) -> None:
        self.progress.die()
        self._on_end()
        tuning.now().reach(Step.DEATH_TOLD, self.process.pid)

    def _is_taken_over(self) -> bool:
        return self._successor is not None

    def _may_wait(self) -> bool:
        """True if there are threads for which this OS thread alone is to wait (process/late.py)."""
        pid = self.process.pid
        if not any(may_stop(pid, tid) for tid in self._tracees.awaited):
            return False
        if not self._is_late:
            self._is_late = LATE.enter(self)
            self.records = []
            self._is_free.set()
        return self._is_late

    def _leave(self) -> "Tracer | None":
        """Leave the threads that have not stopped to the next stop, which is returned, or else to
        the kernel."""
        LATE.leave(self)
        successor, self._successor = self._successor, None
        if successor is None:
            self._tracees.leave_to_the_kernel()
        else:
            successor._tracees.take_over(self._tracees)
        return successor


def _trace(tracer: Tracer | None) -> None:
    """What the OS thread does: one stop, and then each stop that takes over."""
    wait4.hear_bell()
    while tracer is not None:
        tracer = tracer.run()
