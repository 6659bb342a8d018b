"""A process that stands still, and the means to read more from it."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

from gcorefs import __version__, tuning
from gcorefs.arch.machine import Machine
from gcorefs.arch.xsave import XsaveAccount
from gcorefs.elfcore.filter import MAPPED_SHARED
from gcorefs.elfcore.memory_choice import MemoryChoice
from gcorefs.elfcore.provenance import How, Origin
from gcorefs.elfcore.vma import VDSO, Vma
from gcorefs.kernel.proc import address_space
from gcorefs.kernel.proc.task_stat import Process, Stat
from gcorefs.policy import Policy
from gcorefs.process.child_memory import ChildMemory
from gcorefs.process.copy_on_write import CopyOnWrite
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.forkable import Forkable, forkable
from gcorefs.process.mem import MemFile
from gcorefs.process.memory import Memory, Ways
from gcorefs.process.page_providers import PageProviders
from gcorefs.process.pagemap import Pagemap
from gcorefs.process.shmem import Shmem
from gcorefs.process.tracking import Tracking, track
from gcorefs.process.unreadable_pages import UnreadablePages
from gcorefs.process.walks import PopulatedBefore, walk_beside_mappings, walk_beside_smaps
from gcorefs.sources.bpf_choice import source, uses_bpf
from gcorefs.sources.forking import Parent
from gcorefs.sources.judging import Judge
from gcorefs.sources.onlooker import Onlooker
from gcorefs.sources.thread_record import ThreadRecord
from gcorefs.sources.tracer import Tracer
from gcorefs.steps import Step


@dataclass(frozen=True, slots=True)
class Recorded:
    """A process whose threads are recorded."""

    process: Process
    machine: Machine
    xstate: XsaveAccount | None
    before: Stat
    """The leader's stat before the stop: what the leader was doing then."""
    records: Sequence[ThreadRecord]
    """The record of each thread, in the order of the notes."""
    late: Sequence[ThreadRecord]
    """Of these, the threads that did not stop."""
    stopped_at: float
    """When the first thread was interrupted, by time.monotonic()."""
    stop_seconds: float
    """The time from then until all were recorded."""

    @property
    def tid(self) -> int:
        """A live thread of the process: all files of /proc are read through it."""
        stopped = (each.tid for each in self.records if each.how is How.STOPPED)
        return next(stopped, self.records[0].tid)

    def refuse_unresponsive(self, policy: Policy) -> None:
        """EBUSY if the policy does not accept the threads that did not stop."""
        pid = self.process.pid
        late = [each for each in self.late if each.how is How.ZERO]
        if policy.stop == "none":
            return
        if late and policy.unresponsive == "fail":
            starved = [each.tid for each in late if each.is_starved]
            which = f"thread {starved[0]} gets no CPU" if starved else f"thread {late[0].tid}"
            raise ProcessError(Reason.UNRESPONSIVE, pid, which)
        if len(late) == len(self.records) and policy.unresponsive == "omit":
            raise ProcessError(Reason.UNRESPONSIVE, pid, "none of its threads stopped")

    def origin(self) -> Origin:
        stopped_at = time.time() - (time.monotonic() - self.stopped_at)
        return Origin(
            version=__version__,
            host=os.uname().nodename,
            pid=self.process.pid,
            stopped_at=datetime.fromtimestamp(stopped_at, UTC).isoformat(timespec="milliseconds"),
            stop_milliseconds=self.stop_seconds * 1e3,
        )


def record(tracer: Tracer | Onlooker, before: Stat, policy: Policy) -> Recorded:
    """Wait until `tracer`, which has begun, has recorded all threads.  ProcessError.

    `before`: the leader's stat before that.
    """
    records = tracer.wait()
    stopped_at = tracer.progress.stopped_at
    stop_seconds = time.monotonic() - stopped_at
    is_each = policy.stop == "each"
    late = [each for each in records if is_each or each.how is not How.STOPPED]
    return Recorded(
        tracer.process,
        tracer.machine,
        tracer.xstate,
        before,
        records,
        late,
        stopped_at,
        stop_seconds,
    )


