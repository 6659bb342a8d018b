"""The largest size that a core can have, from two cheap sources: the lines of /proc/PID/maps and
the counters of /proc/PID/status.

Unlike smaps, neither walks the page tables, so both answer fast.  The estimate assumes the larger
size for everything that they do not show: lldb asks for the size before it opens the file, and
reads no further.  The estimate does not see the following, which can make a core larger:
- written pages in a read-only mapping: a debugger or a probe wrote into program text, a
  relocation changed it, or the process wrote before an mprotect(2) of the whole mapping.  The
  core then has the whole mapping;
- a file that is lost but not marked as deleted: it changed in place, or no path leads to it any
  more; and notes of an ELF file that do not end in its first page (filter.py, kept_size);
- pages that are populated but not counted anywhere: pages that userfaultfd(2) watches; guards and
  pages of zeros (if pagemap.py cannot tell them apart).
MADV_DONTDUMP is not visible either; it makes a core smaller.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore import filter as rules
from gcorefs.elfcore.elf import ELF64, page_up
from gcorefs.elfcore.few_lines import FewLines, Line
from gcorefs.elfcore.loads import BSS_UNDIVIDED, most_bytes
from gcorefs.elfcore.patterns import NONE, Patterns
from gcorefs.elfcore.selection import (
    MOST_OF_A_THREAD,
    MOST_OF_DATA,
    MOST_OF_LINKER,
    MOST_OF_LOST_CODE,
    MOST_REFERENCED,
)
from gcorefs.elfcore.vma import HUGE_PAGES, is_special_name

# Bytes of the notes: once for a process, with room for the facts in our own note; and for each
# thread, each mapping with a file, and each mapping with a name but no file.  Extended registers
# and names come on top.
_NOTES_OF_A_PROCESS = 16 << 10
_NOTES_OF_A_THREAD = 1536
_NOTE_OF_A_FILE = 3 * ELF64.word_size + 1
_NOTE_OF_A_NAME = 64
# Bytes of the bitmap of ioperm(2), which few threads of few processes have.
_PORTS = 8 << 10
_THREADS_WITH_PORTS = 16

_DELETED = b" (deleted)"
_CODE_WITHOUT_A_FILE = (_DELETED, b"xp 00000000 00:00 0 \n")
# Files that have no path: memfd_create(2), shmget(2), huge pages of mmap(2).
_NAMELESS = (b"/memfd:", b"/SYSV", HUGE_PAGES)
# This mapping is not part of VmSize (arch/x86/entry/vsyscall, gate_vma).
_OUTSIDE = b"[vsyscall]"


class Counters(NamedTuple):
    """Counters of /proc/PID/status, in bytes except for `threads`."""

    threads: int
    mapped: int
    """VmSize."""
    anonymous: int
    """The most that can be resident or swapped out: RssAnon and VmSwap."""
    huge: int
    """HugetlbPages."""


class Surroundings(NamedTuple):
    """Facts for an estimate that do not come from the process."""

    registers: int
    """The most bytes of extended registers that a thread can have."""
    shmem_device: bytes
    """The device of shared memory without a path (memfd, System V, /dev/zero), as in maps."""
    keeps_lost_files: bool
    """The core keeps private mappings of lost files (memory_rules.py)."""
    has_text: bool = False
    """The core has the code that lies in files."""
    of_a_stack: int = 0
    """The core has so many bytes of a thread's stacks, and what a debugger needs to unwind them.
    0: the filter decides."""
    has_referenced: bool = False
    """With `of_a_stack`: it also has what registers and stacks point to."""
    include: Patterns = NONE
    """The core has these mappings and ranges.  The estimate counts all that have a name: users whom
    /proc shows no names see it, and would find them out by asking for one pattern after the
    other."""
    tells_pages: bool = True
    """/proc/PID/pagemap tells which pages are populated; if False, all pages count as populated."""
    tells_leases: bool = True
    """/proc/locks tells which files must not be opened; if False, no file's holes are known."""


