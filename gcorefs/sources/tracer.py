"""One stop of one process, carried out by an OS thread of its own.

One OS thread makes every ptrace call for a process and every call that waits for a tracee, except
`Seizing.reap_for_seize`.  For the kernel the tracer is that thread, and when the thread ends, the
kernel detaches all tracees.  So the thread lives until the last tracee is let go.  A thread of a
pool would not do: the pool decides when such a thread ends.

Every tracee is let go, whatever happens: we detach it, or the kernel does if we die.  So we set no
PTRACE_O_EXITKILL, and do not use PTRACE_ATTACH, which sends a SIGSTOP: that SIGSTOP would stay if
we died before we took it back.
"""

import threading
from collections.abc import Callable, Sequence

from gcorefs import tuning
from gcorefs.arch.machine import Machine
from gcorefs.arch.xsave import XsaveAccount
from gcorefs.kernel import bell
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.policy import DEFAULT, Policy
from gcorefs.process.late import LATE, may_stop
from gcorefs.process.progress import Progress
from gcorefs.process.threads import Running, start_thread
from gcorefs.sources.forking import Child
from gcorefs.sources.holding import await_late, hold, let_go
from gcorefs.sources.judging import Judge
from gcorefs.sources.nurse import Nurse
from gcorefs.sources.ptrace import PtraceRegisters
from gcorefs.sources.seizing import SEIZE_PATIENCE, Seizing
from gcorefs.sources.sleeping import Sleeping, sleeping
from gcorefs.sources.stopping import Stopping
from gcorefs.sources.thread_record import ThreadRecord
from gcorefs.sources.tracees import SHORTEST_NAP, Tracees
from gcorefs.steps import Step

_RING_AGAIN = 0.01
"""Seconds after which it is rung again at the latest (kernel/bell.py)."""


