"""Interrupted system calls on a machine whose kernel decides on the restart before the stop.

restart.py says which calls return a plain -EINTR after a stop, and why.  On x86 one register brings
the kernel to run such a call again.  On aarch64 the kernel reads the result before it stops the
thread, and never again (arch/arm64/kernel/signal.c, do_signal): whatever we write then is what the
program sees.  So we send the thread back to its call ourselves: the program counter goes back to
the instruction of the call, and the first argument back to its register, where the result is now.
If we die, the thread makes the call.

If a signal handler is to run when the thread goes on, the call must end with the EINTR that is due.
The kernel does not see to that, as it does for a call that it restarts itself.  So we look for such
a signal just before we let the thread go, and give it back the registers with which it left the
call.  If a signal comes later than this look, or after we died, its handler runs in front of the
call.

The thread cannot be held in front of its call (PTRACE_SYSCALL), where the kernel would see the
signal: if a tracer detaches from there, or dies, the kernel makes the call fail with EINTR at once
(kernel/ptrace.c, __ptrace_unlink, ptrace_signal_wake_up).  For the same reason nothing is done
about -ERESTART_RESTARTBLOCK: by the time of the stop it is a call of restart_syscall(2)
(restart.py).

Outside of a call a register may have the value -EINTR by chance, or because a signal handler has
just returned to the instruction behind a call that ended with EINTR.  The kernel does not tell
whether a stopped thread comes out of a call: it has forgotten the number (NT_ARM_SYSTEM_CALL is
-1).  So we look at the thread before we interrupt it:

- It sleeps in a call, and the stop finds the same arguments, stack and program counter: the EINTR
  is ours.
- It sleeps in no call, for example in a frozen cgroup: the EINTR is not ours.
- It runs, or the stop finds another call than we saw.  Then the program counter must be behind the
  instruction of a call, and no signal handler may have returned to there: the frame of the handler
  would still be below the stack pointer, with these registers in it (struct rt_sigframe).  A
  handler on a stack of its own (sigaltstack(2)) is not found.
"""

from typing import NamedTuple

from gcorefs.arch.machine import NT_PRSTATUS, Machine, Rewind
from gcorefs.arch.page import PAGE_SIZE
from gcorefs.kernel import ptrace
from gcorefs.kernel.proc import address_space, current_call, task_status
from gcorefs.sources import restart

_NO_CALL = -1
_LARGEST_FRAME = 96 << 10
"""Bytes from the registers in the frame of a signal handler to its end: all vector registers of SVE
and SME are there (arch/arm64/kernel/signal.c, setup_sigframe_layout)."""


class _Call(NamedTuple):
    """A row of /proc/TID/syscall."""

    number: int
    arguments: list[int]
    stack_pointer: int
    program_counter: int


class CallAgain:
    """Sends the threads of one process back to their calls.  The tracer's own thread asks."""

    def __init__(self, pid: int, machine: Machine, rewind: Rewind) -> None:
        self._pid = pid
        self._machine = machine
        self._rewind = rewind
        self._seen: dict[int, _Call | None] = {}
        self._found: dict[int, bytes] = {}

    def look(self, tid: int) -> None:
        """Look at a thread that is about to be interrupted."""
        try:
            call = current_call.system_call(self._pid, tid)
        except OSError:
            call = None
        self._seen[tid] = None if call is None else _Call(*call)

    def send(self, tid: int, general: bytes) -> None:
        """Send a stopped thread with these registers back to its call, if it would see the stop.

        ESRCH.
        """
        changed = self._before_the_call(tid, general)
        self._seen.pop(tid, None)
        if changed is not None:
            ptrace.set_regset(tid, NT_PRSTATUS, changed)
            self._found[tid] = general
            restart.tell_repaired(self._pid)

    def before_detach(self, tid: int) -> None:
        """Let a call end, if a handler is to run when its thread goes on.  ESRCH."""
        found = self._found.pop(tid, None)
        if found is not None and _has_signal_to_handle(self._pid, tid):
            ptrace.set_regset(tid, NT_PRSTATUS, found)

    # The registers in front of the call.

    def _before_the_call(self, tid: int, general: bytes) -> bytes | None:
        """The registers with which the thread goes to its call; None if it needs no repair."""
        machine = self._machine
        if restart.needs_restart(
            machine, general, lambda: ptrace.get_call_architecture(tid), lambda: False
        ):
            first = self._first_argument(tid, general)
            if first is None:
                return None
            at = machine.word(general, machine.program_counter) - len(self._rewind.instruction)
            words = {machine.program_counter: at, machine.call_arguments[0]: first}
            return machine.with_words(general, words)
        return None

    def _first_argument(self, tid: int, general: bytes) -> int | None:
        """The first argument of the call that ended because of our stop; None if none did."""
        machine = self._machine
        seen = self._seen.get(tid)
        if seen is not None and seen.number == _NO_CALL:
            return None
        if seen is not None and self._is_the_same(seen, general):
            return seen.arguments[0]
        pc = machine.word(general, machine.program_counter)
        if (
            self._number(tid) != _NO_CALL
            or not self._is_call(tid, pc - len(self._rewind.instruction))
            or self._has_returned_from_handler(tid, general)
        ):
            return None
        # The kernel has kept it, and shows it for a thread that has a number.
        self._set_number(tid, machine.word(general, machine.call_number))
        try:
            shown = current_call.system_call(self._pid, tid)
        finally:
            self._set_number(tid, _NO_CALL)
        return None if shown is None else shown[1][0]

    def _is_the_same(self, seen: _Call, general: bytes) -> bool:
        machine = self._machine
        names = (*machine.call_arguments[1:], machine.stack_pointer, machine.program_counter)
        values = (*seen.arguments[1:], seen.stack_pointer, seen.program_counter)
        return seen.number == machine.word(general, machine.call_number) and all(
            machine.word(general, name) & machine.most == value
            for name, value in zip(names, values, strict=True)
        )

    def _is_call(self, tid: int, address: int) -> bool:
        """True if the instruction that calls the kernel is at `address`."""
        instruction = self._rewind.instruction
        return address_space.memory(tid, address, len(instruction)) == instruction

    def _has_returned_from_handler(self, tid: int, general: bytes) -> bool:
        machine = self._machine
        sp = machine.word(general, machine.stack_pointer) & machine.most
        frame = b""
        start = sp
        while start > 0 and len(frame) < _LARGEST_FRAME:
            end, start = start, (start - 1) // PAGE_SIZE * PAGE_SIZE
            page = address_space.memory(tid, start, end - start)
            if len(page) < end - start:
                break
            frame = page + frame
        return general in frame

    # The number of the call, as the kernel has it.

    def _number(self, tid: int) -> int:
        data = ptrace.get_regset(tid, self._rewind.number_note, self._buffer())
        return int.from_bytes(data, "little", signed=True)

    def _set_number(self, tid: int, number: int) -> None:
        ptrace.set_regset(tid, self._rewind.number_note, number.to_bytes(4, "little", signed=True))

    def _buffer(self) -> ptrace.RegsetBuffer:
        return ptrace.RegsetBuffer(self._machine.general_size)


def _has_signal_to_handle(pid: int, tid: int) -> bool:
    """True if a signal is pending that this thread may take and that has a handler.  ESRCH."""
    status = task_status.status(pid, tid)
    pending, shared, blocked, caught = (
        int(status[name], 16) for name in ("SigPnd", "ShdPnd", "SigBlk", "SigCgt")
    )
    return bool((pending | shared) & ~blocked & caught)
