"""Collects the evidence about the memory of a process that stands still: which parts of it a core
has, and what is known of them.
"""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from gcorefs.elfcore.backing import MOST_OF_PATHS
from gcorefs.elfcore.elf import PF_X
from gcorefs.elfcore.filter import ANON_PRIVATE, LeftOut, Share, dump_size
from gcorefs.elfcore.memory_rules import MemoryRule
from gcorefs.elfcore.selection import Selection, cut, whole_pages
from gcorefs.elfcore.vma import Vma
from gcorefs.kernel.proc import map_files, task_stat
from gcorefs.plan import MemoryEvidence
from gcorefs.policy import Policy
from gcorefs.process.bounded_questions import Question, ask_each
from gcorefs.process.filter_facts import MappingFacts
from gcorefs.process.guards import guarded
from gcorefs.process.holes import find_holes
from gcorefs.process.mapped_files import FileKey, LostFiles, MappedFiles, file_key
from gcorefs.process.memory import Memory, Ways
from gcorefs.process.page_providers import source_of
from gcorefs.process.stacks import Stacks, ThreadOnStack
from gcorefs.process.unreadable import unreadable
from gcorefs.process.unwinding import Limits, Unwinding, unwinding_ranges
from gcorefs.sources.thread_record import ThreadRecord
from gcorefs.standstill import Standstill


def unknown_holes(ways: Ways) -> dict[str, str]:
    """For the note: why holes are not known, if so.  They are read and are zeros in the file."""
    whys = {
        "holes_unknown": ways.pagemap.why_unknown,
        "shared_holes_unknown": ways.shmem.why_unknown,
    }
    return {name: why for name, why in whys.items() if why}


@dataclass(frozen=True, slots=True)
class Unwound:
    """What leads to the stacks of a process."""

    auxv: bytes
    records: Sequence[ThreadRecord]
    """Of each thread; for one that did not stop, what the core has of it."""


def gather_memory(seen: Standstill, policy: Policy, mask: int, unwound: Unwound) -> MemoryEvidence:
    """`mask`: the coredump_filter of the process.  ProcessLookupError: it died meanwhile."""
    tid, memory = seen.tid, seen.memory
    pagemap = memory.ways.pagemap
    choice = policy.choice
    choose = partial(choice.share, mask=mask)
    of_files = [vma for vma in seen.vmas if vma.kind.has_file]
    code = {file_key(vma) for vma in of_files if vma.flags & PF_X}
    files = MappedFiles(tid)
    lost = LostFiles(files, task_stat.started(seen.process), code)
    threads: Sequence[ThreadOnStack] = ()
    if choice.rule.asks_for_stacks:
        threads = [
            ThreadOnStack.of(each.tid, seen.machine, each.registers) for each in unwound.records
        ]
    stacks_in = _mappings_of(seen.vmas, [thread.stack_pointer for thread in threads])
    patient = MappingFacts(memory, pagemap, files, lost, stacks_in)
    facts = patient, replace(patient, may_wait=False)
    asked = [partial(choose, facts=each) for each in facts]
    silent = partial(_lost, rule=choice.rule, memory=memory)
    shares_of_files = _shares_of_files(tid, of_files, asked, silent)
    shares = _shares(seen.vmas, shares_of_files, asked[1], choice.is_by_size)
    stacks = Stacks()
    if choice.rule.has_stacks:
        found = Unwinding(
            seen.machine,
            seen.pid,
            threads,
            unwound.auxv,
            seen.vmas,
            _lost_files(tid, of_files, facts),
        )
        limits = Limits(policy.stack_limit << 10, policy.referenced << 10)
        stacks = unwinding_ranges(found, memory, limits)
    parts = [*stacks.ranges, *choice.include.ranges]
    selection = Selection(whole_pages(parts), whole_pages(choice.exclude.ranges))
    vmas = seen.vmas
    if not selection.is_empty:
        vmas, shares = cut(
            vmas, shares, selection, partial(_end_of_kernels, mask=mask, facts=facts[1])
        )
    sizes = [share.size for share in shares]
    holes = find_holes(vmas, sizes, pagemap, memory.ways.shmem)
    lost_pages = unreadable(files, zip(vmas, sizes, strict=True), pagemap)
    memory.unreadable_pages.add_ranges(lost_pages)
    guards = guarded(zip(vmas, sizes, strict=True), pagemap)
    return MemoryEvidence(
        mappings=seen.vmas,
        vmas=vmas,
        shares=shares,
        holes=holes,
        files=[*_files(of_files, tid)],
        unreadable=memory.unreadable_pages.ranges(),
        unreadable_pages=memory.unreadable_pages.count,
        guards=sum(end - start for start, end in guards),
        is_for_stacks=choice.rule.has_stacks,
        cut_stacks=stacks.cut,
    )


