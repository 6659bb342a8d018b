"""Collects the Evidence for a core from a process that stands still.

This happens once, after the last thread has stopped, and through a thread that is alive
(kernel/proc/tasks.py says why): /proc/TID exists for every thread, although /proc does not list it.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from gcorefs.elfcore.notes import FILE_NOTE_LIMIT, ProcessIds, ProcessInfo, Thread
from gcorefs.elfcore.provenance import How
from gcorefs.gather_memory import Unwound, gather_memory, unknown_holes
from gcorefs.kernel.proc import (
    address_space,
    system_files,
    task_stat,
    task_status,
    user_namespaces,
)
from gcorefs.plan import Evidence, ThreadEvidence
from gcorefs.policy import Policy, Unresponsive
from gcorefs.process.bounded_questions import ask_each
from gcorefs.process.errors import Reason, told
from gcorefs.process.memory import Memory
from gcorefs.process.page_providers import MayWait, NotBrought
from gcorefs.sources.judging import judged_records
from gcorefs.sources.procfs import ProcRegisters
from gcorefs.sources.protocols import RegisterSource
from gcorefs.sources.sleeping import SleepingFromProc
from gcorefs.sources.thread_record import ThreadRecord
from gcorefs.standstill import Standstill

_MICROSECONDS_PER_TICK = 1_000_000 // task_stat.TICKS
_ARGUMENT_BYTES = 79  # ELF_PRARGSZ - 1
_TIMES_AT_ONCE = 100

Times = Callable[[Sequence[int]], Sequence[tuple[int, ...]]]
"""Takes thread ids and gives their CPU times, in ticks (task_stat.task_times)."""


def gather(seen: Standstill, policy: Policy) -> Evidence:
    """The evidence for a core with `policy`.  ProcessLookupError: the process died meanwhile."""
    status = task_status.status(seen.process.pid, seen.tid)
    mask = address_space.coredump_filter(seen.tid)
    pids = _own_pids(status, "NStgid")
    auxv = address_space.read_mm(seen.tid, "auxv")
    late = _late_threads(seen, policy.unresponsive, len(pids))
    gone = {each.tid for each in seen.late} - late.keys()
    records = [
        late[each.tid].record if each.tid in late else each
        for each in seen.records
        if each.tid not in gone
    ]
    if not records:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    memory = gather_memory(seen, policy, mask, Unwound(auxv, records))
    if memory.cut_stacks:
        memory = replace(
            memory, cut_stacks=[_own_tid(seen.pid, tid, len(pids)) for tid in memory.cut_stacks]
        )
    return Evidence(
        origin=seen.origin,
        machine=seen.machine,
        info=_info(seen, status, pids),
        threads=_threads(seen, records, late, len(pids)),
        memory=memory,
        auxv=auxv,
        file_note_limit=system_files.file_note_limit() or FILE_NOTE_LIMIT,
        circumstances={"coredump_filter": f"{mask:#x}", **unknown_holes(seen.memory.ways)},
    )


# Threads.


@dataclass(frozen=True, slots=True)
class _LateThread:
    """A thread that did not stop, as a core has it.  It may be gone later, so all that /proc tells
    of it is read now."""

    record: ThreadRecord
    own_tid: int
    times: tuple[int, ...]


def _late_threads(
    seen: Standstill, unresponsive: Unresponsive, depth: int
) -> dict[int, _LateThread]:
    """The threads that did not stop and have not ended meanwhile, by id.  `depth`: how many pid
    namespaces, from ours down, have a number for this process."""
    found = {}
    for each in seen.late:
        with contextlib.suppress(ProcessLookupError):
            record = _of_late(seen, each, unresponsive)
            own_tid = _own_tid(seen.pid, each.tid, depth)
            found[each.tid] = _LateThread(record, own_tid, _times(seen, [each.tid])[0])
    return found


def _threads(
    seen: Standstill,
    all_records: Sequence[ThreadRecord],
    late: Mapping[int, _LateThread],
    depth: int,
) -> ThreadEvidence:
    records = [each for each in all_records if each.how is not How.OMITTED]
    return ThreadEvidence(
        threads=_Threads(seen, records, late, depth),
        registers=[record.registers for record in records],
        signal=records[0].signal,
        stopped=sum(each.how is How.STOPPED for each in records),
        others={
            each.own_tid: each.record.how
            for each in late.values()
            if each.record.how is not How.STOPPED
        },
        no_cpu=[each.own_tid for each in late.values() if each.record.is_starved],
        xstate=seen.xstate,
    )


class _Threads:
    """The threads of some records, each made on demand."""

    def __init__(
        self,
        seen: Standstill,
        records: Sequence[ThreadRecord],
        late: Mapping[int, _LateThread],
        depth: int,
    ) -> None:
        self._pid = seen.process.pid
        self._records = records
        self._late = late
        self._depth = depth
        # A thread that did not stop may be gone later.  Then all times are read now.
        tids = [record.tid for record in records if record.tid not in late]
        known = {tid: each.times for tid, each in late.items()}
        if late:
            known |= zip(tids, _times_now(seen, tids), strict=True)
            self._times: Times = lambda some: [known[tid] for tid in some]
        else:
            self._times = partial(_times_now, seen)

    def __getitem__(self, part: slice, /) -> Sequence[Thread]:
        records = self._records[part]
        with told(self._pid, Reason.DIED):
            tids = [self._own_tid(record.tid) for record in records]
        # Last, because it raises if the process no longer stands still.
        times = self._times([record.tid for record in records])
        return [
            Thread(
                tid=tid,
                registers=record.registers,
                signal=record.signal,
                pending=record.pending,
                blocked=record.blocked,
                times=_in_microseconds(own_times),
            )
            for tid, record, own_times in zip(tids, records, times, strict=True)
        ]

    def _own_tid(self, tid: int) -> int:
        late = self._late.get(tid)
        return _own_tid(self._pid, tid, self._depth) if late is None else late.own_tid


def _times_now(seen: Standstill, tids: Sequence[int]) -> Sequence[tuple[int, ...]]:
    """The CPU times of these threads.  EIO: the process does not stand still any more."""
    with told(seen.pid, Reason.DIED):
        return _times(seen, tids)


def _times(seen: Standstill, tids: Sequence[int]) -> Sequence[tuple[int, ...]]:
    """The same.  ESRCH: one of them has ended."""
    found: list[tuple[int, ...]] = []
    # A few at a time, so that the work ends soon after the last reader has gone.
    for start in range(0, len(tids), _TIMES_AT_ONCE):
        found += task_stat.task_times(seen.pid, tids[start : start + _TIMES_AT_ONCE])
        seen.check()
    return found


@lru_cache  # most of many threads have equal times and share one tuple
def _in_microseconds(ticks: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(count * _MICROSECONDS_PER_TICK for count in ticks)


def _of_late(seen: Standstill, late: ThreadRecord, unresponsive: Unresponsive) -> ThreadRecord:
    """The record of a thread that did not stop, as this core has it."""
    if late.how is not How.ZERO:  # it was not to stop, or not for long
        return late
    if unresponsive == "omit":
        return replace(late, how=How.OMITTED)
    if unresponsive != "partial":
        return late
    if seen.judge is None:
        source: RegisterSource = ProcRegisters(seen.pid, seen.machine)
        found = source.record(late.tid)
    else:
        threads = SleepingFromProc(seen.pid, seen.machine)
        (found,) = judged_records(threads, [late.tid], seen.judge)
    return replace(late, how=found.how, registers=found.registers)


# The process.

_PF_FREEZER_SKIP = 0x40000000
"""Before Linux 6.1 the stop itself sets it (kernel/signal.c, ptrace_stop)."""


def _info(seen: Standstill, status: dict[str, bytes], pids: list[int]) -> ProcessInfo:
    tid = seen.tid
    leader = task_stat.stat(seen.pid)
    living = leader if tid == seen.pid else task_stat.stat(tid)  # that of the dead has no memory
    length = min(living.argument_end - living.argument_start, _ARGUMENT_BYTES)
    return ProcessInfo(
        pid=pids[-1],
        ids=ProcessIds(
            ppid=_own_parent(leader.ppid, len(pids)),
            pgrp=_own_pids(status, "NSpgid")[-1],
            sid=_own_pids(status, "NSsid")[-1],
        ),
        state=seen.before.state,
        nice=leader.nice,
        flags=leader.flags & ~_PF_FREEZER_SKIP,
        uid=user_namespaces.own_id(tid, "uid", int(status["Uid"].split()[0])),
        gid=user_namespaces.own_id(tid, "gid", int(status["Gid"].split()[0])),
        comm=leader.comm,
        arguments=_arguments(seen.memory, living.argument_start, length) if length > 0 else b"",
    )


def _own_tid(pid: int, tid: int, depth: int) -> int:
    return tid if depth == 1 else _own_pids(task_status.status(pid, tid), "NSpid")[-1]


def _arguments(memory: Memory, address: int, length: int) -> bytes:
    """The argument area.  It may lie in a mapped file that does not answer; then b""."""
    try:
        return _read(memory, address, length, may_wait=False)
    except MayWait as wait:
        question = wait.source, partial(_read, memory, address, length)
    with contextlib.suppress(MayWait, NotBrought):
        return ask_each([question], lambda _: b"")[0]
    return b""


def _read(memory: Memory, address: int, length: int, may_wait: bool) -> bytes:
    return memory.read_bytes(address, length, None if may_wait else ())


def _own_pids(status: dict[str, bytes], key: str) -> list[int]:
    """The numbers of one id in each pid namespace, from ours down to the process's own."""
    return [int(word) for word in status[key].split()]


def _own_parent(ppid: int, depth: int) -> int:
    """The number of the parent in a pid namespace `depth` levels down.

    0 if the parent is outside that namespace, or if /proc does not show it.
    """
    if depth == 1 or ppid == 0:
        return ppid
    try:
        pids = _own_pids(task_status.status(ppid), "NSpid")
    except (ProcessLookupError, PermissionError):
        return 0
    return pids[depth - 1] if len(pids) >= depth else 0
