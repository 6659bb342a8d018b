"""The registers of threads that do not run, from BPF.  No thread is touched."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from gcorefs.arch import HOST
from gcorefs.arch.machine import Machine, Sets
from gcorefs.arch.x86_saved import SavedThread
from gcorefs.arch.xsave_saved import SavedFormat
from gcorefs.kernel import bpf
from gcorefs.kernel.stdio import Stream

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class RegistersProgram:
    descriptor: int
    """The loaded program, for bpf(2).  A child of fork(2) has it too."""
    saved: SavedFormat
    """How the kernel keeps the registers."""

    def threads(self, pid: int) -> Mapping[int, SavedThread]:
        """What the kernel keeps of each thread of a process now, by thread id.  Dead threads are
        left out.  EPERM, ENOMEM, EMFILE, ESRCH."""
        return saved_threads(self.descriptor, pid)

    def sets(self, machine: Machine, thread: SavedThread) -> tuple[bytes, Sets]:
        """The general registers and all other sets.  UnknownRegisters."""
        assert machine.saved_sets is not None
        return machine.saved_sets(thread, self.saved)


def saved_threads(program: int, pid: int) -> dict[int, SavedThread]:
    """The same, before it is known how the kernel keeps the registers."""
    assert HOST.saved_threads is not None
    with contextlib.closing(Stream(bpf.open_iterator_of_all(program, pid))) as stream:
        pieces = [stream.read(_PIECE)]
        while len(pieces[-1]) == _PIECE:
            pieces.append(stream.read(_PIECE))
    return {thread.tid: thread for thread in HOST.saved_threads(b"".join(pieces))}
