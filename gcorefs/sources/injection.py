"""System calls that a stopped thread of the process makes for us.

The thread stands in the stop of our PTRACE_INTERRUPT.  It gets registers with which it executes one
instruction, the one that calls the kernel, and it stops at the entry into the call and at the exit
from it (ptrace(2), "Syscall-stops").  At the end it goes into a stop as before, and gets its own
registers back there.  That must be a stop of PTRACE_INTERRUPT: only on the way out of one does the
kernel look whether the call in which the thread was is to be made again (arch/x86/kernel/signal.c,
arch_do_signal_or_restart).

If we die before that, the thread runs on with registers that are not its own, and the process
crashes.  So nothing is done in between that could be done before: signals for the thread stay
blocked, no call waits without a limit, and every error leads to `undo`.

A thread that is in a system call is best.  The instruction before its program counter is the one
that called, no critical section of rseq(2) is under way, and a filter of calls has let it through.
"""

import contextlib
import errno
import os
import signal
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from gcorefs.arch.machine import NT_PRSTATUS, Machine
from gcorefs.kernel import ptrace, seccomp, wait4
from gcorefs.kernel.proc import task_stat, task_status
from gcorefs.kernel.proc.procfile import FormatError
from gcorefs.kernel.ptrace import Options

_ALL_SIGNALS = (1 << 64) - 1
_ERESTARTNOINTR = -513
"""include/linux/errno.h: clone(2) found a signal, and is to be called again."""
_MOST_TRIES = 20
_CALL_CAME_BACK = 1 << (signal.SIGSYS - 1)
"""The thread looks as if it were in its call, but the kernel has given the call back to it, and
would do the same with ours (kernel/entry/syscall_user_dispatch.c, trigger_sigsys)."""
_TRACED = Options.TRACESYSGOOD | Options.TRACECLONE | Options.TRACEFORK | Options.TRACEVFORK
_BIRTHS = (ptrace.PTRACE_EVENT_CLONE, ptrace.PTRACE_EVENT_FORK, ptrace.PTRACE_EVENT_VFORK)
_SYSCALL_STOP = 0x80 | 5  # SIGTRAP
_SHORTEST_NAP, _LONGEST_NAP = 20e-6, 500e-6

STEP = 1.0
"""Seconds that one step of a call may take: a thread that does not run is in a frozen cgroup."""


class NotInjected(Exception):
    """The process can make no call for us, or the call has failed; the text says why.  It goes on
    as before."""


class Calls:
    """The calls that we make in a process.  Our program must not end in the middle of one: a thread
    would keep registers that are not its own."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._under_way = 0
        self._are_over = False

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Make a call, or some, in the block.  NotInjected: there are no more."""
        with self._change:
            if self._are_over:
                raise NotInjected("gcorefs ends")
            self._under_way += 1
        try:
            yield
        finally:
            with self._change:
                self._under_way -= 1
                self._change.notify_all()

    def end(self, seconds: float) -> None:
        """Begin no more of them, and wait for the end of those that are under way."""
        with self._change:
            self._are_over = True
            self._change.wait_for(lambda: not self._under_way, seconds)


class Reader(Protocol):
    def read(self, address: int, buffer: memoryview) -> int:
        """Bytes of memory; fewer at the end of what can be read (process/mem.py)."""


class Caller(NamedTuple):
    """A stopped thread, and what it needs to make calls."""

    tid: int
    general: bytes
    """Its own registers, which it gets back."""
    instruction: int
    """The address of an instruction that calls the kernel."""


class Answer(NamedTuple):
    result: int
    """What the call has returned; negative: an errno."""
    child: int
    """The thread that it has made, by our pid namespace; 0: none."""


def find_caller(
    machine: Machine, tids: Iterable[int], memory: Reader, vdso: tuple[int, int]
) -> Caller:
    """The stopped thread that can make calls with the least risk.

    `tids`: threads in the stop of our interrupt.  `vdso`: where [vdso] is, or an empty range.
    NotInjected; ESRCH.
    """
    injected = machine.injected
    if injected is None:
        raise NotInjected("gcorefs cannot make calls in a process of this machine")
    size = len(injected.instruction)
    buffer = ptrace.RegsetBuffer(machine.general_size)
    outside: Caller | None = None
    for tid in tids:
        general = ptrace.get_regset(tid, NT_PRSTATUS, buffer)
        if len(general) != machine.general_size or _word(machine, general, injected.flags) & (
            injected.trap
        ):
            continue  # it runs code of the other word size, or traps at each instruction
        counter = _word(machine, general, machine.program_counter)
        number = machine.word(general, machine.call_number)
        if number < 0:
            outside = outside or Caller(tid, general, 0)
        elif (
            number not in injected.with_other_mask
            and _read(memory, counter - size, size) == injected.instruction
            and not _may_come_back(tid)
        ):
            return Caller(tid, general, counter - size)
    if outside is None:
        raise NotInjected("none of its threads is in a call that can be put off")
    return _caller_in_user_mode(machine, outside, memory, vdso)