class MappedFile(Protocol):
    """The file behind a mapping."""

    @property
    def links(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def allocated(self) -> int:
        """Bytes that the file occupies, in memory or swapped out."""


class Estimate:
    """The size of the core of a process whose coredump_filter is `mask`."""

    def __init__(
        self,
        mask: int,
        counters: Counters,
        surroundings: Surroundings,
        ask: Callable[[int, int], MappedFile | None],
    ) -> None:
        """`ask` takes start and end of a mapping and returns its file, or None if unknown."""
        self._mask = mask
        self._counters = counters
        self._surroundings = surroundings
        self._ask = ask
        # All in bytes.
        self._whole = 0  # of mappings that the core has as a whole
        self._sparse = 0  # of mappings of which the core has the populated pages
        self._populated = 0  # of _sparse: populated
        self._undivided = 0  # of _sparse: a .bss, whose small holes are filled with zeros
        self._huge = 0  # of anonymous mappings of huge pages
        threads = counters.threads
        self._notes = _NOTES_OF_A_PROCESS
        self._notes += threads * (_NOTES_OF_A_THREAD + surroundings.registers)
        self._notes += min(threads, _THREADS_WITH_PORTS) * _PORTS

    def of(self, maps: Iterable[bytes]) -> int:
        """The most bytes that the file can have.

        `maps`: the text in pieces.  MapsError: the kernel did not write it.
        """
        of_a_stack = self._surroundings.of_a_stack
        found = FewLines(_CODE_WITHOUT_A_FILE if of_a_stack else ())
        for piece in maps:
            found.add(piece)
        lines = found.lines()
        has_probes = any(line.name == b"[uprobes]" for line in lines)
        plain = self._counters.mapped
        row: list[Line] = []  # what one mmap(2) made
        for line in lines:
            if row and not line.goes_on(row[-1]):
                self._add_row(row, has_probes)
                if line.file is None and row[-1].end == line.start:
                    self._undivided += min(line.end - line.start, BSS_UNDIVIDED)
                row = []
            if line.file is not None:
                row.append(line)
            elif line.name:
                self._add_named(line)
            if line.file is not None or line.name not in (b"", _OUTSIDE):
                plain -= line.end - line.start
        self._add_row(row, has_probes)
        if self._mask & rules.ANON_PRIVATE:
            self._add_private(max(0, plain), self._counters.anonymous)
        if self._mask & rules.HUGETLB_PRIVATE:
            self._add_private(self._huge, min(self._huge, self._counters.huge))
        self._add_included(lines)
        if of_a_stack:
            self._add_stacks(of_a_stack, has_such_code=found.has_sought)
        memory = most_bytes(
            self._populated, self._sparse, self._whole, found.count, self._undivided
        )
        return memory + page_up(ELF64.ehdr_size + 2 * ELF64.shdr_size + self._notes)

    def _add_private(self, size: int, populated: int = 0) -> None:
        """Add private memory without a file."""
        self._sparse += size
        self._populated += populated if self._surroundings.tells_pages else size

    def _add_included(self, lines: Sequence[Line]) -> None:
        include, mapped = self._surroundings.include, self._counters.mapped
        included = sum(end - start for start, end in include.ranges)
        if include.expression:
            included += sum(line.end - line.start for line in lines if line.name)
        self._whole += min(included, mapped)

    def _add_stacks(self, size: int, has_such_code: bool) -> None:
        threads, mapped = self._counters.threads, self._counters.mapped
        stacks = min(threads * size, mapped)
        self._add_private(stacks, min(stacks, self._counters.anonymous))
        rest = MOST_OF_LINKER + MOST_OF_DATA + threads * MOST_OF_A_THREAD
        if has_such_code:
            rest += MOST_OF_LOST_CODE
        if self._surroundings.has_referenced:
            rest += MOST_REFERENCED
        self._whole += min(rest, mapped)

    def _add_named(self, line: Line) -> None:
        """Add a mapping that has a name but no file."""
        if is_special_name(line.name):
            self._whole += line.end - line.start
        elif self._mask & rules.ANON_PRIVATE:
            self._add_private(line.end - line.start)
        self._notes += len(line.name) + _NOTE_OF_A_NAME

    def _add_row(self, row: list[Line], has_probes: bool) -> None:
        is_written = any(b"w" in line.perms for line in row)
        for line in row:
            self._notes += len(line.name) + _NOTE_OF_A_FILE
            if self._surroundings.has_text and b"x" in line.perms:
                self._whole += line.end - line.start
            elif line.is_shared:
                self._add_shared(line)
            elif line.name == HUGE_PAGES:
                self._huge += line.end - line.start
            elif self._may_be_whole(line, is_written or (has_probes and b"x" in line.perms)):
                self._whole += line.end - line.start
            elif self._mask & rules.ELF_HEADERS and not line.offset:
                self._whole += PAGE_SIZE

    def _may_be_whole(self, line: Line, is_written: bool) -> bool:
        """The core may have all of this private mapping of a file (filter.py, dump_size)."""
        return bool(
            self._mask & (rules.MAPPED_PRIVATE | rules.DAX_PRIVATE)
            or (self._mask & rules.ANON_PRIVATE and (is_written or self._may_be_kept(line)))
            or (self._mask & rules.HUGETLB_PRIVATE and line.may_be_huge)
        )

    def _may_be_kept(self, line: Line) -> bool:
        """The core may have it although the kernel leaves it out (filter.py, kept_size)."""
        is_kept = self._surroundings.keeps_lost_files and line.perms[:3] != b"---"
        return is_kept and may_be_lost(line.name)

    def _add_shared(self, line: Line) -> None:
        size = line.end - line.start
        is_shmem = line.file is not None and line.file[0] == self._surroundings.shmem_device
        if line.may_be_huge and not is_shmem:
            if self._mask & rules.HUGETLB_SHARED:
                self._whole += size
                return
            if line.name.startswith(_NAMELESS):  # these are huge pages
                return
        if self._mask & rules.DAX_SHARED and not is_shmem:
            self._whole += size
            return
        wanted = self._mask & (rules.ANON_SHARED | rules.MAPPED_SHARED)
        file = self._ask(line.start, line.end) if wanted else None
        if wanted in (rules.ANON_SHARED, rules.MAPPED_SHARED):
            # The same rule as in process/filter_facts.py, is_unlinked.
            is_unlinked = (
                line.name.endswith(_DELETED) or line.name.startswith(b"[anon_shmem")
                if file is None
                else file.links == 0
            )
            wanted = is_unlinked == (wanted == rules.ANON_SHARED)
        if not wanted:
            return
        if file is None or not is_shmem or not self._surroundings.tells_leases:
            self._whole += size
            return
        # The part behind the end of the file has no memory, but does not count as a hole
        # (process/shmem.py).
        behind = max(0, line.offset + size - page_up(file.size))
        self._sparse += size
        self._populated += min(size, file.allocated + behind)


def may_be_lost(name: bytes) -> bool:
    """True if the file with this name in maps may not show the mapped bytes any more.

    With memory=filter and a mask, the core has all of a private mapping of that file.
    """
    return name.endswith(_DELETED)
