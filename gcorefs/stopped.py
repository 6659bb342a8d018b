"""One process that stands still, and its cores.

`Stop.take` stops every thread and has it recorded; `Stop.core` makes a core of what is there,
once or with several policies; `Stop.let_go` lets the process run on.  No FUSE and no event loop
here, so that the command line and every test have the same core without a mount.  All calls
block; `let_go` and `close` may come from any thread, at any time.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime

from gcorefs import __version__
from gcorefs.core import Core
from gcorefs.elfcore.pieces import Shelf
from gcorefs.elfcore.provenance import Origin
from gcorefs.gather import Standstill, gather
from gcorefs.holder import Holder, HoldProcess
from gcorefs.kernel.proc import address_space, task_stat
from gcorefs.kernel.proc.task_stat import Process, Stat
from gcorefs.lifecycle import Lifecycle, Phase
from gcorefs.plan import plan_core, plan_loads
from gcorefs.policy import DEFAULT, Policy
from gcorefs.process import access, mappings
from gcorefs.process.absent import Absent
from gcorefs.process.access import Opener
from gcorefs.process.admission import refuse_early
from gcorefs.process.copy_on_write import CopyOnWrite
from gcorefs.process.errors import ProcessError, Reason, told
from gcorefs.process.later import Postponed, Worker
from gcorefs.process.lost import Lost
from gcorefs.process.mem import MemFile
from gcorefs.process.memory import Memory, Ways
from gcorefs.process.pagemap import open_pagemap
from gcorefs.process.record import Record
from gcorefs.process.shared import Shared
from gcorefs.process.tracer import Tracer
from gcorefs.process.turns import LINE, Turn

TAKE_TIMEOUT = 20.0
"""Seconds, beyond its stop_timeout, that whoever takes a stop should wait for it.  /proc
may never answer, where a thread that does not stop holds a lock of the process."""

CLOSE_TIMEOUT = 5.0
"""Seconds that whoever closes a stop should wait until nobody is traced any more."""

MANY_THREADS = 100
"""From so many on, what they have used is asked for when the header is there already."""


class Stop:
    """A process that stands still from `take` to `let_go`."""

    def __init__(
        self,
        process: Process,
        opener: Opener | None = None,
        policy: Policy = DEFAULT,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        """`opener`: who is judged (None: ourselves).  `on_end` is called in the tracer's thread,
        where the process dies while it is held, or nobody is to join for another reason."""
        self.process = process
        self.opener = opener
        self.life = Lifecycle()
        self.comm = b""
        """The name of its program, once it is stopped."""
        self.ready_seconds = 0.0
        """From the first interrupt until the header of its first core was built."""
        self._policy = policy
        self._on_end = on_end or _nothing
        self._tracer = Tracer(process, policy.stop_timeout, self._end, policy.xstate)
        self._seen: Standstill | None = None
        self._cores: list[Core] = []
        self._lock = threading.Lock()

    def take(self, prepare: Callable[[int], None] = lambda pid: None) -> None:
        """Stop every thread, and record it.  At most once.

        `prepare` is called with the pid before the stop begins, when it is known that nothing
        speaks against it.  ProcessError, with everything let go, where the process cannot be
        stopped.
        """
        try:
            with LINE.begun():
                refuse_early(self.process, self.opener)
                with told(self.process.pid, Reason.DIED):
                    self._take(prepare)
        except BaseException:
            self.close()
            raise

    def _take(self, prepare: Callable[[int], None]) -> None:
        process = self.process
        before = task_stat.stat(process.pid)
        self.comm = before.comm
        prepare(process.pid)
        with self._lock:
            if not self.life.advance(Phase.STOPPING):
                raise ProcessError(Reason.LET_GO, process.pid)
            self._tracer.start()
        records = self._tracer.wait()
        stop_seconds = time.monotonic() - self._tracer.stopped_at
        self._refuse_unresponsive(records, self._policy)
        tid = next((record.tid for record in records if record.general), records[0].tid)
        # Opened before the door is asked again: should a thread that did not stop exec
        # between the two, then this is the old program's memory, and gone.
        mem = MemFile(process.pid, tid)
        if task_stat.stat(process.pid).start_time != process.start_time:
            raise ProcessError(Reason.GONE, process.pid)
        if self.opener is not None:
            access.check(self.opener, process.pid)
        seen = self._look(mem, before, records, stop_seconds)
        with self._lock:  # or what is closed meanwhile has memory again
            if not self.life.advance(Phase.HELD):
                self.check()
            self._seen = seen

    def _look(
        self, mem: MemFile, before: Stat, records: Sequence[Record], stop_seconds: float
    ) -> Standstill:
        """What is mapped, and which way each page of it is read."""
        tid, is_partial = mem.tid, not all(record.general for record in records)
        pagemap = open_pagemap(tid)
        if address_space.has_few_runs(tid):
            pagemap.look_ahead()
        vmas = mappings.mappings(tid)
        others = [vma for vma in vmas if not vma.kind.is_plain]
        ways = Ways(
            Shared(tid, others),
            Absent(tid, others, pagemap),
            CopyOnWrite(vmas, pagemap),
            pagemap,
            only_pinned=is_partial,
        )
        lost = Lost([range(vma.start, vma.end) for vma in others if vma.is_special])
        return Standstill(
            process=self.process,
            tid=tid,
            origin=self._origin(stop_seconds),
            machine=self._tracer.machine,
            xstate=self._tracer.xstate,
            before=before,
            records=records,
            memory=Memory(mem, ways, lost, self.check),
            vmas=vmas,
            check=self.check,
        )

    def _refuse_unresponsive(self, records: Sequence[Record], policy: Policy) -> None:
        """EBUSY where a policy rules out threads that did not stop."""
        pid, late = self.process.pid, [each for each in records if not each.general]
        if late and policy.unresponsive == "fail":
            starved = [each.tid for each in late if each.is_starved]
            which = f"thread {starved[0]} gets no CPU" if starved else f"thread {late[0].tid}"
            raise ProcessError(Reason.UNRESPONSIVE, pid, which)
        if len(late) == len(records) and policy.unresponsive == "omit":
            raise ProcessError(Reason.UNRESPONSIVE, pid, "none of its threads stopped")

    def _origin(self, stop_seconds: float) -> Origin:
        stopped_at = time.time() - (time.monotonic() - self._tracer.stopped_at)
        return Origin(
            version=__version__,
            host=os.uname().nodename,
            pid=self.process.pid,
            stopped_at=datetime.fromtimestamp(stopped_at, UTC).isoformat(timespec="milliseconds"),
            stop_milliseconds=stop_seconds * 1e3,
        )

    def core(self, policy: Policy | None = None, holder: Holder | None = None) -> Core:
        """A core of the process, with the policy of the stop or another.

        `holder`: how its memory outlives the stop, by default as long as that lasts.
        ProcessError where it cannot be had: the process stands still all the same, for other cores.
        """
        policy, holder = policy or self._policy, holder or HoldProcess()
        if policy.xstate != self._policy.xstate:
            raise ValueError("vector registers are recorded in one layout for all cores of a stop")
        try:
            with LINE.begun(), told(self.process.pid, Reason.DIED):
                return self._core(policy, holder)
        except BaseException:
            holder.close()
            raise

    def _core(self, policy: Policy, holder: Holder) -> Core:
        seen = self._seen
        if seen is None:
            raise ProcessError(Reason.LET_GO, self.process.pid)
        self._refuse_unresponsive(seen.records, policy)
        evidence = gather(seen, policy)
        load_plan = plan_loads(evidence, LINE.paced)
        holder.fit(load_plan.size)
        LINE.give_way()
        # What a thread has used takes the kernel 8 us to tell, as long as all else that is recorded
        # of it, and does not change while the thread stands.  One that did not stop may be gone
        # later.
        is_later = len(evidence.threads.regsets) >= MANY_THREADS and not seen.late
        later = Postponed() if is_later else None
        shelf = Shelf(later.promise) if later is not None else None
        plan = plan_core(evidence, load_plan, policy, holder.facts(), shelf, LINE.paced)
        core = Core(self.process.pid, plan, seen.memory, holder, self.check, _begin(later))
        seen.memory.check_pinned()
        with self._lock:
            self.check()
            self._cores.append(core)
        if not self.ready_seconds:
            self.ready_seconds = time.monotonic() - self._tracer.stopped_at
        return core

    def check(self) -> None:
        """Raise where memory is no longer that of the stop.  EIO."""
        if self.life.is_dead:
            raise ProcessError(Reason.DIED, self.process.pid)
        if not self.life.stands_still or self._tracer.is_over:
            raise ProcessError(Reason.LET_GO, self.process.pid)

    def _end(self) -> None:
        """In the tracer's thread, before a process that died is reaped: until then its pid is
        nobody else's."""
        if self._tracer.dead:
            self.life.advance(Phase.DIED)
        self._on_end()

    # What became of it.

    @property
    def records(self) -> Sequence[Record]:
        """What was recorded of each thread, as found, in the order of the notes; nothing before
        that, nor when it was forgotten."""
        return self._seen.records if self._seen is not None else ()

    @property
    def late(self) -> Sequence[int]:
        """Threads that are traced still when all others have been let go: they were interrupted,
        have not stopped yet, and are let go when they have."""
        return self._tracer.late

    def wait_late(self, timeout: float) -> bool:
        """Block until there is none in `late`, or for `timeout` seconds: then False."""
        return self._tracer.join_late(timeout)

    @property
    def is_dead(self) -> bool:
        """True once the process has died while it was held."""
        return self.life.is_dead

    @property
    def stopped_seconds(self) -> float:
        """How long the process stood still, or has stood still until now."""
        if not self._tracer.stopped_at:
            return 0.0
        return (self._tracer.released_at or time.monotonic()) - self._tracer.stopped_at

    # Its end.

    def copy(self, core: Core) -> bool:
        """Copy the memory of a core, where that is wanted.  True where the process may run on, as
        all that its cores have of memory is copied: `run_on` lets it.

        Where it cannot be had at once the process is held: `Core.not_copied` says why.  Reads are
        answered all the while.  ProcessError: it died, or was let go.
        """
        core.fill()
        are_filled = all(each.holder.was_filled for each in self._cores)
        return are_filled and self.life.advance(Phase.COPIED)

    def run_on(self) -> None:
        """Let every thread run on.  What is copied stays to be read."""
        self.life.advance(Phase.COPIED)
        self._tracer.release()

    def wait_untraced(self) -> None:
        """Block until a process that was let go runs on, and no thread of it is traced."""
        self._tracer.join()

    def let_go(self) -> None:
        """Let every thread run on.  What was made of a header stays readable; memory, and what
        was still to be made, are EIO from here on."""
        with self._lock:
            self.life.advance(Phase.LET_GO)
            for core in self._cores:
                core.drop()
        self._tracer.release()

    def forget(self) -> None:
        """Drop what was recorded, where nobody is to read it."""
        self._seen = None
        self._cores = []

    def close(self) -> None:
        """Let go, and wait until nobody is traced any more but those in `late`."""
        self.let_go()
        for core in self._cores:
            core.close()
        self._tracer.join()
        self.life.advance(Phase.ENDED)
        # What refers to it, and is referred to.
        self.forget()
        self._on_end = _nothing


def _nothing() -> None:
    pass


def _begin(later: Postponed | None) -> "Future[None] | None":
    """Have what is left of a header made in a thread of its own."""
    if later is None:
        return None
    with contextlib.closing(Worker("gcorefs-notes")) as worker:
        return worker.submit(_finish, later, LINE.mine)


def _finish(later: Postponed, turn: Turn | None) -> None:
    with LINE.part_of(turn):
        later.do()
