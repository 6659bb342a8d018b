"""Stops the threads of one process: seizes them, interrupts them, and waits until they stop.

First every thread is seized, which stops none of them.  Then every thread is interrupted, and we
wait for the stops.  Threads may be born meanwhile, so all this is repeated until a pass over
/proc/PID/task finds no new one.

We leave a process alone that writes its own core.  An interrupt would end the thread's write to the
pipe of core_pattern (fs/pipe.c, pipe_write), and that core would be cut off.  If a signal makes a
seized thread crash, the thread first stops for its tracer, and we see that.  Only a kill by
seccomp(2) asks no tracer (kernel/signal.c, get_signal, SA_IMMUTABLE).  So we ask the process
whether it dumps core after the seize, again between interrupts, and while a thread does not stop.
"""

import threading
import time
from collections.abc import Collection, Iterable

from gcorefs import tuning
from gcorefs.kernel import wait4
from gcorefs.kernel.proc import task_status
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.late import Starved
from gcorefs.process.progress import Progress
from gcorefs.sources.asleep import Asleep, LookAsleep
from gcorefs.sources.judging import Judge
from gcorefs.sources.seizing import Seizing
from gcorefs.sources.thread_record import ThreadRecord, in_reading_order
from gcorefs.sources.tracees import LONGEST_NAP, SHORTEST_NAP, Tracees
from gcorefs.steps import Step

_QUESTION = 0.1
"""Seconds after which we ask again, while a thread does not stop, whether the process dumps core
and which threads get no CPU, and interrupt it again."""

_STARVED_TIMES = 4
_STARVED_SECONDS = 4.0
"""How much longer a thread may take to stop if it gets no CPU, while the others stand still: so
many times stop_timeout, but at most so many seconds, in all."""

_MOST_TIMES = 10
"""stop=each: after so many times stop_timeout no more threads are stopped."""

_PIECE = 50
"""We interrupt so many threads before we ask again whether the process dumps core."""

_MOST_BIRTHS = 3
"""How often we look for newborn threads between the interrupts and the stops."""

_MOST_GENERATIONS = 10
"""stop=gentle: in so many passes threads are found that were born since the last.  Then those that
sleep are stopped too: they wake, and start others faster than we look, and what has stopped starts
none."""


