"""Finds the threads of one process, and seizes those that can be traced.  A seize stops nobody."""

import contextlib
import threading
import time
from math import inf

from gcorefs.kernel import robust_list
from gcorefs.kernel.proc import task_stat, task_status, tasks
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.process.admission import held_by
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.progress import Progress
from gcorefs.sources.tracees import SHORTEST_NAP, Tracees

SEIZE_PATIENCE = 0.01
"""Seconds that a seize may sleep before another thread looks for dead tracees."""

_MOST_REFUSALS = 100
"""An execve(2) can make the kernel refuse a seize once, and a process may call it again and again.
One that does nothing else has the next seize refused as well in three of ten cases."""


class Seizing:
    """All threads of one process, by its task list."""

    def __init__(self, process: Process, tracees: Tracees, progress: Progress) -> None:
        self._process = process
        self._tracees = tracees
        self._progress = progress
        self._left_out: set[int] = set()  # tids in the task list that are not to be traced
        self._seizing_since = inf  # when the seize that is under way began
        self._refusals = 0
        self._has_reaped = False

    # Whom there is.

    def newcomers(self) -> list[int]:
        """The threads that are not seized yet."""
        leader = self._process.pid
        # A dead leader may live again: execve(2) puts the thread that calls it in its place.
        if leader in self._left_out and not task_stat.stat(leader, leader).is_dead:
            self._left_out.discard(leader)
        known = self._tracees.known | self._left_out
        return [tid for tid in tasks.tids(leader) if tid not in known]

    @property
    def any_newborn(self) -> bool:
        """True if the task list is longer than what we know of it."""
        known = len(self._tracees.known) + len(self._left_out)
        return tasks.thread_count(self._process.pid) > known

    def are_all(self) -> bool:
        """True if the process has no thread but those that have stopped or are left asleep.

        A tracee stays in the task list, dead or alive, until we wait for it.  So if the list is not
        longer than that, it has nobody else.  To read the list itself takes longer.
        """
        stopped, running = self._tracees.counts
        is_alone = not running and not self._left_out
        recorded = stopped + len(self._tracees.asleep)
        return is_alone and tasks.thread_count(self._process.pid) == recorded

    def count_newborn(self) -> None:
        """During the hold, count the threads that others have started which were left asleep and
        have woken.

        They are not stopped: the seize would sleep while one of them calls execve(2), which waits
        until the tracees are reaped, and during the hold no other thread of ours does that.
        """
        with contextlib.suppress(ProcessLookupError):
            for tid in self.newcomers():
                self._left_out.add(tid)
                self._progress.woken += 1

    def leave_out_dead_leader(self) -> None:
        """Do not wait for a leader that has ended since its seize: the kernel reports that only
        when all other threads are reaped (kernel/exit.c, delay_group_leader)."""
        leader = self._process.pid
        if leader in self._tracees.running and task_stat.stat(leader, leader).is_dead:
            self._tracees.leave_out(leader)
            self._left_out.add(leader)

    def refuse_another(self) -> None:
        """GONE if the pid changed hands before its threads were seized.  Now no other process can
        get it."""
        if task_stat.stat(self._process.pid).start_time != self._process.start_time:
            raise ProcessError(Reason.GONE, self._process.pid)

    # Seizing.

    def seize(self, tids: list[int]) -> None:
        """Seize these threads, or leave them out.  ProcessError TRACED, HELD, DENIED."""
        any_exiting = False
        for tid in tids:
            self._seizing_since = time.monotonic()
            try:
                if self._is_worker(tid):
                    self._left_out.add(tid)
                    continue
                self._tracees.seize(tid)
            except ProcessLookupError:
                any_exiting = True
            except PermissionError as error:
                self._take_refusal(tid, error)
        self._seizing_since = inf
        if any_exiting:  # these threads leave the task list in a moment
            time.sleep(SHORTEST_NAP)

    def _is_worker(self, tid: int) -> bool:
        """True for a worker of io_uring or vhost, which runs no code of the program.

        ptrace(2) could trace a worker, but a stop makes the request fail in which the worker
        sleeps.  The robust list tells nearly every other thread from a worker without /proc.
        """
        if robust_list.has_robust_list(tid):
            return False
        return task_stat.stat(self._process.pid, tid).is_worker

    def _take_refusal(self, tid: int, error: PermissionError) -> None:
        """Find the reason for an EPERM: raise it if there can be no core for that reason.

        TRACED, HELD, DENIED.
        """
        pid = self._process.pid
        try:
            stat = task_stat.stat(pid, tid)
            holder = int(task_status.status(pid, tid)["TracerPid"])
        except ProcessLookupError:
            return
        if stat.is_dead:  # the kernel refuses a zombie as if somebody else traced it
            self._left_out.add(tid)
        elif holder == threading.get_native_id():  # seized under another tid, before an execve(2)
            self._tracees.recognize(tid)
        elif holder:
            raise held_by(task_status.tracer(pid, tid), pid) from error
        else:
            # It may be a leader that was dead a moment ago and lives again by now.
            self._refusals += 1
            if self._refusals == _MOST_REFUSALS:
                raise ProcessError(Reason.DENIED, pid) from error

    def reap_for_seize(self) -> None:
        """Reap dead tracees if the tracer sleeps in PTRACE_SEIZE.  For another thread of ours.

        A thread that calls execve(2) holds cred_guard_mutex, kills the other threads and waits
        until they are reaped (fs/exec.c, de_thread).  PTRACE_SEIZE waits for that mutex.  If we
        trace some of the killed threads already, the execve waits for us and we wait for it.  But
        every thread of the tracer's process may reap, so the thread that waits for the stop does.
        """
        if time.monotonic() - self._seizing_since > SEIZE_PATIENCE:
            for tid in self._tracees.dead():
                self._has_reaped = True  # first: the tracer may go on as soon as it is reaped
                self._tracees.reap(tid)

    @property
    def has_reaped(self) -> bool:
        """True if `reap_for_seize` has, since `forget_reaped`; we do not know which tracee."""
        return self._has_reaped

    def forget_reaped(self) -> None:
        """All tracees that have stopped are looked at now."""
        self._has_reaped = False
