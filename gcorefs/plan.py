"""Plans a core: Evidence and Policy in, CorePlan out.

This module is pure: no process, no file of /proc, no clock.  The same evidence gives the same
bytes.

There are two steps.  How a process is held depends on how much memory its core has (hold/),
and the note says how it is held.  So `plan_loads` gives the size of the memory, and `plan_core`
makes the header afterwards.
"""

import struct
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, islice

from gcorefs.arch.machine import Machine
from gcorefs.arch.page import PAGE_SIZE
from gcorefs.arch.xsave import XsaveAccount
from gcorefs.elfcore.columns import Column, differences
from gcorefs.elfcore.elf import CLASSES, PF_X
from gcorefs.elfcore.filter import LeftOut, Share
from gcorefs.elfcore.header_store import Shelf
from gcorefs.elfcore.layout import Layout
from gcorefs.elfcore.loads import load
from gcorefs.elfcore.notes import ProcessInfo, ProcessNotes, Threads
from gcorefs.elfcore.provenance import Account, How, Origin, Provenance
from gcorefs.elfcore.registers import Registers
from gcorefs.elfcore.segments import Loads, Segment, Segments, that_fit
from gcorefs.elfcore.vma import Vma
from gcorefs.policy import Policy

# Upper bounds in bytes, for a file with little room (segments.py, that_fit).
_NOTES = 1 << 20
_NOTES_OF_A_THREAD = 24 << 10  # with AMX and I/O permissions

_NOTHING_LOST = (None, LeftOut.UNTOUCHED)

Holes = tuple[Column, Column]
"""The pages of a share that were never populated: starts and ends of runs, in order."""

_MOST_NAMES = 1000  # a program may name every mapping that it makes (prctl(2), PR_SET_VMA)


@dataclass(frozen=True, slots=True)
class ThreadEvidence:
    """The threads in the core, in the order of the notes, and how each thread was recorded."""

    threads: Threads
    """Their CPU times may be read from /proc only when the threads are read from here."""
    registers: Sequence[Registers]
    """Those of each thread in the core, in the same order."""
    signal: int
    """The signal that stopped the first thread; 0 if none did."""
    stopped: int
    """The number of threads of the process that are recorded in full."""
    others: Mapping[int, How]
    """How each other thread is recorded, by its id in its own pid namespace."""
    no_cpu: Sequence[int]
    """The threads of `others` that did not stop because they got no CPU."""
    xstate: XsaveAccount | None
    """Where the vector registers lie; None if that is not known, or if there are none."""


@dataclass(frozen=True, slots=True)
class MemoryEvidence:
    """The mappings of the process in address order, and the facts about each."""

    mappings: Sequence[Vma]
    vmas: Sequence[Vma]
    """The same; a mapping of which the policy takes a part in the middle is cut into pieces
    (elfcore/selection.py)."""
    shares: Sequence[Share]
    """The part of each of `vmas` that the policy takes."""
    holes: Sequence[Holes]
    """Those in each share."""
    files: Sequence[tuple[Vma, bytes]]
    """Every mapping that has a file, with its path."""
    unreadable: Sequence[tuple[int, int]]
    """Start and end of the ranges that are known to be unreadable."""
    unreadable_pages: int
    """The number of pages in `unreadable`."""
    guards: int = 0
    """Bytes of guard pages (process/guards.py)."""
    is_for_stacks: bool = False
    """The policy takes what a backtrace needs (memory=stacks)."""
    cut_stacks: Sequence[int] = ()
    """The threads of whose stacks a part is left out, by their ids in their own pid namespace."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All facts about one process, collected while it stood still."""

    origin: Origin
    machine: Machine
    info: ProcessInfo
    threads: ThreadEvidence
    memory: MemoryEvidence
    auxv: bytes
    file_note_limit: int
    """The kernel writes no NT_FILE of this many bytes or more."""
    circumstances: Mapping[str, str]
    """More facts for the note: coredump_filter, and why some holes are not known."""


@dataclass(frozen=True, slots=True)
class CorePlan:
    layout: Layout
    provenance: Provenance
    mappings: int
    """The number of mappings of the process."""


