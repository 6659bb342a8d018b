"""Which source of mappings this process has, and all workers that are forked from it: BPF, or
smaps.

With BPF no page table is walked to see the mappings, and what the kernel's own dumper would take is
known and not guessed (elfcore/filter.py).  Everything works without it too.
"""

import contextlib
import threading
from dataclasses import dataclass

from gcorefs import tuning
from gcorefs.kernel.proc import address_space
from gcorefs.policy import Bpf
from gcorefs.sources.bpf.loading import NoBpf, load
from gcorefs.sources.bpf.mappings import BpfMappings, Program
from gcorefs.sources.procfs import ProcMappings
from gcorefs.sources.protocols import MappingSource

_OFF = "bpf=off"


@dataclass(frozen=True, slots=True)
class Choice:
    program: Program | None = None
    """None: smaps."""
    why_not: str = ""
    """Why BPF is not used; empty if it is."""

    def __str__(self) -> str:
        """For the log and for status."""
        return "mappings come from " + (f"smaps: {self.why_not}" if self.why_not else "BPF")

    @property
    def is_bpf_missing(self) -> bool:
        """True if it was wanted, and could not be had."""
        return self.program is None and self.why_not != _OFF

    @property
    def descriptors(self) -> frozenset[int]:
        """The files that a child needs for it."""
        return frozenset(() if self.program is None else (self.program.descriptor,))


_NOBODY_ASKED = Choice(None, "nobody has asked for BPF")
_in_use = [_NOBODY_ASKED]


def in_use() -> Choice:
    return _in_use[0]


def choose(bpf: Bpf) -> Choice:
    """Load the program, unless the option says no.  The caller has one thread."""
    if bpf == "off":
        _in_use[0] = Choice(None, _OFF)
    else:
        try:
            _in_use[0] = Choice(load())
        except NoBpf as error:
            _in_use[0] = Choice(None, str(error))
    return _in_use[0]


def choose_for(pid: int, bpf: Bpf) -> None:
    """The same for one stop, before it begins: only if smaps of the process takes longer than to
    load the program, and if that can be done."""
    if bpf == "off" or in_use() is not _NOBODY_ASKED or threading.active_count() > 1:
        return
    with contextlib.suppress(OSError):  # what is wrong with the process, the stop will tell
        tables = address_space.page_tables(pid)
        if tables is not None and tables.size > tuning.now().long_walk:
            choose(bpf)


def source(tid: int, bpf: Bpf) -> MappingSource:
    """The mappings of the process of this thread, by a policy with this option."""
    smaps, program = ProcMappings(tid), in_use().program
    return smaps if bpf == "off" or program is None else BpfMappings(tid, program, smaps)


def uses_bpf(bpf: Bpf) -> bool:
    """True if a source by a policy with this option counts no pages."""
    return bpf != "off" and in_use().program is not None
