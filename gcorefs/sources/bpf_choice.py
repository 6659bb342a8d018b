"""Whether this process uses BPF, and all workers that are forked from it.

With BPF no page table is walked to see the mappings, and what the kernel's own dumper would take is
known and not guessed (elfcore/filter.py).  And the registers of a thread that sleeps can be had
without waking it.  Everything works without BPF too, from /proc.
"""

import contextlib

from gcorefs import tuning
from gcorefs.kernel.proc import address_space
from gcorefs.policy import Bpf, Policy
from gcorefs.process.threads import count_tasks
from gcorefs.sources.bpf.loading import OFF, Choice, load
from gcorefs.sources.bpf.mappings import BpfMappings
from gcorefs.sources.bpf.registers import RegistersProgram
from gcorefs.sources.procfs import ProcMappings
from gcorefs.sources.protocols import MappingSource

_NOBODY_ASKED = Choice.neither("nobody has asked for BPF")
_in_use = [_NOBODY_ASKED]


def in_use() -> Choice:
    return _in_use[0]


def choose(bpf: Bpf) -> Choice:
    """Load the programs, unless the option says no.  The caller has one thread."""
    if bpf == "off":
        _in_use[0] = Choice.neither(OFF)
    else:
        _in_use[0] = load()
    return _in_use[0]


def choose_for(pid: int, policy: Policy) -> None:
    """The same for one stop, before it begins: only if it needs registers of threads that are not
    stopped, or if smaps of the process takes longer than to load the programs; and if that can be
    done."""
    if policy.bpf == "off" or in_use() is not _NOBODY_ASKED or count_tasks() > 1:
        return
    if policy.leaves_asleep:
        choose(policy.bpf)
        return
    with contextlib.suppress(OSError):  # what is wrong with the process, the stop will tell
        tables = address_space.page_tables(pid)
        if tables is not None and tables.size > tuning.now().long_walk:
            choose(policy.bpf)


def registers_program(bpf: Bpf) -> RegistersProgram | None:
    """The program for registers, by a policy with this option."""
    return None if bpf == "off" else in_use().registers


def source(tid: int, bpf: Bpf) -> MappingSource:
    """The mappings of the process of this thread, by a policy with this option."""
    smaps, program = ProcMappings(tid), in_use().program
    return smaps if bpf == "off" or program is None else BpfMappings(tid, program, smaps)


def uses_bpf(bpf: Bpf) -> bool:
    """True if a source by a policy with this option counts no pages."""
    return bpf != "off" and in_use().program is not None
