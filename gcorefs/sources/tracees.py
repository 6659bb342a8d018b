"""The tracees of one process: which of its threads are seized, interrupted or recorded.

One OS thread makes every call here (tracer.py), except that any thread may ask which tracees there
are.  Every change begins with a wait status that the kernel reports for a tracee, or keeps for it
if another thread of ours has waited for that:

- It stopped because of our interrupt.  It is recorded at once, and its interrupted system call is
  repaired (ptrace.py).  That is the only register that is ever written.
- It stopped because of a signal.  The signal goes on to the program, and we interrupt again.
- It ended.  The wait has reaped it.  That must not take long, because the parent of a process can
  wait for it only after its tracer has (ptrace(2), "Death under ptrace").
"""

import contextlib
import errno
import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

from gcorefs import tuning
from gcorefs.kernel import ptrace, wait4
from gcorefs.kernel.proc import tasks
from gcorefs.process.errors import ProcessError
from gcorefs.sources import first_process
from gcorefs.sources.ptrace import PtraceRegisters
from gcorefs.sources.sleeping import Sleeper
from gcorefs.sources.thread_record import ThreadRecord
from gcorefs.steps import Step

SHORTEST_NAP = 50e-6
LONGEST_NAP = 1e-3
"""Seconds between two looks at tracees that have not stopped; from one to the next they double."""

# The steps of each thread.  To look up a member of an Enum takes longer than to call `reach`
# (Python 3.11, enum.property), and there may be 10,000 threads.
_BEFORE_SEIZE = Step.BEFORE_SEIZE
_SEIZED_ONE = Step.SEIZED_ONE
_INTERRUPTED_ONE = Step.INTERRUPTED_ONE
_STOPPED_ONE = Step.STOPPED_ONE
_RECORDED_ONE = Step.RECORDED_ONE
_BEFORE_DETACH = Step.BEFORE_DETACH
_DETACHED_ONE = Step.DETACHED_ONE

_IF_ALIVE = contextlib.suppress(ProcessLookupError)

_ENDED = os.WEXITED | os.WNOHANG | os.WNOWAIT | wait4.WALL


