"""From the records of a stop and the facts of /proc to the layout of the file.

Everything here is asked once, after the last thread has stopped, and through a thread that
lives (procfs.py says why): /proc/TID is served for every thread, though not listed.
"""

import contextlib
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import islice

from gcorefs.elfcore import filter as rules
from gcorefs.elfcore.elf import PAGE_SIZE, PF_X
from gcorefs.elfcore.filter import LeftOut, Share
from gcorefs.elfcore.layout import Layout
from gcorefs.elfcore.notes import FILE_NOTE_LIMIT, ProcessIds, ProcessInfo, ProcessNotes, Thread
from gcorefs.elfcore.pieces import Shelf
from gcorefs.elfcore.provenance import Account, How, Provenance
from gcorefs.elfcore.regsets import Machine
from gcorefs.elfcore.segments import Loads, Segment, load, that_fit
from gcorefs.elfcore.vma import Vma
from gcorefs.policy import Policy, Unresponsive
from gcorefs.process import procfs
from gcorefs.process.absent import MayWait, NotBrought, source_of
from gcorefs.process.errors import Reason, told
from gcorefs.process.facts import MappingFacts
from gcorefs.process.holes import find_holes
from gcorefs.process.later import Postponed
from gcorefs.process.lost import Lost
from gcorefs.process.mapped_files import LostFiles, MappedFiles, file_key
from gcorefs.process.memory import Memory
from gcorefs.process.pagemap import Pagemap
from gcorefs.process.patience import ask_each
from gcorefs.process.procfs import Process, Stat
from gcorefs.process.record import Record
from gcorefs.process.shared import Shared
from gcorefs.process.turns import LINE
from gcorefs.process.unreadable import unreadable

_MICROSECONDS_PER_TICK = 1_000_000 // procfs.TICKS
_ARGUMENT_BYTES = 79  # ELF_PRARGSZ - 1
# More than they are, where the file has little room (segments.py, that_fit).
_NOTES = 1 << 20
_NOTES_OF_A_THREAD = 24 << 10  # with AMX and I/O permissions
_MANY = 100
_MOST_NAMES = 1000  # a program may name every mapping that it makes (prctl(2), PR_SET_VMA)


@dataclass(frozen=True, slots=True)
class Assembly:
    layout: Layout
    provenance: Provenance
    later: Postponed | None
    """What was left of the header, to be done while the threads stand: PRSTATUS of many threads.
    Who reads one before waits.

    What a thread has used takes the kernel 8 us to tell, as long as all else that is recorded of
    it, and does not change while it stands.
    """


def assemble(
    process: Process,
    tid: int,
    machine: Machine,
    before: Stat,
    recorded: Sequence[Record],
    times: Callable[[Sequence[int]], Sequence[tuple[int, ...]]],
    policy: Policy,
    provenance: Provenance,
    vmas: Sequence[Vma],
    memory: Memory,
    pagemap: Pagemap,
    shared: Shared,
    hold: Callable[[int], Mapping[str, str]],
) -> Assembly:
    """A core of `process`, whose live thread `tid` is stopped like all others.

    `times`: what these threads have used, in ticks (procfs.task_times).
    `before` is the leader's stat of before the stop: what it was doing then.  `provenance`
    is completed by how each thread was recorded, and by what `hold` says of the policy when it
    is told how many bytes of memory the file has.  Raises ProcessLookupError where the process
    dies meanwhile.
    """
    records = [record for record in recorded if record.general or policy.unresponsive != "omit"]
    mask = procfs.coredump_filter(tid)
    header = _NOTES + len(records) * _NOTES_OF_A_THREAD
    choose = partial(rules.dump_size if policy.memory == "kernel" else rules.kept_size, mask=mask)
    code = {file_key(vma) for vma in vmas if vma.has_file and vma.flags & PF_X}
    files = MappedFiles(tid)
    lost = LostFiles(files, procfs.started(process), code)
    facts = [MappingFacts(memory, pagemap, files, lost, may_wait) for may_wait in (True, False)]
    shares = _shares(tid, vmas, memory, [partial(choose, facts=each) for each in facts])
    loads, account = _memory(machine, files, header, vmas, shares, memory, pagemap, shared)
    LINE.give_way()
    status = procfs.status(process.pid, tid)
    pids = _own_pids(status, "NStgid")
    late = [record for record in recorded if not record.general]
    partial_ = {
        each.tid: _partial(process.pid, machine, each.tid, policy.unresponsive) for each in late
    }
    provenance = replace(
        provenance,
        policy={
            **provenance.policy,
            "coredump_filter": f"{mask:#x}",
            **_unknown(pagemap, shared),
            **hold(sum(loads.lengths)),
        },
        stopped=len(recorded) - len(late),
        others={_own_tid(process.pid, each.tid, len(pids)): partial_[each.tid][1] for each in late},
        no_cpu=[_own_tid(process.pid, each.tid, len(pids)) for each in late if each.is_starved],
        account=account,
    )
    notes = ProcessNotes(
        machine=machine,
        info=_info(tid, before, status, pids, memory),
        threads=_Threads(process, records, partial_, times, len(pids)),
        siginfo=struct.pack("<i", records[0].signal),
        auxv=procfs.read_mm(tid, "auxv"),
        files=[(vma, _path(vma, tid)) for vma in vmas if vma.kind.has_file],
        file_note_limit=procfs.file_note_limit() or FILE_NOTE_LIMIT,
        xsave_layout=() if provenance.xstate is None else provenance.xstate.written.components,
        provenance=provenance,
        regsets=[record.regsets for record in records],
    )
    LINE.give_way()
    # One that did not stop may be gone later.
    later = Postponed() if len(records) >= _MANY and not late else None
    layout = Layout(machine, loads, notes.pack(Shelf(later.promise) if later else None))
    return Assembly(layout, provenance, later)


