"""Stops the threads of one process, records each as it stops, holds them, lets them go.

Rules of this file:
- One OS thread of our own makes every ptrace call and, but for _reap_for_seize, every wait
  call for a process, and it lives until the last tracee is let go.  The kernel knows the
  tracer by thread, and lets all tracees go when that thread ends; a pooled worker would end
  when its pool says so.  While nothing happens it sleeps in waitid(2): a hold costs nothing.
- Every thread is let go, whatever happens: by DETACH here, by the kernel if we die.  So no
  PTRACE_O_EXITKILL, and no PTRACE_ATTACH, whose SIGSTOP outlives a tracer that dies between
  sending it and taking it back.
- One register is written, as a thread is recorded (ptrace.py), for the reason that restart.py
  gives; nothing else.
- A tracee that dies is reaped at once: its parent hears of it only after its tracer has.

The order of a stop: seize every thread (none is stopped by that), interrupt every thread,
wait; again for threads born meanwhile, until a pass finds none.

A process that writes its own core is left alone.  An interrupt would end the thread's write to
the pipe of core_pattern (fs/pipe.c, pipe_write), and the core with it.  Once a thread is seized,
a signal that makes it crash stops it first, and we see that.  Only a kill by seccomp asks no
tracer (kernel/signal.c, get_signal, SA_IMMUTABLE).  So the process is asked after the seize,
again between interrupts, and while a thread does not stop.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from math import inf

from gcorefs import tuning
from gcorefs.arch.machine import Machine
from gcorefs.arch.xsave import XsaveAccount
from gcorefs.kernel import ptrace, robust_list, wait4
from gcorefs.kernel.proc import task_stat, task_status, tasks
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.policy import DEFAULT, XState
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.late import LATE, Starved, may_stop
from gcorefs.process.progress import Progress
from gcorefs.process.threads import start_thread
from gcorefs.sources.ptrace import PtraceRegisters
from gcorefs.sources.thread_record import ThreadRecord, in_reading_order

_SEIZE_PATIENCE = 0.01
_SHORTEST_NAP = 50e-6
_LONGEST_NAP = 1e-3
# How often that is tried where there is no memory for it.
_MOST_TRIES = 10
# The threads of a process that is killed die one after another.
_DEATH_NAP = 1e-3
# How often `ring` is repeated at the least (kernel/wait4.py).
_RING_AGAIN = 0.01

# How often a process that does not stop is asked whether it writes its core, and which of its
# threads get no CPU.
_QUESTION = 0.1

# How much longer a thread that gets no CPU may take to stop, in all: so many times
# stop_timeout, and so many seconds at the most.  The others stand meanwhile.
_STARVED_TIMES = 4
_STARVED_SECONDS = 4.0

# Threads that are interrupted before the process is asked again whether it writes its core.
_PIECE = 50

# An execve(2) refuses us once; a process that execs without end may do so a few times.
_MOST_REFUSALS = 10


class Tracer:
    """One stop of one process.

    `start` returns at once; `wait` returns the records when every thread is stopped;
    `release` lets go and may be called from any thread, at any time, more than once.
    """

    def __init__(
        self,
        process: Process,
        stop_timeout: float,
        on_end: Callable[[], None] = lambda: None,
        xstate: XState = DEFAULT.xstate,
        progress: Progress | None = None,
    ) -> None:
        self.process = process
        self.records: list[ThreadRecord] = []
        self.progress = progress or Progress()
        self._stop_timeout = stop_timeout
        self._on_end = on_end
        self._failure: BaseException | None = None
        self._ready = threading.Event()
        self._release = threading.Event()
        self._has_begun = threading.Event()
        self._is_free = threading.Event()  # all are let go but those that are late
        self._has_ended = threading.Event()
        self._is_late = False  # some were late when `_is_free` was set (late.py)
        self._successor: Tracer | None = None
        self._running: set[int] = set()  # seized, not stopped yet
        self._interrupted: set[int] = set()  # of these, and of those that are stopped
        self._stopped: dict[int, ThreadRecord] = {}
        self._taken: dict[int, int] = {}  # wait statuses that there was no memory to act on
        self._left_out: set[int] = set()  # stand in the task list and are not to be traced
        self._seizing_since = inf  # when the seize under way began
        self._refusals = 0
        self._has_reaped = False  # _reap_for_seize has, and the tracer does not know whom
        self._registers = PtraceRegisters(process.pid, xstate)
        self._starved = Starved(process.pid)
        self._patience = min(_STARVED_TIMES * stop_timeout, _STARVED_SECONDS)  # is left for them
        self._thread: threading.Thread | None = None

    @property
    def machine(self) -> Machine:
        """What kind of process it is, once `wait` has returned."""
        return self._registers.machine

    @property
    def xstate(self) -> XsaveAccount | None:
        """Where the vector registers lie in the records, once `wait` has returned."""
        return self._registers.xstate_account(self.records)

    @property
    def late(self) -> Sequence[int]:
        """Threads that have been interrupted, have not stopped yet, and are waited for."""
        return sorted(self._running & self._interrupted) if self._is_late else ()

    def start(self) -> None:
        """NoThread."""
        wait4.hang_bell()
        predecessor = LATE.succeed(self)
        if isinstance(predecessor, Tracer):
            self._thread = predecessor._thread
            self._ring()
        else:
            name = f"gcorefs-tracer-{self.process.pid}"
            self._thread = start_thread(name, _trace, self)

    def hand_over(self, successor: "Tracer") -> None:
        self._successor = successor

    def wait(self) -> list[ThreadRecord]:
        """Block until every thread is recorded.

        ProcessError: GONE, TRACED, DUMPING, DENIED, FOREIGN, LET_GO.
        """
        while not self._ready.wait(_SEIZE_PATIENCE):
            if not self._has_begun.is_set():
                self._ring()
            self._reap_for_seize()
        if self._failure is not None:
            raise self._failure
        return self.records

    def _reap_for_seize(self) -> None:
        """Reap the dead while the tracer itself sleeps in PTRACE_SEIZE.

        A thread that calls execve(2) holds cred_guard_mutex, kills the other threads and
        waits until they are reaped (fs/exec.c, de_thread).  Are some of them ours already,
        and the tracer waits for that mutex to seize one more, then nobody moves.  Any thread
        of the tracer's process may reap, and this one, which waits for the stop, does.
        """
        if time.monotonic() - self._seizing_since > _SEIZE_PATIENCE:
            for tid in (*self._running, *self._stopped):
                # A tracee's stop is told whatever is asked for (kernel/exit.c,
                # wait_task_stopped), and once taken it is gone, its signal with it.
                with contextlib.suppress(ChildProcessError):
                    found = os.waitid(os.P_PID, tid, _PEEK_BY_ANY_THREAD)
                    if found is not None and found.si_code != os.CLD_TRAPPED:
                        self._has_reaped = True
                        os.waitid(os.P_PID, tid, _PEEK_BY_ANY_THREAD & ~os.WNOWAIT)

    def release(self) -> None:
        self._release.set()
        self._ring()

    def _ring(self) -> None:
        """Wake the OS thread where it waits for its tracees."""
        if self._thread is not None and self._thread.native_id is not None:
            wait4.ring(self._thread.native_id)

    def join(self) -> None:
        """Block until every thread has been let go and nobody is traced any more, but for those
        in `late`."""
        self._on_end = lambda: None  # it leads back to whoever has us
        if self._thread is None:
            return
        again = _SHORTEST_NAP  # the process stands until it is heard
        while not self._is_free.wait(again):
            self._ring()
            again = min(again * 2, _RING_AGAIN)
        # Threads that never stopped and are not late are let go by the end of the OS thread
        # itself, which comes a moment after the end of the Python thread.
        while not self._is_late and os.path.exists(f"/proc/self/task/{self._thread.native_id}"):
            time.sleep(_SHORTEST_NAP)

    def join_late(self, timeout: float) -> bool:
        """Block until no thread is late any more, or for `timeout` seconds: then False."""
        return self._thread is None or self._has_ended.wait(timeout)

    def _run(self) -> "Tracer | None":
        """One stop.  Returns the next one of the same process, where that takes over."""
        self._has_begun.set()
        try:
            self._stop_and_hold()
            self._let_go_for_certain()
            return self._leave()
        finally:
            self.progress.end()
            self.progress.disown()
            self._registers.close()  # once more, for those that stopped late
            self._is_free.set()
            self._has_ended.set()

    def _stop_and_hold(self) -> None:
        try:
            self.progress.own()
            self._stop_all()
        except BaseException as error:  # handed to whoever waits
            self._failure = error
            return
        finally:
            self._registers.close()
            self._ready.set()
        try:
            self._hold()
        except (OSError, MemoryError):  # a thread that stopped later: nobody is to join any more
            self._on_end()

    # Stopping.

    def _stop_all(self) -> None:
        pid = self.process.pid
        try:
            newcomers = self._newcomers()
            is_first = True  # there may be threads that were taken over
            while is_first or newcomers or not self._settled():
                self._seize(newcomers or self._newcomers())
                newcomers, is_first = [], False
                # Nobody takes the pid of a process whose threads are seized; but it may have
                # been another's before, and that one is not to be stopped.
                if task_stat.stat(pid).start_time != self.process.start_time:
                    raise ProcessError(Reason.GONE, pid)
                self._interrupt()
                self._wait_for_stops()
                if self._release.is_set():
                    raise ProcessError(Reason.LET_GO, pid)
            if not self._stopped and not self._running:
                raise ProcessError(Reason.GONE, pid)
            if not self._stopped:
                self._registers.learn_machine(next(iter(self._running)))
        except ProcessLookupError as error:
            raise ProcessError(Reason.GONE, pid) from error
        late = [
            ThreadRecord(tid, is_starved=tid in self._starved.tids)
            for tid in self._running
            if tid not in self._stopped
        ]
        self.records = in_reading_order([*self._stopped.values(), *late], pid)

    def _settled(self) -> bool:
        """True when every thread of the process is known and every record still holds.

        A record does not where execve(2) has put another thread in the leader's place.  Nobody
        tells of that, so the leader is looked at in any case, and after the threads have been
        counted: before, a thread that is still about to do so is one too many.
        """
        recorded = len(self._stopped)
        are_all = self._are_all()
        if not are_all and self._newcomers():
            return False
        if not are_all or self._has_reaped or wait4.has_status():
            self._has_reaped = False
            self._look_at_stopped()
        elif self.process.pid in self._stopped:
            self._look_at(self.process.pid)
        return recorded == len(self._stopped) and (self._are_all() or not self._newcomers())

    def _are_all(self) -> bool:
        """True where those that are stopped are all that there are.

        Dead or alive they stay in the task list until they are waited for; so if it is no
        longer than that, nobody else is in it.  The list itself takes longer to read.
        """
        is_alone = not self._running and not self._left_out
        return is_alone and tasks.thread_count(self.process.pid) == len(self._stopped)

    def _newcomers(self) -> list[int]:
        leader = self.process.pid
        # A dead leader may live again: execve(2) puts the thread that calls it in its place.
        if leader in self._left_out and not task_stat.stat(leader, leader).is_dead:
            self._left_out.discard(leader)
        known = self._left_out.union(self._stopped, self._running)
        return [tid for tid in tasks.tids(leader) if tid not in known]

    def _seize(self, tids: list[int]) -> None:
        any_exiting = False
        for tid in tids:
            self._seizing_since = time.monotonic()
            try:
                if self._is_worker(tid):
                    self._left_out.add(tid)
                    continue
                ptrace.seize(tid)
            except ProcessLookupError:
                any_exiting = True
            except PermissionError as error:
                self._take_refusal(tid, error)
            else:
                self._running.add(tid)
        self._seizing_since = inf
        if any_exiting:  # they leave the task list in a moment
            time.sleep(_SHORTEST_NAP)

    def _is_worker(self, tid: int) -> bool:
        """True for a worker of io_uring or vhost, which runs none of the program's code.

        ptrace(2) would have it, and a stop ends the request that it sleeps in with an error.
        Nearly every other thread is told from it without asking /proc.
        """
        return (
            not robust_list.has_robust_list(tid) and task_stat.stat(self.process.pid, tid).is_worker
        )

    def _take_refusal(self, tid: int, error: PermissionError) -> None:
        """EPERM has many reasons: raise where one is the core's, return where none is."""
        pid = self.process.pid
        try:
            stat = task_stat.stat(pid, tid)
            holder = int(task_status.status(pid, tid)["TracerPid"])
        except ProcessLookupError:
            return
        if stat.is_dead:  # a zombie is refused as if it were another's
            self._left_out.add(tid)
        elif holder == threading.get_native_id():  # seized under another id, before execve(2)
            self._running.add(tid)
            self._record(tid, signal.SIGTRAP)  # where it has stopped already
        elif holder:
            raise ProcessError(
                Reason.TRACED, pid, f"TracerPid {task_status.tracer(pid, tid)}"
            ) from error
        else:
            # It may have been dead a moment ago, and a leader that lives again by now.
            self._refusals += 1
            if self._refusals == _MOST_REFUSALS:
                raise ProcessError(Reason.DENIED, pid) from error

    def _interrupt(self) -> None:
        self._refuse_while_it_dumps()
        if not self.progress.stopped_at:
            self.progress.stopped_at = time.monotonic()
        # One that died meanwhile says so when it is waited for.
        is_gone = contextlib.suppress(ProcessLookupError)
        for count, tid in enumerate(tuple(self._running), 1):
            if count % _PIECE == 0:
                self._refuse_while_it_dumps()
            self._interrupted.add(tid)
            with is_gone:
                ptrace.interrupt(tid)

    def _refuse_while_it_dumps(self) -> None:
        if task_status.is_dumping_core(self.process.pid):
            raise ProcessError(Reason.DUMPING, self.process.pid)

    def _wait_for_stops(self) -> None:
        """Until every seized thread is stopped or gone, or for stop_timeout none has been.

        Time in which one of them gets no CPU does not count, as long as `_patience` lasts.
        """
        nap = _SHORTEST_NAP
        deadline = time.monotonic() + self._stop_timeout
        next_question = 0.0
        while self._running and not self._release.is_set():
            before = len(self._running)
            # In order: what is recorded together lies together, and is read together.
            for tid in sorted(self._running):
                self._look_at(tid)
            if len(self._running) < before:
                nap = _SHORTEST_NAP
                deadline = time.monotonic() + self._stop_timeout
                continue
            if time.monotonic() > deadline:
                deadline += self._seconds_starved()
                if time.monotonic() > deadline:
                    return
            time.sleep(nap)
            nap = min(nap * 2, _LONGEST_NAP)
            if nap == _LONGEST_NAP:
                if time.monotonic() > next_question:
                    self._refuse_while_it_dumps()
                    deadline += self._seconds_starved()
                    next_question = time.monotonic() + _QUESTION
                # execve(2) in one thread kills the others and waits until they are reaped
                # (fs/exec.c, de_thread); those may be among the stopped ones.
                self._look_at_stopped()

    def _seconds_starved(self) -> float:
        """Seconds since this was asked before, if one of those that run had no CPU in them."""
        seconds = min(self._starved.seconds(sorted(self._running)), self._patience)
        self._patience -= seconds
        return seconds

    def _look_at_stopped(self) -> None:
        for tid in tuple(self._stopped):
            self._look_at(tid)

    def _look_at(self, tid: int) -> None:
        """Take in the next wait status of one tracee, if it has one."""
        try:
            status = self._taken.pop(tid, None) or wait4.poll_status(tid)
        except ChildProcessError:
            # A tracee that exits says so.  One that vanishes has become the leader, by
            # execve(2), and what was recorded of the leader before was another thread.
            self._forget(tid)
            if tid != self.process.pid:
                self._forget(self.process.pid)
            return
        if status is None:
            return
        try:
            self._take_in(tid, status)
        except MemoryError:
            self._taken[tid] = status  # the kernel tells of it once
            raise

    def _take_in(self, tid: int, status: int) -> None:
        if status >> 16 == ptrace.PTRACE_EVENT_STOP:
            self._record(tid, os.WSTOPSIG(status))
        elif not os.WIFSTOPPED(status):
            self._forget(tid)
        else:
            # A signal came first.  It goes on to the program, and the stop is still to come:
            # asked for again, as any stop takes back an interrupt that came just before it
            # (kernel/signal.c, ptrace_stop), and taking a timer's signal leaves room for one
            # (dequeue_signal lets go of siglock).
            self._interrupted.add(tid)
            with contextlib.suppress(ProcessLookupError):
                ptrace.interrupt(tid)
                ptrace.resume(tid, os.WSTOPSIG(status))

    def _forget(self, tid: int) -> None:
        self._running.discard(tid)
        self._stopped.pop(tid, None)

    def _record(self, tid: int, stop_signal: int) -> None:
        """Record one thread in its stop.  A thread that is killed meanwhile is forgotten."""
        try:
            if not self._stopped:  # until then it may turn into another, by execve(2)
                self._registers.learn_machine(tid)
            record = self._registers.record(tid, stop_signal)
        except ProcessLookupError:
            return  # killed: its wait status is on the way
        except ProcessError:
            # It has stopped, and will not say so again: it is let go like the others.
            self._running.discard(tid)
            self._stopped[tid] = ThreadRecord(tid)
            raise
        self._running.discard(tid)
        self._stopped[tid] = record

    # Holding and letting go.

    def _hold(self) -> None:
        while not self._release.is_set():
            wait4.await_status()
            if self._release.is_set():
                return
            before = len(self._stopped), len(self._running)
            self._look_at_running()  # they may stop yet, or die by themselves
            if wait4.has_status():
                self._look_for_deaths()
            if not self._stopped and not self._running:
                if not self.progress.is_dead:  # none had stopped
                    self._die()
                return
            if self.progress.is_dead or (len(self._stopped), len(self._running)) == before:
                time.sleep(_DEATH_NAP)

    def _look_at_running(self) -> None:
        for tid in tuple(self._running):
            self._look_at(tid)

    def _is_ending(self, tid: int) -> bool:
        try:
            return os.waitid(os.P_PID, tid, _PEEK) is not None
        except ChildProcessError:
            return True

    def _look_for_deaths(self) -> None:
        for tid in tuple(self._stopped):
            if not self.progress.is_dead and self._is_ending(tid):
                self._die()
            self._look_at(tid)

    def _die(self) -> None:
        self.progress.die()
        self._on_end()

    def _let_go_for_certain(self) -> None:
        """Let go; a thread that is not looked at for want of memory would see our EINTR."""
        for _ in range(_MOST_TRIES):
            try:
                self._let_go()
            except MemoryError:
                time.sleep(tuning.now().last_look / _MOST_TRIES)
            else:
                return
        # What is left is let go by the kernel, when this OS thread ends.

    def _let_go(self) -> None:
        """Detach every thread as soon as it has stopped.

        A thread that has been interrupted and not been looked at may have left its system call
        with an EINTR that is ours: it is not let go before that is repaired.
        """
        self.progress.end()
        self._detach_stopped()
        self.progress.released_at = time.monotonic()
        nap = _SHORTEST_NAP
        deadline = time.monotonic() + min(self._stop_timeout, tuning.now().last_look)
        while self._running & self._interrupted and self._successor is None:
            before = len(self._running)
            for tid in tuple(self._running):
                try:
                    self._look_at(tid)
                except OSError:  # FOREIGN: told already
                    self._running.discard(tid)
            self._detach_stopped()
            if len(self._running) < before:
                nap = _SHORTEST_NAP
                continue
            if time.monotonic() > deadline:
                if not self._may_wait():
                    break
                wait4.await_status()
            time.sleep(nap)
            nap = min(nap * 2, _LONGEST_NAP)

    def _leave(self) -> "Tracer | None":
        """Be done.  Returns who takes over, with the threads that have not stopped yet."""
        LATE.leave(self)
        successor, self._successor = self._successor, None
        if successor is not None:
            successor._running |= self._running
            successor._interrupted |= self._running & self._interrupted
        self._running.clear()
        return successor

    def _may_wait(self) -> bool:
        """True where there are threads to be waited for by this OS thread alone (late.py)."""
        pid = self.process.pid
        if not any(may_stop(pid, tid) for tid in self._running & self._interrupted):
            return False
        if not self._is_late:
            self._is_late = LATE.enter(self)
            self.records = []
            self._is_free.set()
        return self._is_late

    def _detach_stopped(self) -> None:
        for tid in self._stopped:
            try:
                ptrace.detach(tid)
            except ProcessLookupError:
                # Killed.  A leader that is dead says so only when all others are reaped
                # (kernel/exit.c, delay_group_leader), and so is this one.
                self._running.add(tid)
                self._interrupted.add(tid)
        self._stopped.clear()


def _trace(tracer: Tracer | None) -> None:
    """What the OS thread does: one stop, and those that take over from it."""
    wait4.hear_bell()
    while tracer is not None:
        tracer = tracer._run()


_PEEK_BY_ANY_THREAD = os.WEXITED | os.WNOHANG | os.WNOWAIT | wait4.WALL
_PEEK = _PEEK_BY_ANY_THREAD | wait4.WNOTHREAD