class Tracees:
    """All threads of one process that are seized."""

    def __init__(self, pid: int, registers: PtraceRegisters) -> None:
        self.pid = pid
        self._registers = registers
        self._reach = tuning.now().reach
        self._running: set[int] = set()
        self._interrupted: set[int] = set()  # some of them have stopped since, or are gone
        self._asleep: dict[int, Sleeper] = {}  # seized, and never interrupted
        self._stopped: dict[int, ThreadRecord] = {}
        self._taken: dict[int, int] = {}  # wait statuses that failed for lack of memory
        self._misses_stops = False

    @property
    def running(self) -> set[int]:
        """The tracees that are to stop, and have not stopped yet."""
        return self._running.copy()

    @property
    def stopped(self) -> tuple[int, ...]:
        """The tracees that have stopped."""
        return tuple(self._stopped)

    @property
    def awaited(self) -> set[int]:
        """The tracees that have been interrupted and have not stopped yet.

        Each may have left its system call with an EINTR that is ours (restart.py).
        """
        return self._running & self._interrupted

    @property
    def asleep(self) -> Mapping[int, Sleeper]:
        """The tracees that sleep in a system call and are left there."""
        return self._asleep

    @property
    def known(self) -> set[int]:
        """All tracees."""
        return self._running.union(self._stopped, self._asleep)

    def has_stopped(self, tid: int) -> bool:
        """True if a tracee with that tid has stopped."""
        return tid in self._stopped

    @property
    def counts(self) -> tuple[int, int]:
        """How many tracees have stopped, and how many are still to stop."""
        return len(self._stopped), len(self._running)

    @property
    def records(self) -> Iterable[ThreadRecord]:
        """The records of the tracees that have stopped."""
        return self._stopped.values()

    @property
    def misses_stops(self) -> bool:
        """True if another thread of ours waits for any child, and takes wait statuses away.  Then
        the kernel may not wake us for a stop."""
        return self._misses_stops

    # Seizing and interrupting.

    def seize(self, tid: int) -> None:
        """PTRACE_SEIZE, which may sleep.  EPERM, ESRCH."""
        self._reach(_BEFORE_SEIZE, self.pid)
        ptrace.seize(tid)
        self._reach(_SEIZED_ONE, self.pid)
        self._running.add(tid)

    def recognize(self, tid: int) -> None:
        """Record a tracee that stands in a stop already, but under another tid than before."""
        self._running.add(tid)
        self._record(tid, signal.SIGTRAP)

    def take_over(self, predecessor: "Tracees") -> None:
        """Add the tracees that have not stopped yet from an earlier stop of the same process."""
        self._running |= predecessor._running.union(predecessor._asleep)
        self._interrupted |= predecessor.awaited
        predecessor.leave_to_the_kernel()

    def leave_out(self, tid: int) -> None:
        """Wait for this tracee no more, and do not count it.  The kernel detaches it when our OS
        thread ends."""
        self._forget(tid)

    def leave_to_the_kernel(self) -> None:
        """Wait for no tracee any more.  The kernel detaches them when our OS thread ends."""
        self._running.clear()
        self._asleep.clear()

    def leave_asleep(self, sleepers: Mapping[int, Sleeper]) -> None:
        """Do not stop these tracees, which have not been interrupted."""
        self._running -= sleepers.keys()
        self._asleep |= sleepers

    def wake(self, tid: int) -> None:
        """A tracee sleeps no more.  So it is to stop."""
        del self._asleep[tid]
        self._running.add(tid)

    def interrupt(self, tid: int) -> None:
        """Ask a tracee to stop.  If it is dead, the next look at it says so."""
        if tid in self._asleep:
            self.wake(tid)
        if tid not in self._interrupted:
            self._registers.look(tid)
        self._interrupted.add(tid)
        with _IF_ALIVE:
            ptrace.interrupt(tid)
        self._reach(_INTERRUPTED_ONE, self.pid)

    def interrupt_again(self) -> None:
        """Ask those again that have not stopped.

        If a process has several threads, execve(2) discards the interrupt of the thread that calls
        it (fs/exec.c, de_thread; kernel/signal.c, zap_other_threads).  Older kernels do not.
        """
        for tid in self.awaited:
            with _IF_ALIVE:
                ptrace.interrupt(tid)

    def learn_machine(self) -> None:
        """Ask a tracee, if none has stopped, which kind of process this is.

        FOREIGN; ESRCH: all of them have ended.
        """
        if self._stopped:
            return
        for tid in self.known:
            with _IF_ALIVE:
                self._registers.learn_machine(tid)
                return
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))

    # Wait statuses.

    def look_at_running(self, are_overdue: bool = False) -> None:
        """Take in what the kernel reports about the tracees that have not stopped."""
        # In order: records that are made together lie together, and are read together.
        for tid in sorted(self._running):
            self.look_at(tid, are_overdue)

    def look_at_asleep(self) -> None:
        """Take in what the kernel reports about the tracees that are left asleep: a signal wakes
        one, or it ends."""
        for tid in tuple(self._asleep):
            self.look_at(tid)

    def look_at_stopped(self) -> None:
        """Take in what the kernel reports about the tracees that have stopped."""
        for tid in tuple(self._stopped):
            self.look_at(tid)

    def look_at(self, tid: int, is_overdue: bool = False) -> None:
        """Take in the next wait status of one tracee, if it has one.  `is_overdue`: also one that
        another thread of ours has taken away.

        FOREIGN, and OSError from the calls that record a thread.
        """
        try:
            status = self._taken.pop(tid, None) or wait4.poll_status(tid)
            if status is None and is_overdue:
                status = self._missed(tid)
        except ChildProcessError:
            # The kernel reports the end of a tracee.  A tracee that vanishes without a report has
            # become the leader by execve(2), and the leader that was recorded before was another
            # thread.
            self._forget(tid)
            if tid != self.pid:
                self._forget(self.pid)
            return
        if status is None:
            return
        try:
            self._take_in(tid, status)
        except MemoryError:
            self._taken[tid] = status  # the kernel reports it only once
            raise

    def _missed(self, tid: int) -> int | None:
        """The status of a stop that another thread of ours has waited for.  ECHILD."""
        missed = ptrace.get_stop(tid)
        if missed is None:
            return None
        # If it stopped only now, the kernel has just reported that to us.
        status = wait4.poll_status(tid)
        self._misses_stops = self._misses_stops or status is None
        return status or missed

    def _take_in(self, tid: int, status: int) -> None:
        if status >> 16 == ptrace.PTRACE_EVENT_STOP:
            self._record(tid, os.WSTOPSIG(status))
        elif not os.WIFSTOPPED(status):
            self._forget(tid)
        else:
            # A signal came first.  We pass it on, and the stop comes later.  We interrupt again,
            # because any stop cancels an interrupt that came just before it (kernel/signal.c,
            # ptrace_stop), and one can come in between: dequeue_signal drops siglock when it takes
            # the signal of a timer.
            self.interrupt(tid)
            with _IF_ALIVE:
                self._reach(Step.SIGNAL_FIRST, self.pid)
                number = os.WSTOPSIG(status)
                if self._is_first_process:
                    number = first_process.passed_on(tid, number)
                ptrace.resume(tid, number)

    def _record(self, tid: int, stop_signal: int) -> None:
        """Record one tracee in its stop, and repair it.  FOREIGN."""
        self._reach(_STOPPED_ONE, self.pid)
        try:
            if not self._stopped:  # before the first stop it may become another by execve(2)
                self._registers.learn_machine(tid)
            record = self._registers.record(tid, stop_signal)
        except ProcessLookupError:
            return  # it was killed, and its wait status comes later
        except ProcessError:
            # It has stopped, and the kernel does not report that again.  So it counts as stopped,
            # and is let go like the others.
            self._forget(tid)
            self._stopped[tid] = ThreadRecord(tid)
            raise
        self._forget(tid)
        self._stopped[tid] = record
        self._reach(_RECORDED_ONE, self.pid)

    def _forget(self, tid: int) -> None:
        self._running.discard(tid)
        self._asleep.pop(tid, None)
        self._stopped.pop(tid, None)

    def is_ending(self, tid: int) -> bool:
        """True if a tracee is dead or gone.  It is not reaped."""
        try:
            return _is_dead(tid, wait4.WNOTHREAD)
        except ChildProcessError:
            return True

    def dead(self) -> Iterator[int]:
        """Each tracee that is dead and not reaped.  Any thread of ours may ask."""
        for tid in self.known:
            with contextlib.suppress(ChildProcessError):
                if _is_dead(tid):
                    yield tid

    def reap(self, tid: int) -> None:
        """Reap a dead tracee.  Any thread of ours may do it.

        A tracee that is not dead must not come here: to take the report of its stop would lose the
        stop, and the signal with it.
        """
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, tid, _ENDED & ~os.WNOWAIT)

    # Letting go.

    def look_at_awaited(self, are_overdue: bool = False) -> None:
        """The same as `look_at_running`.  A tracee that cannot be recorded is waited for no more:
        the stop has failed because of it already."""
        for tid in (*self._running, *self._asleep):
            try:
                self.look_at(tid, are_overdue)
            except OSError:
                self._running.discard(tid)

    def detach_stopped(self) -> None:
        """Let every tracee go that has stopped."""
        if self._stopped and self._is_first_process and not self._is_stopped_by_others:
            first_process.discard_stop(self.pid, next(iter(self._stopped)))
        for tid in self._in_order():
            self._reach(_BEFORE_DETACH, self.pid)
            try:
                self._registers.before_detach(tid)
                ptrace.detach(tid)
            except ProcessLookupError:
                # It was killed.  So we wait for it, to reap it.  The death of a leader is reported
                # only when all other threads are reaped (kernel/exit.c, delay_group_leader).
                self._running.add(tid)
                self._interrupted.add(tid)
            self._reach(_DETACHED_ONE, self.pid)
        self._stopped.clear()

    @property
    def _is_stopped_by_others(self) -> bool:
        """Job control has stopped the process, and it stays so when it is let go."""
        return any(record.signal for record in self._stopped.values())

    @cached_property
    def _is_first_process(self) -> bool:
        return first_process.is_first(self.pid)

    def _in_order(self) -> list[int]:
        """The tracees that have stopped, those first for which the kernel may have a signal.

        It does not discard a signal that the program ignores if the signal is for a tracee
        (kernel/signal.c, sig_task_ignored), and if this one stands still, it wakes another thread
        (complete_signal).  That one would see an EINTR if it has been let go already.  SIGCHLD is
        for the thread that has made the child, and a signal of kill(2) for the leader.
        """
        if len(self._stopped) < 2:
            return [*self._stopped]
        return sorted(
            self._stopped,
            key=lambda tid: tid != self.pid and not tasks.has_children(self.pid, tid),
        )


def _is_dead(tid: int, more: int = 0) -> bool:
    """True if a tracee is dead and not reaped.  `more`: options of waitid(2).  ECHILD.

    The kernel reports a stop too, whatever it is asked for (kernel/exit.c, wait_task_stopped).
    """
    found = os.waitid(os.P_PID, tid, _ENDED | more)
    return found is not None and found.si_code != os.CLD_TRAPPED