def plan_loads(evidence: Evidence) -> Loads:
    """The memory in the file, and its place there."""
    vmas, sizes, holes = _shown(evidence.memory)
    starts = array("Q", [vma.start for vma in vmas])
    ends = array("Q", [vma.end for vma in vmas])
    segments = Segments(
        starts,
        differences(ends, starts),
        array("Q", sizes),
        bytearray([vma.kind.flags for vma in vmas]),
        {
            index: _divided(vmas[max(index - 1, 0)], vmas[index], sizes[index], own)
            for index, own in enumerate(holes)
            if own[0]
        },
    )
    header = _NOTES + len(evidence.threads.registers) * _NOTES_OF_A_THREAD
    return load(that_fit(CLASSES[evidence.machine.word_size], segments, header))


def _shown(memory: MemoryEvidence) -> tuple[Sequence[Vma], Sequence[int], Sequence[Holes]]:
    """The mappings that have a program header, with the size of each share and its holes.

    All have one, as in the kernel's cores, but for some under memory=stacks: gdb takes a program
    header without bytes for zeros (corelow.c, core_target::xfer_partial), and such a core is there
    to be read by debuggers.  What has a file does have one: readers find modules by it, and read
    the file.  So does code, because lldb asks whether a return address is in code.
    """
    shares = memory.shares
    sizes = [share.size for share in shares]
    if not memory.is_for_stacks:
        return memory.vmas, sizes, memory.holes
    is_shown = [
        bool(share.size)
        or share.left_out in _NOTHING_LOST
        or vma.kind.has_file
        or bool(vma.kind.flags & PF_X)
        for vma, share in zip(memory.vmas, shares, strict=True)
    ]
    vmas = [*compress(memory.vmas, is_shown)]
    return vmas, [*compress(sizes, is_shown)], [*compress(memory.holes, is_shown)]


def _divided(before_it: Vma, vma: Vma, size: int, holes: Holes) -> Segment:
    """A mapping that has holes."""
    # It directly follows a mapping of a file, as the .bss of a program does.
    is_bss = before_it.kind.has_file and before_it.end == vma.start and not vma.kind.has_file
    return Segment(vma.start, vma.size, size, vma.kind.flags, *holes, is_bss)


def plan_core(
    evidence: Evidence,
    loads: Loads,
    policy: Policy,
    held: Mapping[str, str],
    shelf: Shelf | None = None,
) -> CorePlan:
    """The header of the file, and its provenance.

    `held`: how the process is held, for the note.  `shelf`: keeps the notes of the threads, if
    they are made later.
    """
    threads = evidence.threads
    facts = {**policy.facts(), **evidence.circumstances, **held}
    provenance = Provenance(
        evidence.origin,
        policy=facts,
        stopped=threads.stopped,
        others=threads.others,
        account=_account(evidence.memory, loads),
        no_cpu=threads.no_cpu,
        cut_stacks=evidence.memory.cut_stacks,
        xstate=threads.xstate,
    )
    xstate = threads.xstate
    notes = ProcessNotes(
        machine=evidence.machine,
        info=evidence.info,
        threads=threads.threads,
        siginfo=struct.pack("<i", threads.signal) if threads.signal else b"",
        auxv=evidence.auxv,
        files=evidence.memory.files,
        file_note_limit=evidence.file_note_limit,
        xsave_layout=() if xstate is None else xstate.written.components,
        provenance=provenance,
        registers=threads.registers,
    )
    layout = Layout(evidence.machine, loads, notes.pack(shelf))
    return CorePlan(layout, provenance, len(evidence.memory.mappings))


def _account(memory: MemoryEvidence, loads: Loads) -> Account:
    in_core = loads.in_file + loads.shared
    left_out = dict.fromkeys((reason.value for reason in LeftOut), 0)
    for vma, share in zip(memory.vmas, memory.shares, strict=True):
        if share.left_out is not None:
            left_out[share.left_out.value] += vma.size - share.size
    left_out[LeftOut.TOO_FAR.value] = sum(share.size for share in memory.shares) - in_core
    return Account(
        recorded=in_core - loads.zeros,
        zeros=loads.zeros,
        shared=loads.shared,
        area=loads.area,
        left_out=left_out,
        beyond=sum(share.beyond for share in memory.shares),
        unreadable=memory.unreadable_pages * PAGE_SIZE,
        guards=memory.guards,
        ranges=memory.unreadable,
        names=_names(memory.mappings),
    )


def _names(vmas: Sequence[Vma]) -> dict[int, str]:
    named = ((vma.start, vma.name) for vma in vmas if vma.kind.name[:1] == b"[")
    return {start: name.decode("utf-8", "replace") for start, name in islice(named, _MOST_NAMES)}
