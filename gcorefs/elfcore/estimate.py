"""How large a core can be at most, by what is cheap to ask: the lines of /proc/PID/maps and
the counters of /proc/PID/status.

Neither looks at a page table, as smaps does, so nobody waits for a process to be looked
through.  What they do not tell is taken for the larger: lldb asks for the size before it opens
the file, and reads no further.  These stay unseen, and can make a core larger than its estimate:
- pages of a mapping that cannot be written which something else wrote: a debugger or a probe
  into program text, a relocation of it, the process itself before an mprotect(2) of the whole
  mapping.  The core has the whole mapping then;
- a file that is lost, and not marked as deleted: changed in place, or at no path any more; notes
  of an ELF file that do not end in its first page (filter.py, kept_size);
- pages that are populated and counted nowhere: guards (MADV_GUARD_INSTALL), anything that
  userfaultfd(2) watches, and before Linux 6.7, which tells them apart, pages of zeros.
MADV_DONTDUMP does not show either, and makes it smaller.
"""

import re
from collections.abc import Callable
from typing import NamedTuple, Protocol

from gcorefs.arch.page import HUGE_PAGE_SIZE, PAGE_SIZE
from gcorefs.elfcore import filter as rules
from gcorefs.elfcore.elf import ELF64, page_up
from gcorefs.elfcore.segments import BSS_UNDIVIDED, most_bytes
from gcorefs.elfcore.vma import HUGE_PAGES, MapsError, is_special_name

# Of the notes: what is there once, with room for the facts in our own; and for each thread,
# mapping with a file, and mapping with a name of the kernel's, beside their registers and names.
_NOTES_OF_A_PROCESS = 16 << 10
_NOTES_OF_A_THREAD = 1536
_NOTE_OF_A_FILE = 3 * ELF64.word_size + 1
_NOTE_OF_A_NAME = 64
# The bitmap of ioperm(2), which few threads of few processes have.
_PORTS = 8 << 10
_THREADS_WITH_PORTS = 16

_DELETED = b" (deleted)"
# Files that their users gave no name: memfd_create(2), shmget(2), huge pages by mmap(2).
_NAMELESS = (b"/memfd:", b"/SYSV", HUGE_PAGES)
# It lies outside of what a process has mapped (arch/x86/entry/vsyscall, gate_vma).
_OUTSIDE = b"[vsyscall]"

# A line of a private mapping without a file and without a name, behind its offset.
_PLAIN = b" 00:00 0 \n"
# Any other line, or the beginning of such a one.
_LINE = re.compile(
    rb"^([0-9a-f]{1,16})-([0-9a-f]{1,16}) ([r-][w-][x-][ps]) ([0-9a-f]{1,16})"
    rb"(?: ([0-9a-f]+:[0-9a-f]+) (\d{1,20}) *+([^\n]*+))?$",
    re.MULTILINE,
)


class Counters(NamedTuple):
    """What /proc/PID/status tells, in bytes but for `threads`."""

    threads: int
    mapped: int
    """VmSize."""
    anonymous: int
    """Resident or swapped out, at the most: RssAnon and VmSwap."""
    huge: int
    """HugetlbPages."""


class Surroundings(NamedTuple):
    """What an estimate has to know beside the process."""

    registers: int
    """Bytes of the extended registers of a thread, at the most."""
    shmem_device: bytes
    """Of memory without a name, as maps writes it: memfd, System V, /dev/zero."""
    keeps_lost_files: bool
    """The core has what no file shows any more (memory=filter)."""
    tells_pages: bool = True
    """/proc/PID/pagemap tells what is populated; else all that is mapped counts as that."""
    tells_leases: bool = True
    """/proc/locks tells which files must not be opened; else the holes of none are known."""


