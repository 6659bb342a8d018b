"""One process that stands still, and its cores.

`Stop.take` stops and records every thread; `Stop.core` makes a core, once or with several
policies; `Stop.let_go` lets the process run on.  This module has no FUSE and no event loop, so
that the command line and every test get the same core without a mount.  All calls block.  Any
thread may call `let_go` and `close` at any time.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from gcorefs import tuning
from gcorefs.assemble import assemble
from gcorefs.core import Core
from gcorefs.forked_child import ForkedChild
from gcorefs.hold.holder import Holder
from gcorefs.hold.uncopied import HoldProcess
from gcorefs.kernel.proc import task_stat
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.lifecycle import Lifecycle, Phase
from gcorefs.policy import DEFAULT, Policy
from gcorefs.process import access
from gcorefs.process.access import Opener
from gcorefs.process.admission import refuse_early
from gcorefs.process.child_memory import ChildMemory
from gcorefs.process.errors import ProcessError, Reason, told
from gcorefs.process.mem import MemFile
from gcorefs.process.memory import Memory
from gcorefs.process.pagemap import open_pagemap
from gcorefs.process.program import Program, program_of
from gcorefs.process.progress import Progress
from gcorefs.process.walks import PopulatedBefore, walk_before_stop
from gcorefs.sources.bpf_choice import uses_bpf
from gcorefs.sources.judging import Judge
from gcorefs.sources.onlooker import Onlooker
from gcorefs.sources.thread_record import ThreadRecord
from gcorefs.sources.tracer import Tracer
from gcorefs.standstill import Opened, Standstill, look_at, record
from gcorefs.steps import Step

CLOSE_TIMEOUT = 5.0
"""Seconds that a caller should wait for `close`, which ends when no thread is traced any more."""


class Stop:
    """A process that stands still from `take` to `let_go`."""

    def __init__(
        self,
        process: Process,
        opener: Opener | None = None,
        policy: Policy = DEFAULT,
        on_end: Callable[[], None] | None = None,
        progress: Progress | None = None,
    ) -> None:
        """`opener`: the credentials that must permit the stop (None: our own).  The tracer's
        thread calls `on_end` if the process dies while it is held, or if nobody may join the stop
        any more for another reason.  `progress`: where the tracer tells how far it is."""
        self.process = process
        self.opener = opener
        self.life = Lifecycle()
        self.comm = b""
        """The name of its program; empty before `take`."""
        self.ready_seconds = 0.0
        """The time from the first interrupt until the header of the first core was made."""
        self.progress = progress or Progress()
        self._policy = policy
        self._on_end = on_end or _nothing
        self._tracer = self._new_tracer()
        self.child = ForkedChild(process, policy, self._tracer, _again)
        """The one that the process makes, if a core is to be in it (hold=fork)."""
        self._seen: Standstill | None = None
        self._cores: list[Core] = []
        self._populated: PopulatedBefore | None = None
        self._program: Program | None = None  # if a thread may still call execve(2)
        self._paused_seconds = 0.0
        self._holders: list[Holder] = []  # of its cores, and of cores that are still to be made
        self._lock = threading.Lock()

    @property
    def _is_glance(self) -> bool:
        """No thread is stopped."""
        return self._policy.stop == "none"

    def _new_tracer(self) -> Tracer | Onlooker:
        policy, judge = self._policy, self._judge
        if self._is_glance:
            return Onlooker(self.process, self.progress, policy.bpf, policy.xstate, judge)
        return Tracer(self.process, policy, self._end, self.progress, judge)

    @property
    def _judge(self) -> Judge | None:
        """None: the opener may see whatever the process executes."""
        if self.opener is None or self.opener.may_trace_all:
            return None
        return partial(access.check, self.opener, self.process.pid)

    def take(self, *holders: Holder) -> None:
        """Stop and record every thread.  Call it at most once.

        `holders` of cores that follow are prepared after all early checks and before the stop.
        ProcessError: the process cannot be stopped, and everything has been let go.
        """
        try:
            refuse_early(self.process, self.opener, is_stopped=not self._is_glance)
            with told(self.process.pid, Reason.DIED):
                self._take(holders)
        except BaseException:
            self.close()
            raise

    def _take(self, holders: Sequence[Holder]) -> None:
        process = self.process
        before = task_stat.stat(process.pid)
        for holder in holders:
            self._prepare(holder)
            for call in holder.pauses(process.pid):
                self._pause(call)
        if uses_bpf(self._policy.bpf) and not self._policy.choice.rule.is_small:
            self._populated = walk_before_stop(process.pid)
        if self._policy.stop in ("each", "none"):  # it runs while its threads are recorded
            self._program = program_of(process.pid)
        with self._lock:
            if not self.life.advance(Phase.STOPPING):
                raise ProcessError(Reason.LET_GO, process.pid)
            self._tracer.start()
        recorded = record(self._tracer, before, self._policy)
        recorded.refuse_unresponsive(self._policy)
        if recorded.late and self._program is None:
            self._program = program_of(process.pid)
        # Open the memory before the access check.  If a thread that did not stop calls execve(2)
        # between the two, the file still means the memory of the old program, which is gone.
        mem = MemFile(process.pid, recorded.tid)
        tuning.now().reach(Step.PINNED, process.pid)
        now = task_stat.stat(process.pid)
        if now.start_time != process.start_time:
            raise ProcessError(Reason.GONE, process.pid)
        self.comm = now.comm
        if self.opener is not None:
            access.check(self.opener, process.pid, [each.tid for each in recorded.records])
        opened = Opened(mem, open_pagemap(recorded.tid), self._populated)
        seen = look_at(recorded, opened, self._policy, self.check, self._fork, self._judge)
        with self._lock:  # else a stop that is closed meanwhile gets memory again
            if not self.life.advance(Phase.HELD):
                self.check()
            self._seen = seen

    def _prepare(self, holder: Holder) -> None:
        with self._lock:  # a stop that is let go meanwhile drops it
            self._holders.append(holder)
        holder.prepare(self.process.pid)

    def _pause(self, call: Callable[[Memory], None]) -> None:
        """Stop the process for one call, before the stop itself."""
        pause = Stop(self.process, self.opener, self._policy)
        try:
            pause.take()
            call(pause.memory)
            pause.check()  # what was seen is true only if the process has stood still all the time
        finally:
            pause.close()
            self._paused_seconds += pause.stopped_seconds
        if self.life.is_let_go:
            raise ProcessError(Reason.LET_GO, self.process.pid)

    def core(self, policy: Policy | None = None, holder: Holder | None = None) -> Core:
        """A core of the process, with the policy of the stop or another.

        `holder`: how its memory outlives the stop (by default it does not).  It is prepared here
        unless `take` has done that.  ProcessError: there is no core, but the process still stands
        still, for other cores.
        """
        policy, holder = policy or self._policy, holder or HoldProcess()
        # The note tells what was done to the threads, and that is the same for all cores of a stop.
        policy = replace(policy, stop=self._policy.stop, stop_timeout=self._policy.stop_timeout)
        if self._is_glance:
            policy = replace(policy, unresponsive="partial")
        if policy.xstate != self._policy.xstate:
            raise ValueError("vector registers are recorded in one layout for all cores of a stop")
        try:
            with told(self.process.pid, Reason.DIED):
                if holder not in self._holders:
                    self._prepare(holder)
                core = self._core(policy, holder)
        except BaseException:
            holder.close()
            raise
        tuning.now().reach(Step.TAKEN, self.process.pid)
        return core

    def _core(self, policy: Policy, holder: Holder) -> Core:
        seen = self.standstill()
        seen.recorded.refuse_unresponsive(policy)
        holder.look(seen.memory)
        core = assemble(seen, policy, holder)
        seen.memory.check_pinned()
        self._check_program()
        with self._lock:
            self.check()
            self._cores.append(core)
        if not self.ready_seconds:
            self.ready_seconds = time.monotonic() - self.progress.stopped_at
        return core

    def _check_program(self) -> None:
        """EIO if what was gathered may be about another program than the one that was judged.

        Where a thread can still call execve(2), that may be a set-uid program.  The open memory
        does not show it if another process shares the memory (clone(2), CLONE_VM).
        """
        if self._program is not None and program_of(self.process.pid) != self._program:
            raise ProcessError(Reason.DIED, self.process.pid)

    def _fork(self) -> ChildMemory:
        pid = self.child.make(self.standstill()).pid
        return ChildMemory(MemFile(pid, pid), self.child.end)

    def standstill(self) -> Standstill:
        """The process, from `take` to `let_go`.  EIO: it died, or was let go."""
        if (seen := self._seen) is None:
            self.check()
            raise ProcessError(Reason.LET_GO, self.process.pid)
        return seen

    def check(self) -> None:
        """EIO if the memory of the process may have changed since the stop, and must not have."""
        if self.life.is_dead:
            raise ProcessError(Reason.DIED, self.process.pid)
        if self._policy.is_read_live and self.life.phase is Phase.COPIED:
            return
        if not self.life.stands_still or self.progress.is_over:
            raise ProcessError(Reason.LET_GO, self.process.pid)

    def _end(self) -> None:
        """Runs in the tracer's thread, before a process that died is reaped: until then no other
        process has its pid."""
        if self.progress.is_dead:
            self.life.advance(Phase.DIED)
        self._on_end()

    # State.

    @property
    def records(self) -> Sequence[ThreadRecord]:
        """The record of each thread, in the order of the notes; empty before `take` and after
        `forget`."""
        return self._seen.records if self._seen is not None else ()

    @property
    def memory(self) -> Memory:
        """The memory of the process, from `take` to `let_go`.  EIO."""
        return self.standstill().memory

    @property
    def late(self) -> Sequence[int]:
        """Threads that are still traced after all others have been let go: they were interrupted
        but have not stopped yet.  Each is let go when it has stopped."""
        return self._tracer.late

    def wait_late(self, timeout: float) -> bool:
        """Block until `late` is empty.  False after `timeout` seconds."""
        return self._tracer.join_late(timeout)

    @property
    def is_dead(self) -> bool:
        """True if the process died while it was held."""
        return self.life.is_dead

    @property
    def woken(self) -> int:
        """How many threads that were left asleep have run since they were recorded."""
        return self.progress.woken

    @property
    def stopped_seconds(self) -> float:
        """How long the process stood still, until its release or until now, pauses included."""
        return self._paused_seconds + self.progress.stopped_seconds

    # The end.

    def copy(self, core: Core) -> bool:
        """Copy the memory of a core, if its policy wants that.

        True if the memory of all cores is copied: the process may run on (`run_on`).  If the memory
        cannot be read at once, the process stays held, and `Core.not_copied` says why.  Reads are
        answered meanwhile.  ProcessError: the process died, or was let go.
        """
        core.fill()
        are_filled = all(each.holder.was_filled for each in self._cores)
        return are_filled and self.life.advance(Phase.COPIED)

    def run_on(self) -> None:
        """Let every thread run on.  Copied memory stays readable."""
        self.life.advance(Phase.COPIED)
        self._tracer.release()

    def wait_untraced(self) -> None:
        """Block until a process that was let go runs and none of its threads is traced."""
        self._tracer.join()

    def let_go(self) -> None:
        """Let every thread run on.  The finished part of a header stays readable; memory, and the
        unfinished part, give EIO from now on."""
        with self._lock:
            self.life.advance(Phase.LET_GO)
            for holder in self._holders:
                holder.drop()
        self._tracer.release()

    def abandon(self) -> None:
        """Let every thread run on, without a wait and without the lock of the stop."""
        self._tracer.release()

    def forget(self) -> None:
        """Drop the records and the cores, when nobody reads them any more."""
        self._seen = None
        self._cores = []

    def close(self) -> None:
        """Let go, and wait until no thread is traced except those in `late`."""
        self.let_go()
        for core in self._cores:
            core.close()
        for holder in self._holders:
            holder.close()
        self._tracer.join()
        self.child.end_unwanted()
        self.life.advance(Phase.ENDED)
        # Break the reference cycles.
        self.forget()
        self._on_end = _nothing


def _nothing() -> None:
    pass


def _again(process: Process, policy: Policy) -> Stop:
    """Another stop of a process that the opener was allowed to stop."""
    return Stop(process, policy=policy)