class Stopping:
    """The way of one process to its stop."""

    def __init__(
        self,
        seizing: Seizing,
        tracees: Tracees,
        progress: Progress,
        stop_timeout: float,
        is_given_up: threading.Event,
        look_asleep: LookAsleep | None = None,
    ) -> None:
        """`is_given_up`: ends the wait for threads that do not stop.  `look_asleep`: threads that
        sleep are left asleep (stop=gentle)."""
        self._seizing = seizing
        self._tracees = tracees
        self._progress = progress
        self._stop_timeout = stop_timeout
        self._is_given_up = is_given_up
        self._starved = Starved(tracees.pid)
        self._asleep = None if look_asleep is None else Asleep(tracees, look_asleep, progress)
        self._patience = min(_STARVED_TIMES * stop_timeout, _STARVED_SECONDS)  # the rest of it

    @property
    def asleep(self) -> Asleep | None:
        """The threads that are left asleep; None if none are."""
        return self._asleep

    def stop_all(self, judge: Judge | None) -> list[ThreadRecord]:
        """Stop every thread.  The records of all threads, in reading order.

        `judge` is asked where a thread may still call execve(2).  ProcessError: its, and GONE,
        TRACED, HELD, DUMPING, DENIED, FOREIGN, LET_GO.
        """
        try:
            self._stop_all(judge)
        except ProcessLookupError as error:
            raise ProcessError(Reason.GONE, self._tracees.pid) from error
        records = self._in_order(self._tracees.records)
        tuning.now().reach(Step.RECORDED_ALL, self._tracees.pid)
        return records

    def stop_each(self, judge: Judge | None) -> list[ThreadRecord]:
        """Record one thread after the other, and let each go before the next.  The records of all
        threads, in reading order; those of threads that do not stop are still awaited.

        `judge` is asked about each.  ProcessError: as `stop_all`.
        """
        try:
            records = self._stop_each(judge)
        except ProcessLookupError as error:
            raise ProcessError(Reason.GONE, self._tracees.pid) from error
        found = self._in_order(records.values())
        if not found:
            raise ProcessError(Reason.GONE, self._tracees.pid)
        self._progress.released_at = time.monotonic()
        return found

    def _in_order(self, recorded: Iterable[ThreadRecord]) -> list[ThreadRecord]:
        """These, those that were left asleep, and those that did not stop."""
        asleep = [each.record for each in self._tracees.asleep.values()]
        late = [
            ThreadRecord(tid, is_starved=tid in self._starved.tids) for tid in self._tracees.running
        ]
        return in_reading_order([*recorded, *asleep, *late], self._tracees.pid)

    def _stop_each(self, judge: Judge | None) -> dict[int, ThreadRecord]:
        records: dict[int, ThreadRecord] = {}
        deadline = time.monotonic() + _MOST_TIMES * self._stop_timeout
        while newcomers := [tid for tid in self._seizing.newcomers() if tid not in records]:
            for tid in newcomers:
                if time.monotonic() > deadline:
                    return {each: ThreadRecord(each) for each in newcomers} | records
                self._seizing.seize([tid])
                self._seizing.refuse_another()
                if tid in self._tracees.running:
                    self._interrupt([tid])
                    self._wait_for_stops(tid)
                    if judge is not None:
                        judge([tid])
                        self._tracees.look_at(tid)  # it is gone if there was an execve before that
                records |= {each.tid: each for each in self._tracees.records}
                self._tracees.detach_stopped()
                self._refuse_given_up()
        return records

    def _stop_all(self, judge: Judge | None) -> None:
        pid = self._tracees.pid
        newcomers = self._seizing.newcomers()
        is_first = True  # the tracees of an earlier stop may still run
        births = 0
        while is_first or newcomers or not self._is_settled(judge):
            newcomers = newcomers or self._seizing.newcomers()
            births += bool(newcomers)
            self._seizing.seize(newcomers)
            newcomers, is_first = [], False
            self._seizing.refuse_another()
            tuning.now().reach(Step.SEIZED_ALL, pid)
            if self._asleep is not None:
                if births > _MOST_GENERATIONS:
                    self._asleep.end()
                self._asleep.leave()
            self._interrupt(self._tracees.running)
            if self._asleep is None:
                self._interrupt_newborn()
            tuning.now().reach(Step.INTERRUPTED_ALL, pid)
            self._wait_for_stops()
            self._refuse_given_up()
        if not self._tracees.known:
            raise ProcessError(Reason.GONE, pid)
        self._tracees.learn_machine()

    def _interrupt_newborn(self) -> None:
        """Interrupt also what was born meanwhile, before we look at the stops of the others,
        which takes longer.  Until a thread is seized, the kernel may wake it for a signal to one
        that stands still (Tracees.detach_stopped), and it would see an EINTR."""
        for _ in range(_MOST_BIRTHS):
            if not self._seizing.any_newborn:
                return
            newborn = self._seizing.newcomers()
            self._seizing.seize(newborn)
            running = self._tracees.running
            self._interrupt([tid for tid in newborn if tid in running])

    def _refuse_given_up(self) -> None:
        if self._is_given_up.is_set():
            raise ProcessError(Reason.LET_GO, self._tracees.pid)

    def _is_settled(self, judge: Judge | None) -> bool:
        """True if we know every thread of the process and every record still holds.

        The leader's record does not hold if execve(2) has put another thread in its place.  The
        kernel does not report that, so we always look at the leader.  We do so only after we have
        counted the threads: if the execve comes after the look, there is one thread too many.
        """
        tracees, seizing = self._tracees, self._seizing
        recorded, _ = tracees.counts
        are_all = seizing.are_all()
        if not are_all and seizing.newcomers():
            return False
        if not are_all or seizing.has_reaped or wait4.has_status():
            seizing.forget_reaped()
            tracees.look_at_stopped()
        elif tracees.has_stopped(tracees.pid):
            tracees.look_at(tracees.pid)
        if recorded != tracees.counts[0] or not (seizing.are_all() or not seizing.newcomers()):
            return False
        if judge is not None and (self._asleep is not None or tracees.counts[1]):
            # Whoever calls execve(2) kills those that have stopped, and the program that comes
            # next may be another one that the opener may see.  So the program is judged between
            # the records and a look that finds nobody gone.
            judge(tracees.known)
            tracees.look_at_running()
            tracees.look_at_stopped()
            if recorded != tracees.counts[0]:
                return False
        # Last: if none of them has run since it was recorded, there is a moment between at which
        # every record was true.
        return self._asleep is None or self._asleep.are_unchanged()

    # Interrupting, and waiting for the stops.

    def _interrupt(self, tids: Collection[int]) -> None:
        self._refuse_while_it_dumps()
        if not self._progress.stopped_at:
            self._progress.stopped_at = time.monotonic()
        for count, tid in enumerate(tids, 1):
            if count % _PIECE == 0:
                self._refuse_while_it_dumps()
            self._tracees.interrupt(tid)

    def _refuse_while_it_dumps(self) -> None:
        if task_status.is_dumping_core(self._tracees.pid):
            raise ProcessError(Reason.DUMPING, self._tracees.pid)

    def _wait_for_stops(self, tid: int | None = None) -> None:
        """Wait until every tracee, or this one, has stopped or is gone, or until none does for
        stop_timeout.

        Time does not count in which one of the tracees gets no CPU, as long as `_patience` lasts.
        """
        nap = SHORTEST_NAP
        deadline = time.monotonic() + self._stop_timeout
        next_question = 0.0
        while (running := self._tracees.counts[1]) and not self._is_given_up.is_set():
            if tid is not None and tid not in self._tracees.running:
                return
            self._tracees.look_at_running(are_overdue=nap == LONGEST_NAP)
            if self._tracees.counts[1] < running:
                nap = SHORTEST_NAP
                deadline = time.monotonic() + self._stop_timeout
                continue
            if time.monotonic() > deadline:
                deadline += self._seconds_starved()
                # One look does not tell who gets no CPU, and on a busy machine the time may be over
                # before the second one.
                if time.monotonic() > deadline and self._starved.has_compared:
                    return
            time.sleep(nap)
            nap = min(nap * 2, LONGEST_NAP)
            if nap == LONGEST_NAP:
                if time.monotonic() > next_question:
                    self._refuse_while_it_dumps()
                    self._tracees.interrupt_again()
                    deadline += self._seconds_starved()
                    next_question = time.monotonic() + _QUESTION
                self._seizing.leave_out_dead_leader()
                # If one thread calls execve(2), it kills the others and waits until they are reaped
                # (fs/exec.c, de_thread).  They may have stopped already, or be left asleep.
                self._tracees.look_at_stopped()
                self._tracees.look_at_asleep()

    def _seconds_starved(self) -> float:
        """Seconds since the last call, if one of those that run got no CPU meanwhile; else 0.0."""
        seconds = min(self._starved.seconds(sorted(self._tracees.running)), self._patience)
        self._patience -= seconds
        return seconds