@dataclass(frozen=True, slots=True)
class Standstill:
    """A process that stands still, and the means to read more from it."""

    recorded: Recorded
    tid: int
    origin: Origin
    memory: Memory
    vmas: Sequence[Vma]
    check: Callable[[], None]
    """Raises EIO if the process does not stand still any more."""
    judge: Judge | None = None
    """For what is read of a thread that does not stand still."""

    @property
    def process(self) -> Process:
        return self.recorded.process

    @property
    def pid(self) -> int:
        return self.recorded.process.pid

    @property
    def machine(self) -> Machine:
        return self.recorded.machine

    @property
    def xstate(self) -> XsaveAccount | None:
        return self.recorded.xstate

    @property
    def before(self) -> Stat:
        return self.recorded.before

    @property
    def records(self) -> Sequence[ThreadRecord]:
        return self.recorded.records

    @property
    def late(self) -> Sequence[ThreadRecord]:
        return self.recorded.late

    def parent(self) -> Parent:
        """What a thread of the process needs to make calls for us.  Job control has stopped some of
        them, and those make none."""
        vdso = next(((vma.start, vma.end) for vma in self.vmas if vma.name == VDSO), (0, 0))
        tids = [each.tid for each in self.records if each.how is How.STOPPED and not each.signal]
        return Parent(self.pid, self.machine, tids, vdso)


class Opened(NamedTuple):
    """What is open of the memory of a process that stands still."""

    mem: MemFile
    pagemap: Pagemap
    populated: PopulatedBefore | None
    """What was populated before the stop, if anybody has looked."""


def look_at(
    recorded: Recorded,
    opened: Opened,
    policy: Policy,
    check: Callable[[], None],
    fork: Callable[[], ChildMemory],
    judge: Judge | None,
) -> Standstill:
    """Find out what is mapped, and how each page of it is read.

    `check` and `fork` are those of Memory.  OSError, ProcessError.
    """
    mem, pagemap, _ = opened
    tid = mem.tid
    is_small = policy.choice.rule.is_small
    walk = partial(_walk, opened, policy)
    if not recorded.late:
        walk()
    vmas = source(tid, policy.bpf).mappings()
    if recorded.late:  # such a thread may have mapped something that an earlier walk would not have
        walk()
    tuning.now().reach(Step.SMAPS, mem.pid)
    others = [vma for vma in vmas if not vma.kind.is_plain]
    ways = Ways(
        Shmem(tid, others, partial(_takes_shared_files, tid, policy.choice), not is_small),
        PageProviders(tid, others, pagemap),
        CopyOnWrite(vmas, pagemap),
        pagemap,
        only_pinned=bool(recorded.late) or policy.is_read_live,
        forkable=forkable(vmas) if policy.hold == "fork" else Forkable(),
        tracking=_tracking(tid, vmas, policy, has_late=bool(recorded.late)),
    )
    lost = UnreadablePages([range(vma.start, vma.end) for vma in others if vma.is_special])
    memory = Memory(mem, ways, lost, check, fork)
    return Standstill(recorded, tid, recorded.origin(), memory, vmas, check, judge)


def _walk(opened: Opened, policy: Policy) -> None:
    """Begin to find out which pages are populated."""
    mem, pagemap, populated = opened
    if policy.choice.rule.is_small:
        return  # few pages are asked for, each by its address
    if uses_bpf(policy.bpf):
        walk_beside_mappings(pagemap, mem.tid, populated)
    else:
        walk_beside_smaps(pagemap, mem.tid)


def _takes_shared_files(tid: int, choice: MemoryChoice) -> bool:
    mask = choice.rule.mask(address_space.coredump_filter(tid))
    return bool(mask & MAPPED_SHARED) or not choice.is_rule_alone


def _tracking(tid: int, vmas: Sequence[Vma], policy: Policy, has_late: bool) -> Tracking:
    if policy.hold != "precopy":
        return Tracking("the stop began without hold=precopy")
    if has_late:
        return Tracking("a thread does not stand still, and may write at any time")
    return track(vmas, policy.choice, address_space.coredump_filter(tid))