def _may_come_back(tid: int) -> bool:
    """True if the kernel may give our call back to a thread that is in a call, or seems to be: it
    asks a word of the process at each call (PR_SET_SYSCALL_USER_DISPATCH)."""
    if ptrace.get_pending(tid) & _CALL_CAME_BACK:
        return True
    try:
        return ptrace.dispatches_calls(tid)
    except OSError as error:
        if error.errno not in (errno.EIO, errno.EINVAL):
            raise
        return False  # not known


def _caller_in_user_mode(
    machine: Machine, caller: Caller, memory: Reader, vdso: tuple[int, int]
) -> Caller:
    injected = machine.injected
    assert injected is not None
    try:
        if ptrace.dispatches_calls(caller.tid):
            raise NotInjected("its threads get their calls back (PR_SET_SYSCALL_USER_DISPATCH)")
        rseq = ptrace.get_rseq(caller.tid)
    except OSError as error:
        if error.errno not in (errno.EIO, errno.EINVAL):
            raise
        raise NotInjected("none of its threads is in a system call") from error
    code = _read(memory, vdso[0], vdso[1] - vdso[0])
    if (at := code.find(injected.instruction)) < 0:
        raise NotInjected("no instruction in [vdso] calls the kernel")
    general = caller.general
    if rseq and (abort := _abort_of(machine, general, rseq, memory)):
        general = machine.with_words(general, {machine.program_counter: abort})
    return Caller(caller.tid, general, vdso[0] + at)


def _abort_of(machine: Machine, general: bytes, rseq: int, memory: Reader) -> int:
    """Where the thread goes on, if its critical section is under way (struct rseq and rseq_cs,
    include/uapi/linux/rseq.h); else 0.

    The kernel would send it there itself, but it forgets the section as soon as the thread leaves
    it for our call (kernel/rseq.c, rseq_ip_fixup)."""
    pointer = _read(memory, rseq + 8, 8)
    section = _read(memory, int.from_bytes(pointer, "little"), 32) if any(pointer) else b""
    if len(section) < 32:
        return 0
    _, _, start, length, abort = struct.unpack("<IIQQQ", section)
    counter = _word(machine, general, machine.program_counter)
    return int(abort) if start <= counter < start + length else 0


