"""The registers of a thread on x86-64 as the kernel keeps them while the thread does not run.

sources/bpf/registers.bpf.c copies them from the task_struct.  xsave_saved.py and x86_regsets.py
make register sets of them.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

# struct head, REGISTERS and struct guard of registers.bpf.c
_HEAD = struct.Struct("<4Q 4I 5Q 4H 2Q 24s")
_GUARD = struct.Struct("<4Q")
_REGISTERS = 168
_ORIG_RAX = struct.Struct("<q")
_AT_ORIG_RAX = 15 * 8


_STOPPED, _TRACED, _FROZEN = 0x4, 0x8, 0x8000
"""Bits of __state (include/linux/sched.h)."""
_HELD = _STOPPED | _TRACED | _FROZEN

_JOBCTL_TRAP_FREEZE = 1 << 23
"""include/linux/sched/jobctl.h: the freezer of cgroups version 2 holds the thread."""
_STOP_SIGNAL = 0xFFFF
"""JOBCTL_STOP_SIGMASK, there too."""

_TS_COMPAT = 0x2
"""asm/thread_info.h: the thread is in a call with i386's numbers."""

# Calls that change the registers of the thread and may sleep meanwhile: execve, rt_sigreturn,
# execveat; and in i386's numbers execve, sigreturn, rt_sigreturn, execveat.
_CHANGING = frozenset((59, 15, 322))
_CHANGING_I386 = frozenset((11, 119, 173, 358))


class UnknownRegisters(ValueError):
    """Not every register can be told from what the kernel keeps.  The text says which."""


class Mark(NamedTuple):
    """Two equal marks of a thread: it did not run in between."""

    switches: int
    runtime: int


@dataclass(frozen=True, slots=True)
class SavedThread:
    """What the kernel keeps of one thread."""

    tid: int
    mark: Mark
    is_asleep: bool
    """True if it slept, and stood still while all this was read."""
    is_in_call: bool
    """True if it is in a system call."""
    is_in_change: bool
    """True if that call may change its registers before it returns."""
    is_held: bool
    """True if it is stopped by a signal or a tracer, or frozen."""
    stop_signal: int
    """The signal that stopped it, if one did (signal(7)); else 0."""
    blocked: int
    """The signals that it blocks: bit n - 1 for signal n."""
    pending: int
    """Signals that are pending for this thread alone."""
    pkru: int
    bases: tuple[int, int]
    """Of fs and gs."""
    selectors: tuple[int, int, int, int]
    """ds, es, fs and gs."""
    user_features: int
    """The features of XSAVE that a program may use."""
    has_io_permissions: bool
    tls: bytes
    """Three descriptors of the GDT."""
    registers: bytes
    """struct pt_regs (uapi/asm/ptrace.h)."""
    xsave: bytes
    """Its area of XSAVE, in the standard format or compacted (Intel SDM vol. 1, 13.4).  Empty if it
    could not be read."""

    @property
    def is_left_asleep(self) -> bool:
        """True if an interrupt would disturb a call of it."""
        return self.is_asleep and (self.is_held or self.is_in_call)

    @property
    def is_exact(self) -> bool:
        """True if its registers are those with which it will go on, except the result of a call.

        A thread that sleeps outside of a call waits for a page, or is about to restore the
        registers from the frame of a signal: half of them may be restored.  So only one that is
        held there counts.
        """
        return self.is_asleep and (self.is_held or (self.is_in_call and not self.is_in_change))


def saved_threads(rows: bytes) -> Iterator[SavedThread]:
    """The threads in the rows of gcorefs_registers.  struct.error: a row is cut off."""
    at = 0
    while at < len(rows):
        head = _HEAD.unpack_from(rows, at)
        registers = at + _HEAD.size
        area = registers + _REGISTERS
        end = area + head[7]
        yield _thread(head, _GUARD.unpack_from(rows, end), rows[registers:area], rows[area:end])
        at = end + _GUARD.size


def _thread(
    head: tuple[Any, ...], after: tuple[int, ...], registers: bytes, area: bytes
) -> SavedThread:
    before = head[:4]
    on_cpu, state, switches, runtime = before
    tid, status, pkru, _, jobctl, blocked, pending = head[4:11]
    (word,) = _ORIG_RAX.unpack_from(registers, _AT_ORIG_RAX)
    changing = _CHANGING_I386 if status & _TS_COMPAT else _CHANGING
    return SavedThread(
        tid=tid,
        mark=Mark(switches, runtime),
        is_asleep=before == after and not on_cpu and state != 0,
        is_in_call=word >= 0,
        is_in_change=word in changing,
        is_held=bool(state & _HELD or jobctl & _JOBCTL_TRAP_FREEZE),
        stop_signal=jobctl & _STOP_SIGNAL if state & _STOPPED else 0,
        blocked=blocked,
        pending=pending,
        pkru=pkru,
        bases=(head[11], head[12]),
        selectors=(head[14], head[13], head[15], head[16]),
        user_features=head[17],
        has_io_permissions=bool(head[18]),
        tls=head[19],
        registers=registers,
        xsave=area,
    )