def _end_of_kernels(vma: Vma, mask: int, facts: MappingFacts) -> int:
    if vma.kind.is_plain and mask & ANON_PRIVATE and vma.is_written:  # as most stacks
        return vma.end
    return vma.start + dump_size(vma, mask, facts).size


def _mappings_of(vmas: Sequence[Vma], addresses: Sequence[int]) -> frozenset[int]:
    """The starts of the mappings around addresses."""
    if not addresses:
        return frozenset()
    starts = array("Q", [vma.start for vma in vmas])
    found = {bisect_right(starts, address) - 1 for address in addresses}
    return frozenset(starts[index] for index in found if index >= 0)


def _lost_files(
    tid: int, of_files: Sequence[Vma], facts: Sequence[MappingFacts]
) -> frozenset[FileKey]:
    """The mapped programs and libraries that no path leads to any more."""
    patient, hasty = facts
    code = {file_key(vma): vma for vma in of_files if vma.flags & PF_X and not vma.kind.is_shared}

    def ask(vma: Vma, may_wait: bool) -> bool:
        return (patient if may_wait else hasty).is_lost(vma)

    questions: list[Question[bool]] = [
        (_source(vma, tid), partial(ask, vma)) for vma in code.values()
    ]
    answers = ask_each(questions, lambda _: False)
    return frozenset(key for key, is_lost in zip(code, answers, strict=True) if is_lost)


def _source(vma: Vma, tid: int) -> str:
    return source_of(vma, tid, map_files.shmem_device()) or vma.dev


def _shares_of_files(
    tid: int,
    of_files: Sequence[Vma],
    choose: Sequence[Callable[[Vma], Share]],
    lost: Callable[[Vma], Share],
) -> list[Share]:
    """The share of each mapping of a file.  Only a question about a file may have to wait, and so
    needs a thread.  `choose`: one rule that may wait, one that may not.  `lost`: the share if the
    file does not answer."""
    patient, hasty = choose

    def ask(vma: Vma, may_wait: bool) -> Share:
        return patient(vma) if may_wait else hasty(vma)

    return ask_each(
        [(_source(vma, tid), partial(ask, vma)) for vma in of_files],
        lambda index: lost(of_files[index]),
    )


def _shares(
    vmas: Sequence[Vma],
    of_files: Sequence[Share],
    choose: Callable[[Vma], Share],
    is_by_size: bool,
) -> list[Share]:
    """The share of each mapping.  `of_files`: of those that have a file.  `choose`: the rule for
    all others.  `is_by_size`: the share of plain memory that was written depends on its size
    alone."""
    answers = iter(of_files)
    written: dict[int, Share] = {}
    shares = []
    for vma in vmas:
        kind = vma.kind
        if kind.has_file:
            share = next(answers)
        elif is_by_size and kind.is_plain and vma.pages.is_written:
            size = vma.end - vma.start
            share = written.get(size) or written.setdefault(size, choose(vma))
        else:
            share = choose(vma)
        shares.append(share)
    return shares


def _lost(vma: Vma, rule: MemoryRule, memory: Memory) -> Share:
    """The share of a mapping whose file did not answer: nothing, not even its ELF header."""
    memory.lose(vma.start)
    return Share(0, LeftOut.FILTER if rule.is_bounded_by_use else LeftOut.NO_ANSWER)


def _files(of_files: Sequence[Vma], tid: int) -> Iterator[tuple[Vma, bytes]]:
    """Each mapping of a file, with its path.  There is no NT_FILE of so many bytes
    (core_file_note_size_limit), so the names do as they are in maps."""
    left = MOST_OF_PATHS
    for vma in of_files:
        path = _path(vma, tid) if left > 0 else vma.name
        left -= len(path)
        yield vma, path


def _path(vma: Vma, tid: int) -> bytes:
    # maps shows the name of named shared anonymous memory instead of the path of its file, which
    # is the kernel's own (mm/shmem.c, shmem_zero_setup).
    if vma.name.startswith(b"[anon_shmem"):
        return b"/dev/zero (deleted)"
    return map_files.mapped_path(tid, vma.start, vma.end, vma.name)