def _unknown(pagemap: Pagemap, shared: Shared) -> dict[str, str]:
    """Which holes are read, and so are zeros in the file, and why they are not known."""
    whys = {"holes_unknown": pagemap.why_unknown, "shared_holes_unknown": shared.why_unknown}
    return {name: why for name, why in whys.items() if why}


def _memory(
    machine: Machine,
    files: MappedFiles,
    header: int,
    vmas: Sequence[Vma],
    shares: Sequence[Share],
    memory: Memory,
    pagemap: Pagemap,
    shared: Shared,
) -> tuple[Loads, Account]:
    """What of these mappings the file has and where, and what it has not and why.  `header`: bytes
    of it, but for the program headers, at the most."""
    sizes = [share.size for share in shares]
    holes = find_holes(vmas, sizes, pagemap, shared)
    mappings = [
        Segment(
            vma.start,
            vma.end - vma.start,
            size,
            vma.kind.flags,
            *own,
            # It goes on behind a mapping of a file, as the .bss of a program does.
            before_it.kind.has_file and before_it.end == vma.start and not vma.kind.has_file,
        )
        for vma, size, own, before_it in zip(
            LINE.paced(vmas), sizes, holes, [vmas[0], *vmas], strict=False
        )
    ]
    kept = that_fit(machine.elf_class, mappings, header)
    loads = load(kept, LINE.paced)
    LINE.give_way()
    memory.lost.add_ranges(unreadable(files, [*zip(vmas, sizes, strict=True)], pagemap))
    LINE.give_way()
    return loads, _account(vmas, shares, kept, loads, memory.lost)


def _account(
    vmas: Sequence[Vma],
    shares: Sequence[Share],
    mappings: Sequence[Segment],
    loads: Loads,
    lost: Lost,
) -> Account:
    in_core = sum(loads.filesz)
    zeros = sum(mapping.holes for mapping in mappings if mapping.hole_starts)
    left_out = dict.fromkeys((reason.value for reason in LeftOut), 0)
    for vma, share in zip(LINE.paced(vmas), shares, strict=True):
        if share.left_out is not None:
            left_out[share.left_out.value] += vma.size - share.size
    left_out[LeftOut.TOO_FAR.value] = sum(share.size for share in shares) - in_core
    return Account(
        recorded=in_core - zeros,
        zeros=zeros,
        shared=loads.shared,
        area=loads.area,
        left_out=left_out,
        beyond=sum(share.beyond for share in shares),
        unreadable=lost.count * PAGE_SIZE,
        ranges=lost.ranges(),
        names=_names(vmas),
    )


def _names(vmas: Sequence[Vma]) -> dict[int, str]:
    named = ((vma.start, vma.name) for vma in vmas if vma.kind.name[:1] == b"[")
    return {start: name.decode("utf-8", "replace") for start, name in islice(named, _MOST_NAMES)}


def _source(vma: Vma, tid: int) -> str:
    return source_of(vma, tid, procfs.shmem_device()) or vma.dev


def _shares(
    tid: int, vmas: Sequence[Vma], memory: Memory, choose: Sequence[Callable[[Vma], Share]]
) -> list[Share]:
    """What is taken of each mapping.  `choose`: once where a file may be waited for, once not."""
    patient, hasty = choose

    def ask(vma: Vma, may_wait: bool) -> Share:
        return patient(vma) if may_wait else hasty(vma)

    # Only who asks a file may have to wait, and be given a thread for it.
    files = [vma for vma in vmas if vma.kind.has_file]
    answers = iter(
        ask_each(
            [(_source(vma, tid), partial(ask, vma)) for vma in files],
            lambda index: _lost(files[index], memory),
        )
    )
    # Of plain memory with something written its size alone decides.
    written: dict[int, Share] = {}
    shares = []
    for vma in LINE.paced(vmas):
        if vma.kind.is_plain and vma.anonymous:
            size = vma.end - vma.start
            share = written.get(size) or written.setdefault(size, ask(vma, may_wait=False))
        else:
            share = next(answers) if vma.kind.has_file else ask(vma, may_wait=False)
        shares.append(share)
    return shares