class MappedFile(Protocol):
    """The file behind a mapping."""

    @property
    def links(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def allocated(self) -> int:
        """Bytes that it takes, in memory or swapped out."""


class _Line(NamedTuple):
    """One mapping.  There may be thousands, so most of it is asked where it is needed."""

    start: int
    end: int
    perms: bytes
    offset: int
    name: bytes
    file: tuple[bytes, bytes] | None
    """Tells two files apart; None where there is none."""

    @property
    def is_shared(self) -> bool:
        return self.perms[3:] == b"s"

    @property
    def may_be_huge(self) -> bool:
        """It can be one of hugetlbfs, whose device has no number of a driver's."""
        alignment = HUGE_PAGE_SIZE - 1
        is_aligned = not (self.start | self.end | self.offset) & alignment
        return is_aligned and self.file is not None and self.file[0].startswith(b"00:")

    def goes_on(self, before: "_Line") -> bool:
        """One mmap(2) made both, and an mprotect(2) of a part made them two, as far as can be
        seen: .data and what the dynamic linker protects of it, for one.

        Two that are alike were never one, or the kernel had made them one again (mm/vma.c,
        can_vma_merge_after).
        """
        return (
            self.start == before.end
            and self.file is not None
            and self.file == before.file
            and self.offset == before.offset + before.end - before.start
            and self.is_shared == before.is_shared
            and self.perms != before.perms
            and b"x" not in self.perms + before.perms
        )


class Estimate:
    """Of a process whose coredump_filter is `mask`."""

    def __init__(
        self,
        mask: int,
        counters: Counters,
        surroundings: Surroundings,
        ask: Callable[[int, int], MappedFile | None],
    ) -> None:
        """`ask`: for the file that is mapped from start to end; None where it is not shown."""
        self._mask = mask
        self._counters = counters
        self._surroundings = surroundings
        self._ask = ask
        self._whole = 0  # bytes that are in the core whatever was touched of them
        self._sparse = 0  # of mappings of which those that are populated are in it
        self._populated = 0  # of these
        self._undivided = 0  # of these, where holes are filled with zeros
        self._huge = 0  # of mappings of huge pages without a name
        threads = counters.threads
        self._notes = _NOTES_OF_A_PROCESS
        self._notes += threads * (_NOTES_OF_A_THREAD + surroundings.registers)
        self._notes += min(threads, _THREADS_WITH_PORTS) * _PORTS

    def of(self, maps: bytes) -> int:
        """Bytes of the file at the most.  MapsError where `maps` is no text of the kernel's."""
        lines = _lines(maps)
        has_probes = b"[uprobes]\n" in maps
        plain = self._counters.mapped
        row: list[_Line] = []  # what one mmap(2) made
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
        memory = most_bytes(
            self._populated, self._sparse, self._whole, maps.count(b"\n"), self._undivided
        )
        return memory + page_up(ELF64.ehdr_size + 2 * ELF64.shdr_size + self._notes)

    def _add_private(self, size: int, populated: int = 0) -> None:
        """Memory without a file."""
        self._sparse += size
        self._populated += populated if self._surroundings.tells_pages else size

    def _add_named(self, line: _Line) -> None:
        """A mapping without a file."""
        if is_special_name(line.name):
            self._whole += line.end - line.start
        elif self._mask & rules.ANON_PRIVATE:
            self._add_private(line.end - line.start)
        self._notes += len(line.name) + _NOTE_OF_A_NAME

    def _add_row(self, row: list[_Line], has_probes: bool) -> None:
        is_written = any(b"w" in line.perms for line in row)
        for line in row:
            self._notes += len(line.name) + _NOTE_OF_A_FILE
            if line.is_shared:
                self._add_shared(line)
            elif line.name == HUGE_PAGES:
                self._huge += line.end - line.start
            elif self._may_be_whole(line, is_written or (has_probes and b"x" in line.perms)):
                self._whole += line.end - line.start
            elif self._mask & rules.ELF_HEADERS and not line.offset:
                self._whole += PAGE_SIZE

    def _may_be_whole(self, line: _Line, is_written: bool) -> bool:
        """A private mapping of a file, as far as can be told (filter.py, dump_size)."""
        return bool(
            self._mask & (rules.MAPPED_PRIVATE | rules.DAX_PRIVATE)
            or (self._mask & rules.ANON_PRIVATE and (is_written or self._may_be_kept(line)))
            or (self._mask & rules.HUGETLB_PRIVATE and line.may_be_huge)
        )

    def _may_be_kept(self, line: _Line) -> bool:
        """It is in the core though the kernel would leave it out (filter.py, kept_size)."""
        is_kept = self._surroundings.keeps_lost_files and line.perms[:3] != b"---"
        return is_kept and may_be_lost(line.name)

    def _add_shared(self, line: _Line) -> None:
        size = line.end - line.start
        is_shmem = line.file is not None and line.file[0] == self._surroundings.shmem_device
        if line.may_be_huge and not is_shmem:
            if self._mask & rules.HUGETLB_SHARED:
                self._whole += size
                return
            if line.name.startswith(_NAMELESS):  # which is huge pages, then
                return
        if self._mask & rules.DAX_SHARED and not is_shmem:
            self._whole += size
            return
        wanted = self._mask & (rules.ANON_SHARED | rules.MAPPED_SHARED)
        file = self._ask(line.start, line.end) if wanted else None
        if wanted in (rules.ANON_SHARED, rules.MAPPED_SHARED):
            # As facts.py has it.
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
        # Behind the end of the file there is nothing, and no hole either (shared.py).
        behind = max(0, line.offset + size - page_up(file.size))
        self._sparse += size
        self._populated += min(size, file.allocated + behind)


def may_be_lost(name: bytes) -> bool:
    """True where the file that is mapped may not show its bytes any more, by its name in maps.

    With memory=filter the core has such a private mapping in whole.
    """
    return name.endswith(_DELETED)


def _lines(maps: bytes) -> list[_Line]:
    """All mappings with a file or a name, and whatever else stands behind one of these.

    Of 70,000 mappings most are plain memory, and the whole of that is known.
    """
    parts = [part for part in maps.split(_PLAIN) if b"\n" in part]
    # The last line of a part is the beginning of a plain one.
    text = b"\n".join(parts)
    found = [
        _Line(
            int(start, 16),
            int(end, 16),
            perms,
            int(offset, 16),
            name,
            (dev, inode) if inode.strip(b"0") or name[:1] == b"/" else None,
        )
        for start, end, perms, offset, dev, inode, name in _LINE.findall(text)
    ]
    if len(found) != sum(1 for line in text.split(b"\n") if line):
        raise MapsError("unexpected text in maps")
    return found