class Tracer:
    """One stop of one process.

    `start` returns at once.  `wait` returns the records when every thread is stopped.  `release`
    lets the process go; any thread may call it, at any time, more than once.
    """

    def __init__(
        self,
        process: Process,
        policy: Policy = DEFAULT,
        on_end: Callable[[], None] = lambda: None,
        progress: Progress | None = None,
        judge: Judge | None = None,
    ) -> None:
        """`on_end`: called if the hold ends before `release`, in the OS thread of the tracer."""
        self.process = process
        self.records: list[ThreadRecord] = []
        self.progress = progress or Progress()
        self._policy = policy
        self._judge = judge
        self._on_end = on_end
        self._failure: BaseException | None = None
        self._ready = threading.Event()
        self._release = threading.Event()
        self._has_begun = threading.Event()
        self._is_free = threading.Event()  # every tracee is let go, except those that are late
        self._has_ended = threading.Event()
        self._is_late = False  # some tracees were late when `_is_free` was set (process/late.py)
        self._successor: Tracer | None = None
        self._registers = PtraceRegisters(process.pid, policy.xstate)
        self._tracees = Tracees(process.pid, self._registers)
        is_gentle = policy.stop == "gentle"
        self._seizing = Seizing(process, self._tracees, self.progress)
        self._stopping = Stopping(
            self._seizing,
            self._tracees,
            self.progress,
            policy.stop_timeout,
            self._release,
            self._look_asleep if is_gentle else None,
        )
        self._thread: Running | None = None
        self._nurse = Nurse()  # for a child that has the memory of the process
        self._sleeping: Sleeping | None = None
        self._account_asleep: XsaveAccount | None = None

    @property
    def machine(self) -> Machine:
        """The kind of process, after `wait` has returned."""
        return self._registers.machine

    @property
    def xstate(self) -> XsaveAccount | None:
        """The place of the vector registers in the records, after `wait` has returned."""
        return self._registers.xstate_account(self.records) or self._account_asleep

    @property
    def late(self) -> Sequence[int]:
        """The threads that were interrupted, have not stopped yet, and are waited for."""
        return sorted(self._tracees.awaited) if self._is_late else ()

    def start(self) -> None:
        """Begin in a new OS thread, or in that of a stop whose threads are late.  NoThread."""
        tuning.now().reach(Step.STARTING, self.process.pid)
        predecessor = LATE.succeed(self)
        if isinstance(predecessor, Tracer):
            self._thread = predecessor._thread
            self._ring()
        else:
            name = f"tracer-{self.process.pid}"
            self._thread = start_thread(name, _trace, self)

    def hand_over(self, successor: "Tracer") -> None:
        """Let another stop of the process go on in the same OS thread (process/late.py)."""
        self._successor = successor

    def wait(self) -> list[ThreadRecord]:
        """Block until every thread is recorded.

        ProcessError: GONE, TRACED, HELD, DUMPING, DENIED, FOREIGN, LET_GO.
        """
        while not self._ready.wait(SEIZE_PATIENCE):
            if not self._has_begun.is_set():
                self._ring()
            self._seizing.reap_for_seize()
        if self._failure is not None:
            raise self._failure
        return self.records

    def release(self) -> None:
        """Let the process go.  Returns at once."""
        tuning.now().reach(Step.RELEASING, self.process.pid)
        self._release.set()
        self._ring()

    @property
    def is_released(self) -> bool:
        return self._release.is_set()

    def _ring(self) -> None:
        """Wake the OS thread if it sleeps until the kernel reports something of a tracee."""
        if self._thread is not None:
            bell.ring(self._thread.tid)

    def _ring_until(self, done: threading.Event) -> None:
        """Wait for what the OS thread does when it wakes up.  It may miss a ring."""
        again = SHORTEST_NAP  # the process stands still until the OS thread hears the ring
        while not done.wait(again):
            self._ring()
            again = min(again * 2, _RING_AGAIN)

    def join(self) -> None:
        """Block until every thread has been let go and none is traced, except those in `late`."""
        self._on_end = lambda: None  # it refers to the owner of this object
        if self._thread is None:
            return
        self._ring_until(self._is_free)
        # The kernel lets the threads go that never stopped and are not late, when the OS thread
        # ends.  That comes a moment after the end of the Python thread.
        if not self._is_late and self._nurse.child is None:
            self._thread.join()

    def join_late(self, timeout: float) -> bool:
        """Block until no thread is late any more, or for `timeout` seconds: then False."""
        return self._thread is None or self._has_ended.wait(timeout)

    def inject(self, work: Callable[[], Child | None]) -> Child | None:
        """Do work in the OS thread that makes calls in the process, which stands still, and may
        make a child of it (sources/forking.py).

        The child is there until `kill_child`, also after `release`.  NotInjected, OSError.
        """
        request = self._nurse.ask(work)
        self._ring_until(request.is_done)
        return request.result()

    @property
    def has_child(self) -> bool:
        """True from `inject` until nothing is left of its child."""
        return self._nurse.child is not None or self._nurse.unreaped is not None

    def kill_child(self) -> None:
        """Kill the child of `inject`, also one that is made just now.  Returns at once."""
        self._nurse.kill()

    def unreaped(self) -> Child | None:
        """Wait for the end of the child, after `kill_child` and `release`.  Returns it if the
        process still has to reap it."""
        if self._nurse.was_asked:
            self._ring_until(self._has_ended)
        return self._nurse.unreaped

    def forget_child(self) -> None:
        """The process has reaped the child, or never will."""
        self._nurse.forget()

    # All below runs in the OS thread of the tracer.

    def run(self) -> "Tracer | None":
        """Carry out the stop.  Returns the next stop of the process, if it takes over."""
        self._has_begun.set()
        try:
            self._stop_and_hold()
            let_go(
                self._tracees,
                self.progress,
                min(self._policy.stop_timeout, tuning.now().last_look),
                self._is_taken_over,
                self._may_wait,
            )
            if self._nurse.child is not None:
                self._is_free.set()
                self._nurse.watch()
            return self._leave()
        finally:
            self._nurse.close()
            self.progress.end()
            self.progress.disown()
            self._registers.close()  # again, because some may have been recorded since
            self._is_free.set()
            self._has_ended.set()

    def _stop_and_hold(self) -> None:
        try:
            self.progress.own()
            self.records = self._stop()
        except BaseException as error:  # `wait` raises it
            self._failure = error
            return
        finally:
            self._registers.close()
            self._ready.set()
        try:
            if self._policy.stop == "each":
                await_late(self._tracees, self._release)
            else:
                hold(
                    self._tracees,
                    self._release,
                    self._die,
                    self._stopping.asleep,
                    self._nurse.tend,
                    self._seizing.count_newborn,
                )
        except (OSError, MemoryError):  # of a thread that stopped late: there is no stop any more
            self._on_end()

    def _stop(self) -> list[ThreadRecord]:
        if self._policy.stop == "each":
            return self._stopping.stop_each(self._judge)
        records = self._stopping.stop_all(self._judge)
        if self._sleeping is not None:
            self._account_asleep = self._sleeping.xstate_account(records)
        return records

    def _look_asleep(self) -> Sleeping:
        policy, machine = self._policy, self._registers.machine
        if self._sleeping is None or self._sleeping.machine is not machine:
            self._sleeping = sleeping(self.process.pid, machine, policy.bpf, policy.xstate)
        return self._sleeping

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
    bell.hear_bell()
    while tracer is not None:
        tracer = tracer.run()