def _lost(vma: Vma, memory: Memory) -> Share:
    """What the core has of a mapping whose file did not answer: not its ELF header."""
    memory.lose(vma.start)
    return Share(0, LeftOut.FILTER)


def _read(memory: Memory, address: int, length: int, may_wait: bool) -> bytes:
    return memory.read_bytes(address, length, None if may_wait else ())


def _path(vma: Vma, tid: int) -> bytes:
    # Named shared anonymous memory shows its name; the file behind it is the kernel's own
    # (mm/shmem.c, shmem_zero_setup).
    if vma.name.startswith(b"[anon_shmem"):
        return b"/dev/zero (deleted)"
    return procfs.mapped_path(tid, vma.start, vma.end, vma.name)


class _Threads:
    """Of these records, made as they are asked for."""

    def __init__(
        self,
        process: Process,
        records: Sequence[Record],
        partial_: Mapping[int, tuple[bytes, How]],
        times: Callable[[Sequence[int]], Sequence[tuple[int, ...]]],
        depth: int,
    ) -> None:
        """`depth`: how many pid namespaces, ours first, have a number for this process."""
        self._process = process
        self._records = records
        self._partial = partial_
        self._times = times
        self._depth = depth

    def __getitem__(self, part: slice, /) -> Sequence[Thread]:
        records = self._records[part]
        pid = self._process.pid
        with told(pid, Reason.DIED):
            tids = [_own_tid(pid, record.tid, self._depth) for record in records]
        # Last, for it tells whether all of this was still to be had.
        times = self._times([record.tid for record in records])
        return [
            Thread(
                tid=tid,
                general=record.general or self._partial[record.tid][0],
                regsets=record.regsets,
                signal=record.signal,
                pending=record.pending,
                blocked=record.blocked,
                times=_in_microseconds(own_times),
            )
            for tid, record, own_times in zip(tids, records, times, strict=True)
        ]


@lru_cache  # of many threads most have the same, and one tuple is enough for them
def _in_microseconds(ticks: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(count * _MICROSECONDS_PER_TICK for count in ticks)


def _partial(pid: int, machine: Machine, tid: int, unresponsive: Unresponsive) -> tuple[bytes, How]:
    """General registers of a thread that did not stop: those of its system call, or zeros."""
    if unresponsive == "omit":
        return b"", "omitted"
    call = None
    if unresponsive == "partial":
        try:
            call = procfs.system_call(pid, tid)
        except ProcessLookupError:
            raise
        except OSError:  # this /proc does not say, and the note will
            pass
    if call is None:
        return bytes(machine.general_size), "zero"
    return machine.partial(*call), "partial"


def _info(
    tid: int,
    before: Stat,
    status: dict[str, bytes],
    pids: list[int],
    memory: Memory,
) -> ProcessInfo:
    living = procfs.stat(tid)  # a dead leader's own stat knows of no memory
    length = min(living.argument_end - living.argument_start, _ARGUMENT_BYTES)
    return ProcessInfo(
        pid=pids[-1],
        ids=ProcessIds(
            ppid=_own_parent(before.ppid, len(pids)),
            pgrp=_own_pids(status, "NSpgid")[-1],
            sid=_own_pids(status, "NSsid")[-1],
        ),
        state=before.state,
        nice=before.nice,
        flags=before.flags,
        uid=procfs.own_id(tid, "uid", int(status["Uid"].split()[0])),
        gid=procfs.own_id(tid, "gid", int(status["Gid"].split()[0])),
        comm=before.comm,
        arguments=_arguments(memory, living.argument_start, length) if length > 0 else b"",
    )


def _own_tid(pid: int, tid: int, depth: int) -> int:
    return tid if depth == 1 else _own_pids(procfs.status(pid, tid), "NSpid")[-1]


def _arguments(memory: Memory, address: int, length: int) -> bytes:
    """Where they lie in a mapped file, it may be one that does not answer."""
    try:
        return _read(memory, address, length, may_wait=False)
    except MayWait as wait:
        question = wait.source, partial(_read, memory, address, length)
    with contextlib.suppress(MayWait, NotBrought):
        return ask_each([question], lambda _: b"")[0]
    return b""


def _own_pids(status: dict[str, bytes], key: str) -> list[int]:
    """One id as each pid namespace numbers it, from ours down to the process's own."""
    return [int(word) for word in status[key].split()]


def _own_parent(ppid: int, depth: int) -> int:
    """The parent as a process `depth` namespaces down numbers it, 0 where it is outside, or
    /proc does not show it."""
    if depth == 1 or ppid == 0:
        return ppid
    try:
        pids = _own_pids(procfs.status(ppid), "NSpid")
    except (ProcessLookupError, PermissionError):
        return 0
    return pids[depth - 1] if len(pids) >= depth else 0
