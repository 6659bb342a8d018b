"""A process that stands still, and the means to read more from it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gcorefs.arch.machine import Machine
from gcorefs.arch.xsave import XsaveAccount
from gcorefs.elfcore.provenance import Origin
from gcorefs.elfcore.vma import Vma
from gcorefs.kernel.proc.task_stat import Process, Stat
from gcorefs.process.memory import Memory
from gcorefs.sources.thread_record import ThreadRecord


@dataclass(frozen=True, slots=True)
class Standstill:
    """A process that stands still, and the means to read more from it."""

    process: Process
    tid: int
    """A live thread of the process: all files of /proc are read through it."""
    origin: Origin
    machine: Machine
    xstate: XsaveAccount | None
    before: Stat
    """The leader's stat before the stop: what the leader was doing then."""
    records: Sequence[ThreadRecord]
    """The record of each thread, in the order of the notes."""
    late: Sequence[ThreadRecord]
    """Of these, the threads that did not stop."""
    memory: Memory
    vmas: Sequence[Vma]
    check: Callable[[], None]
    """Raises EIO if the process does not stand still any more."""

    @property
    def pid(self) -> int:
        return self.process.pid
