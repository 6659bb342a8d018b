"""Records a thread in its stop: its registers, its signals.

The tracer's own thread makes every call (sources/tracer.py).
"""

import errno
import signal
from collections.abc import Iterable
from functools import partial

from gcorefs.arch import HOST, MACHINES, machine_of
from gcorefs.arch.machine import NT_PRSTATUS, Machine, RegisterKind, Regset, Sets
from gcorefs.arch.xsave import XsaveAccount
from gcorefs.elfcore.provenance import How
from gcorefs.elfcore.registers import RegisterStore, xstate_sets
from gcorefs.kernel import ptrace, seccomp
from gcorefs.kernel.proc import address_space
from gcorefs.policy import DEFAULT, XState
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.worker_threads import Worker
from gcorefs.sources import restart
from gcorefs.sources.call_again import CallAgain
from gcorefs.sources.thread_record import ThreadRecord, kept_xstates

_LARGEST_REGSET = max(each.size for machine in MACHINES.values() for each in machine.regsets)


class PtraceRegisters:
    """A RegisterSource of threads that are in a stop of ptrace(2)."""

    def __init__(self, pid: int, xstate: XState = DEFAULT.xstate) -> None:
        self.machine: Machine = HOST.native
        """The kind of process, after `learn_machine`."""
        self._pid = pid
        self._is_raw = xstate == "raw"
        rewind = HOST.native.rewind
        self._again = None if rewind is None else CallAgain(pid, HOST.native, rewind)
        self._use(self.machine)
        self._packer = Worker("gcorefs-packer")
        self._store = RegisterStore(self._packer.promise)
        self._buffer = ptrace.RegsetBuffer(_LARGEST_REGSET)

    def close(self) -> None:
        """There are no more threads to record for now."""
        self._packer.close()

    def xstate_account(self, records: Iterable[ThreadRecord]) -> XsaveAccount | None:
        """The place of the vector registers in these records; None if that is not known."""
        if self._xstates is None:
            return None
        return self._xstates.account(kept_xstates(records))

    def learn_machine(self, tid: int) -> None:
        """Ask a thread that cannot become another program by execve(2).  FOREIGN, ESRCH."""
        machine = machine_of(address_space.is_32_bit(tid))
        if machine is None:
            raise ProcessError(Reason.FOREIGN, self._pid)
        self._use(machine)

    def _use(self, machine: Machine) -> None:
        """Keep the facts about the machine that are needed again and again."""
        self.machine = machine
        self._xstates = None if machine.xstates is None else machine.xstates(self._is_raw)
        self._regsets = list(machine.regsets)
        self._general_size = machine.general_size
        word = machine.word_size
        at = machine.offset(machine.call_result)
        self._result = slice(at, at + word)
        suspects = restart.SUSPECT_RESULTS if machine.rewind is None else ()
        self._suspects = {number.to_bytes(word, "little", signed=True) for number in suspects}

    def look(self, tid: int) -> None:
        """Look at a thread that is about to be interrupted."""
        if self._again is not None:
            self._again.look(tid)

    def before_detach(self, tid: int) -> None:
        """Prepare a recorded thread to be let go now.  ESRCH."""
        if self._again is not None:
            self._again.before_detach(tid)

    def record(self, tid: int, stop_signal: int = signal.SIGTRAP) -> ThreadRecord:
        """Record one thread, and prepare it to go on as if it had not been stopped.

        `stop_signal`: the signal in its wait status.  FOREIGN, ESRCH.
        """
        general = ptrace.get_regset(tid, NT_PRSTATUS, self._buffer)
        has_other_view = len(general) != self._general_size
        if has_other_view:
            general = self._registers_of_other_view(tid)
        signal_number = 0
        if stop_signal != signal.SIGTRAP:
            signal_number = stop_signal
        elif general[self._result] in self._suspects and restart.needs_restart(
            self.machine,
            general,
            partial(ptrace.get_call_architecture, tid),
            partial(seccomp.has_seccomp, tid),
        ):
            # The record keeps the register as it was found.
            self._write_result(tid, restart.restarting_result(self.machine, general))
        record = ThreadRecord(
            tid,
            How.STOPPED,
            self._store.put(general, self._sets(tid, has_other_view)),
            ptrace.get_signal_mask(tid),
            ptrace.get_pending(tid),
            signal_number,
        )
        if self._again is not None and not signal_number:
            self._again.send(tid, general)
        return record

    def _write_result(self, tid: int, value: int) -> None:
        """Write the result of the system call that a thread has left."""
        offset = self.machine.result_in_user
        if offset is None:
            raise ProcessError(Reason.FOREIGN, self._pid)
        ptrace.poke_user(tid, offset, value)
        restart.tell_repaired(self._pid)

    def _sets(self, tid: int, has_other_view: bool) -> Sets:
        """Every set that a core has for a thread, except the general registers."""
        found: list[tuple[RegisterKind, bytes]] = []
        for regset in tuple(self._regsets):
            data = self._regset(tid, regset, has_other_view)
            if not data:
                continue
            if self._xstates is not None and regset.kind is RegisterKind.XSTATE:
                found += xstate_sets(self._xstates, data)
            else:
                found.append((regset.kind, data))
        return found

    def _regset(self, tid: int, regset: Regset, has_other_view: bool) -> bytes:
        """One set as the core has it; empty if the core does not have it."""
        try:
            if has_other_view and regset.kind is RegisterKind.FLOATING_POINT:
                data = ptrace.get_float_registers(tid, regset.size, self._buffer)
            else:
                data = ptrace.get_regset(tid, regset.note, self._buffer)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            if not has_other_view:  # this kernel has no such set
                self._regsets.remove(regset)
            return b""
        if regset.is_variable:
            data = regset.cut(data)
        return data if regset.is_active is None or regset.is_active(data) else b""

    def _registers_of_other_view(self, tid: int) -> bytes:
        """The registers of a thread whose code segment does not fit its process.

        32-bit code in a 64-bit process still has 64-bit registers, and the kernel's core has those.
        In the opposite case no registers would fit.
        """
        if not self.machine.has_getregs or address_space.is_32_bit(tid):
            raise ProcessError(Reason.FOREIGN, self._pid)
        return ptrace.get_registers(tid, self._general_size, self._buffer)
