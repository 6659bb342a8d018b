"""Threads that sleep in a system call, and their registers without waking them.

From BPF all registers of such a thread are known.  From /proc only those of its call are.  In both
cases the thread has a mark, which changes if it runs.  So two looks with the same mark have seen
the same registers.
"""

import contextlib
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from gcorefs.arch.machine import Machine, RegisterKind
from gcorefs.arch.x86_saved import SavedThread, UnknownRegisters
from gcorefs.arch.xsave import XsaveAccount
from gcorefs.elfcore.provenance import How
from gcorefs.elfcore.registers import RegisterStore, xstate_sets
from gcorefs.kernel.proc import task_stat, task_status
from gcorefs.policy import Bpf, XState
from gcorefs.sources.bpf.registers import RegistersProgram
from gcorefs.sources.bpf_choice import registers_program
from gcorefs.sources.procfs import ProcRegisters
from gcorefs.sources.thread_record import ThreadRecord, kept_xstates

_ASLEEP = (b"S", b"D", b"T", b"t", b"I")
_SWITCHES = "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"
_LOOKS = 5
_NAP = 1e-3
"""A thread that works a little and then sleeps again is seen asleep in one of a few looks."""


@dataclass(frozen=True, slots=True)
class Sleeper:
    record: ThreadRecord
    mark: object


class Sleeping(Protocol):
    """What is known of the threads of one process without a stop."""

    machine: Machine

    def sleepers(self, tids: Collection[int]) -> Mapping[int, Sleeper]:
        """Those of these threads that sleep in a call now: BLOCKED or PARTIAL."""

    def marks(self, tids: Collection[int]) -> Mapping[int, object]:
        """Their marks."""

    def records(self, tids: Collection[int]) -> list[ThreadRecord]:
        """The best record of each of these threads that still exists.  ZERO: nothing is known."""

    def xstate_account(self, records: Iterable[ThreadRecord]) -> XsaveAccount | None:
        """The place of the vector registers in these records; None if there are none."""


def sleeping(pid: int, machine: Machine, bpf: Bpf, xstate: XState) -> Sleeping:
    program = registers_program(bpf)
    from_proc = SleepingFromProc(pid, machine)
    if program is None or machine.saved_sets is None:
        return from_proc
    return SleepingFromBpf(pid, machine, program, xstate, from_proc)


class SleepingFromProc:
    """The number, the arguments, the stack pointer and the program counter of the call."""

    def __init__(self, pid: int, machine: Machine) -> None:
        self.machine = machine
        self._pid = pid
        self._registers = ProcRegisters(pid, machine)

    def sleepers(self, tids: Collection[int]) -> Mapping[int, Sleeper]:
        found = {}
        for tid in tids:
            with contextlib.suppress(OSError):
                mark = self._mark(tid)
                record = self._registers.record(tid)
                if mark is not None and self._is_in_call(record) and self._mark(tid) == mark:
                    found[tid] = Sleeper(record, mark)
        return found

    def marks(self, tids: Collection[int]) -> Mapping[int, object]:
        found = {}
        for tid in tids:
            with contextlib.suppress(OSError):
                found[tid] = self._mark(tid)
        return found

    def records(self, tids: Collection[int]) -> list[ThreadRecord]:
        found = []
        for tid in tids:
            with contextlib.suppress(ProcessLookupError):
                found.append(self._registers.record(tid))
        return found

    def xstate_account(self, records: Iterable[ThreadRecord]) -> XsaveAccount | None:
        del records
        return None

    def _mark(self, tid: int) -> tuple[object, ...] | None:
        """None if the thread does not sleep.  OSError."""
        status = task_status.status(self._pid, tid)
        if status["State"][:1] not in _ASLEEP:
            return None
        return (*map(status.get, _SWITCHES), task_stat.run_time(self._pid, tid))

    def _is_in_call(self, record: ThreadRecord) -> bool:
        if record.how is not How.PARTIAL:
            return False
        return self.machine.word(record.registers.general, self.machine.call_number) >= 0


class SleepingFromBpf:
    """All registers."""

    def __init__(
        self,
        pid: int,
        machine: Machine,
        program: RegistersProgram,
        xstate: XState,
        otherwise: SleepingFromProc,
    ) -> None:
        """`otherwise`: for a thread of which BPF does not tell all."""
        self.machine = machine
        self._pid = pid
        self._program = program
        self._otherwise = otherwise
        self._xstates = None if machine.xstates is None else machine.xstates(xstate == "raw")
        self._store = RegisterStore()

    def sleepers(self, tids: Collection[int]) -> Mapping[int, Sleeper]:
        found = {}
        threads = self._threads()
        for tid in tids:
            thread = threads.get(tid)
            if thread is not None and thread.is_left_asleep:
                record = self._exact(thread) or next(
                    iter(self._otherwise.records([tid])), ThreadRecord(tid)
                )
                if record.how is not How.ZERO:
                    found[tid] = Sleeper(record, thread.mark)
        return found

    def marks(self, tids: Collection[int]) -> Mapping[int, object]:
        threads = self._threads()
        return {
            tid: threads[tid].mark for tid in tids if tid in threads and threads[tid].is_left_asleep
        }

    def records(self, tids: Collection[int]) -> list[ThreadRecord]:
        found: dict[int, ThreadRecord] = {}
        threads: Mapping[int, SavedThread] = {}
        for look in range(_LOOKS):
            if look:
                time.sleep(_NAP)
            threads = self._threads()
            for tid in tids:
                if tid not in found and tid in threads and (record := self._exact(threads[tid])):
                    found[tid] = record
            if len(found) == len(tids):
                break
        for tid in tids:
            if tid not in found and tid in threads and not threads[tid].is_left_asleep:
                with contextlib.suppress(UnknownRegisters):
                    found[tid] = self._record(threads[tid], How.STALE)
        rest = self._otherwise.records([tid for tid in tids if tid not in found])
        return [*found.values(), *rest]

    def xstate_account(self, records: Iterable[ThreadRecord]) -> XsaveAccount | None:
        if self._xstates is None:
            return None
        return self._xstates.account(kept_xstates(records))

    def _threads(self) -> Mapping[int, SavedThread]:
        """Nothing if no descriptor or memory is left for an iterator."""
        try:
            return self._program.threads(self._pid)
        except OSError:
            return {}

    def _exact(self, thread: SavedThread) -> ThreadRecord | None:
        """None if not every register can be told."""
        if thread.is_exact:
            with contextlib.suppress(UnknownRegisters):
                return self._record(thread, How.BLOCKED)
        return None

    def _record(self, thread: SavedThread, how: How) -> ThreadRecord:
        """UnknownRegisters."""
        general, sets = self._program.sets(self.machine, thread)
        found: list[tuple[RegisterKind, bytes]] = []
        for kind, data in sets:
            if kind is RegisterKind.XSTATE and self._xstates is not None:
                found += xstate_sets(self._xstates, data)
            else:
                found.append((kind, data))
        return ThreadRecord(
            thread.tid,
            how,
            self._store.put(general, found),
            thread.blocked,
            thread.pending,
            thread.stop_signal,
        )
