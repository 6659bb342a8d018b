"""The identity of a program: which program a process runs, and who owns it.

A copy of the memory may outlive the program.  It is shown only if the process still runs the same
program, with the same owner and the same rule for who may trace it.
"""

import errno
import os
from dataclasses import dataclass

from gcorefs.kernel.proc import address_space, procfile, task_status, tasks

_AT_RANDOM = 25
_UPPER_HALF = 1 << 63  # no offset of pread(2)
_RANDOM_BYTES = 16
"""execve(2) puts this many random bytes into the new memory (getauxval(3), AT_RANDOM)."""


@dataclass(frozen=True, slots=True)
class Program:
    """One program from its execve(2) on, while the same users may trace it."""

    owner: tuple[bytes, ...]
    auxv: bytes
    random: bytes


def program_of(pid: int) -> Program:
    """The program that process `pid` runs now.  ESRCH."""
    return tasks.ask_live_thread(pid, lambda tid: _program_of(pid, tid))


def _program_of(pid: int, tid: int) -> Program:
    owner = task_status.owner(pid, tid)
    auxv = address_space.read_mm(tid, "auxv")
    word = 4 if address_space.is_32_bit(tid) else 8
    numbers = [int.from_bytes(auxv[at : at + word], "little") for at in range(0, len(auxv), word)]
    address = dict(zip(numbers[::2], numbers[1::2], strict=False)).get(_AT_RANDOM, 0)
    return Program(owner, auxv, _read(tid, address) if address else b"")


def _read(tid: int, address: int) -> bytes:
    if address >= _UPPER_HALF:  # it may choose the vector (prctl(2), PR_SET_MM_MAP)
        return b""
    # Not process_vm_readv(2), which would make a copy of a shared page for the process.
    file = procfile.open_file(f"{tid}/mem")
    try:
        return os.pread(file, _RANDOM_BYTES, address)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""  # the program has unmapped it
    finally:
        os.close(file)
