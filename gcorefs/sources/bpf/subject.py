"""Learns how this kernel keeps registers, from a process of our own that sleeps.

The same registers come from BPF and from ptrace(2).  If they differ, BPF is not used for them: a
later kernel may keep them elsewhere.
"""

import contextlib
import os
import time
from collections.abc import Iterator

from gcorefs.arch import HOST
from gcorefs.arch.cpuid import cpuid
from gcorefs.arch.machine import NT_PRSTATUS, Regset
from gcorefs.arch.machine import RegisterKind as Kind
from gcorefs.arch.x86_saved import SavedThread, UnknownRegisters
from gcorefs.arch.xsave_saved import SavedFormat
from gcorefs.kernel import ptrace
from gcorefs.kernel.libc import quick
from gcorefs.sources.bpf.registers import saved_threads
from gcorefs.sources.injection import await_stop

NO_ITERATORS = "the kernel has no iterators of one process"
_AT_HWCAP2 = 26
_HWCAP2_FSGSBASE = 1 << 1  # uapi/asm/hwcap2.h
_TRIES = 1000
_NAP = 1e-3


def learned(program: int) -> tuple[int, int]:
    """The size and the features of NT_X86_XSTATE, if the registers of a sleeping process are the
    same from both sources.  OSError, UnknownRegisters."""
    with _subject() as pid:
        thread = _asleep(program, pid)
        try:
            ptrace.seize(pid)
        except PermissionError as error:
            raise UnknownRegisters("ptrace(2) is denied even for a child of ours") from error
        ptrace.interrupt(pid)
        if await_stop(pid, _TRIES * _NAP) is None:
            raise UnknownRegisters("a process that was interrupted does not stop")
        try:
            saved = _compare(pid, thread)
        finally:
            ptrace.detach(pid)
    return saved.size, saved.features


def saved_format(size: int, features: int) -> SavedFormat:
    return SavedFormat(size, features, cpuid, _has_base_instructions())


def _has_base_instructions() -> bool:
    return bool(quick["getauxval"](_AT_HWCAP2) & _HWCAP2_FSGSBASE)


@contextlib.contextmanager
def _subject() -> Iterator[int]:
    """A child that sleeps in read(2), and ends with the block."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(writing)
            os.read(reading, 1)
        finally:
            os._exit(0)
    os.close(reading)
    try:
        yield pid
    finally:
        os.close(writing)
        with contextlib.suppress(ChildProcessError):  # another thread of ours waits for any child
            os.waitpid(pid, 0)


def _asleep(program: int, pid: int) -> SavedThread:
    for _ in range(_TRIES):
        threads = saved_threads(program, pid)
        if threads.keys() - {pid}:
            raise UnknownRegisters(NO_ITERATORS)
        thread = threads.get(pid)
        if thread is not None and thread.is_exact:
            return thread
        time.sleep(_NAP)
    raise UnknownRegisters("a process that sleeps does not seem to sleep")


def _compare(pid: int, thread: SavedThread) -> SavedFormat:
    machine = HOST.native
    if machine.saved_sets is None:
        raise UnknownRegisters("not known for this machine")
    regsets = {each.kind: each for each in machine.regsets}
    buffer = ptrace.RegsetBuffer(max(each.size for each in machine.regsets))

    def traced(regset: Regset) -> bytes:
        return ptrace.get_regset(pid, regset.note, buffer)

    saved = SavedFormat.of(traced(regsets[Kind.XSTATE]), cpuid, _has_base_instructions())
    general, sets = machine.saved_sets(thread, saved)
    expected = ptrace.get_regset(pid, NT_PRSTATUS, buffer)
    # ptrace(2) has interrupted the call.
    result = {machine.call_result: machine.word(expected, machine.call_result)}
    if machine.with_words(general, result) != expected:
        raise UnknownRegisters("the general registers are not those of ptrace(2)")
    for kind, data in sets:
        if data != traced(regsets[kind]):
            raise UnknownRegisters(f"{kind.name} is not that of ptrace(2)")
    return saved