class Injection:
    """Calls that one thread makes.  The OS thread that traces it makes every call here."""

    def __init__(self, machine: Machine, caller: Caller) -> None:
        """NotInjected: a filter of seccomp(2) would judge the calls.  ESRCH."""
        if machine.injected is None:
            raise NotInjected("gcorefs cannot make calls in a process of this machine")
        self._injected = machine.injected
        self._machine = machine
        self._caller = caller
        self._mask = ptrace.get_signal_mask(caller.tid)
        self._buffer = ptrace.RegsetBuffer(machine.general_size)
        self._is_to_stop = False
        self._is_changed = False
        self.options = _TRACED
        if seccomp.has_seccomp(caller.tid):
            self.options |= Options.SUSPEND_SECCOMP

    def begin(self) -> None:
        """Call `undo` after this, whatever happens."""
        try:
            ptrace.set_options(self._caller.tid, self.options)
        except PermissionError as error:
            raise NotInjected("its threads have a filter of system calls (seccomp)") from error
        self._is_changed = True
        ptrace.set_signal_mask(self._caller.tid, _ALL_SIGNALS)

    def call(self, name: str, *arguments: int) -> Answer:
        """Let the thread make a call.  NotInjected, ESRCH."""
        return self.call_in(self._caller.tid, name, *arguments)

    def call_in(self, tid: int, name: str, *arguments: int, seconds: float = STEP) -> Answer:
        """The same in a child of the thread, which is stopped.  The call may take `seconds`."""
        for _ in range(_MOST_TRIES):
            answer = self._call(tid, name, arguments, seconds)
            if answer.result != _ERESTARTNOINTR:
                return answer
        raise NotInjected(f"{name}: signals come again and again")

    def _call(self, tid: int, name: str, arguments: tuple[int, ...], seconds: float) -> Answer:
        machine, general = self._machine, self._caller.general
        number = self._injected.numbers[name]
        # Outside of a call, for the kernel, until it makes this one: nothing is made again.
        words = {machine.program_counter: self._caller.instruction, machine.call_number: -1}
        words[machine.call_result] = number
        for index, register in enumerate(machine.call_arguments):
            words[register] = arguments[index] if index < len(arguments) else 0
        ptrace.set_regset(tid, NT_PRSTATUS, machine.with_words(general, words))
        if self._step(tid, STEP):
            raise NotInjected(f"{name}: the thread did not enter the call")
        child = 0
        if self._step(tid, seconds):
            child = ptrace.get_event_message(tid)
            self._step(tid, STEP)
        after = ptrace.get_regset(tid, NT_PRSTATUS, self._buffer)
        return Answer(machine.word(after, machine.call_result), child)

    def _step(self, tid: int, seconds: float) -> bool:
        """To the next stop at the border of a call, or at a birth: then True."""
        deadline = time.monotonic() + seconds
        while True:
            ptrace.resume_to_call(tid)
            status = await_stop(tid, seconds)
            if status is None:
                self._pull_back(tid)
            elif not os.WIFSTOPPED(status):
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
            elif status >> 16 in _BIRTHS:
                return True
            elif status >> 8 == _SYSCALL_STOP:
                return False
            elif not status >> 16:
                self._swallow(status)
                if time.monotonic() > deadline:
                    raise NotInjected("signals come again and again")

    def _swallow(self, status: int) -> None:
        """SIGSTOP alone cannot be blocked.  NotInjected: the kernel has forced another signal on
        the thread, which does not make our call."""
        number = os.WSTOPSIG(status)
        if number != signal.SIGSTOP:
            raise NotInjected(f"the call ended with signal {number}")
        self._is_to_stop = True

    def _pull_back(self, tid: int) -> None:
        ptrace.interrupt(tid)
        if await_stop(tid, STEP) is None:
            raise NotInjected("a thread does not run, and does not stop either")
        raise NotInjected("its threads do not run: is its cgroup frozen?")

    def undo(self) -> None:
        """Let the thread stand in its stop as before, with its own registers and signal mask."""
        if not self._is_changed:
            return
        self._is_changed = False
        tid = self._caller.tid
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # it was killed
            ptrace.interrupt(tid)
            while True:
                with contextlib.suppress(ProcessLookupError):  # it runs, and is about to stop
                    ptrace.resume(tid, 0)
                status = await_stop(tid, STEP)
                if status is None:
                    ptrace.interrupt(tid)
                elif not os.WIFSTOPPED(status) or status >> 16 == ptrace.PTRACE_EVENT_STOP:
                    break
                elif status >> 8 == signal.SIGSTOP:
                    self._is_to_stop = True
            ptrace.set_regset(tid, NT_PRSTATUS, self._caller.general)
            ptrace.set_signal_mask(tid, self._mask)
            ptrace.set_options(tid, Options.NONE)

    def stop_again(self, pid: int) -> None:
        """Send the process a SIGSTOP that came meanwhile, after `undo`.  A pending SIGCONT came
        later, because a later SIGSTOP removes it (kernel/signal.c, prepare_signal)."""
        if not self._is_to_stop:
            return
        status = task_status.status(pid)
        pending = int(status["SigPnd"], 16) | int(status["ShdPnd"], 16)
        if not pending & 1 << (signal.SIGCONT - 1):
            os.kill(pid, signal.SIGSTOP)


def await_stop(tid: int, seconds: float) -> int | None:
    """The next wait status of a tracee of this OS thread; None: it has none in time.  ECHILD.

    ESRCH if the tracee has died and the kernel does not report that, because it is the leader of
    other threads that are not reaped (kernel/exit.c, delay_group_leader).
    """
    deadline = time.monotonic() + seconds
    nap = _SHORTEST_NAP
    while (status := wait4.poll_status(tid)) is None:
        if nap == _LONGEST_NAP:
            # Another thread of ours may have waited for it.
            missed = ptrace.get_stop(tid)
            is_dead = missed is None and _is_known_dead(tid)
            if missed is not None or is_dead:
                # If that was so only now, the kernel has just reported it to us.
                status = wait4.poll_status(tid) or missed
                if status is None:
                    raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
                return status
        if time.monotonic() > deadline:
            return None
        time.sleep(nap)
        nap = min(nap * 1.3, _LONGEST_NAP)
    return status


def _is_known_dead(tid: int) -> bool:
    """False also if nobody can tell: an `undo` that fails would leave our registers behind.
    ESRCH."""
    try:
        return task_stat.stat(tid, tid).is_dead
    except ProcessLookupError:
        raise
    except (OSError, FormatError, MemoryError):
        return False


def _word(machine: Machine, general: bytes, name: str) -> int:
    return machine.word(general, name) & machine.most


def _read(memory: Reader, address: int, length: int) -> bytes:
    buffer = bytearray(max(0, length))
    count = memory.read(address, memoryview(buffer)) if buffer and address > 0 else 0
    return bytes(buffer[:count])
