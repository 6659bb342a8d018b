"""How much of a mapping the kernel's own dumper would take.

The rules and their order are those of fs/coredump.c, vma_dump_size() and the ELF header
check of dump_vma_snapshot(); the bits are those of /proc/PID/coredump_filter (core(5)).
"Written" is there whether vma->anon_vma is set, which nothing outside the kernel shows.  So
these are told by their pages, and where there are none, wrongly:
- a private mapping of which nothing written is left (emptied by MADV_DONTNEED, split off one
  that was written elsewhere, or given pages of zeros by UFFDIO_ZEROPAGE) is taken for one
  never written; it holds zeros or the file;
- so is one with nothing in it but guards, or one that was only read and may have huge pages,
  on kernels that do not show these (VmFlags gu, PAGEMAP_SCAN).
And device DAX (/dev/dax0.0) is taken for an ordinary mapping of a file: STATX_ATTR_DAX tells
of the inode that has the name, the kernel's rule is about the one behind it
(drivers/dax/device.c, dax_open).

With memory=filter the core has more than the kernel's (kept_size): the bytes that only the live
process has.  A library that was replaced on disk is nowhere else, and a debugger cannot unwind
through it.
"""

import enum
from typing import NamedTuple, Protocol

from gcorefs.arch.page import HUGE_PAGE_SIZE, PAGE_SIZE
from gcorefs.elfcore.elf import PF_R, page_up
from gcorefs.elfcore.vma import Vma, VmFlag

ANON_PRIVATE = 1 << 0
ANON_SHARED = 1 << 1
MAPPED_PRIVATE = 1 << 2
MAPPED_SHARED = 1 << 3
ELF_HEADERS = 1 << 4
HUGETLB_PRIVATE = 1 << 5
HUGETLB_SHARED = 1 << 6
DAX_PRIVATE = 1 << 7
DAX_SHARED = 1 << 8

DEFAULT = ANON_PRIVATE | ANON_SHARED | ELF_HEADERS | HUGETLB_PRIVATE


class LeftOut(enum.Enum):
    """Why bytes of a mapping are not in the core."""

    DONTDUMP = "dontdump"
    """The process asked for that, or the kernel did when it made the mapping (VM_DONTDUMP)."""
    IO = "io"
    """Registers of a device: to read them may do something (VM_IO)."""
    FILTER = "filter"
    """coredump_filter."""
    UNTOUCHED = "untouched"
    """Private anonymous memory in which nothing was ever written: no loss."""
    TOO_FAR = "too_far"
    """Behind four gibibytes of the file of a 32-bit process: p_offset is a 32-bit number."""


class Share(NamedTuple):
    """What the core has of a mapping."""

    size: int
    """Bytes from its start: none, one page or all."""
    left_out: LeftOut | None
    """Why it has no more; None where it has all."""
    beyond: int = 0
    """Of these, bytes that the kernel's dumper would not take."""


class Facts(Protocol):
    """What smaps does not say of a mapping.  Each is asked only where the answer matters, since
    the asking costs a system call."""

    def is_dax(self, vma: Vma) -> bool:
        """The mapped file is one that is accessed past the page cache (S_DAX)."""

    def is_unlinked(self, vma: Vma) -> bool:
        """The mapped file has no name left (i_nlink == 0)."""

    def is_program(self, vma: Vma) -> bool:
        """The mode of the mapped file has an x bit, or it begins as an ELF file does."""

    def is_swapped_out(self, vma: Vma) -> bool:
        """A page table of the mapping has an entry that is swapped out.

        smaps counts the swap of a tmpfs file as that of its mappings (fs/proc/task_mmu.c,
        smap_gather_stats), whoever wrote it.
        """

    def has_huge_zero_page(self, vma: Vma) -> bool:
        """It was read, and may have huge pages: such a read makes an anon_vma (mm/huge_memory.c,
        do_huge_pmd_anonymous_page), that of a small page does not."""

    def is_lost(self, vma: Vma) -> bool:
        """Nobody finds the mapped file by its path any more as it was mapped: it has no link
        left, the path leads to another file or to none, or its code has changed."""

    def notes_end(self, vma: Vma) -> int:
        """Where the notes of the ELF file end that is mapped from its first byte on; 0 where
        that is not known."""


def dump_size(vma: Vma, mask: int, facts: Facts) -> Share:
    """What the kernel would take of `vma` with `mask` as its coredump_filter."""
    if vma.is_special:
        return Share(vma.size, None)
    if vma.kind.is_dontdump:
        return Share(0, LeftOut.DONTDUMP)
    found = _without_dax(vma, mask, facts)
    if vma.has_file and not vma.kind.is_hugetlb:
        by_dax = _all_if(mask & (DAX_SHARED if vma.kind.is_shared else DAX_PRIVATE), vma)
        if found.size != by_dax.size and facts.is_dax(vma):
            return by_dax
    return found


def kept_size(vma: Vma, mask: int, facts: Facts) -> Share:
    """What the kernel would take, and what no file shows any more.

    Private memory of a file that is lost counts as anonymous memory, which nothing shows
    either.  Where the kernel takes the first page of an ELF file, for its build-id, the notes
    may lie behind it: a long PT_INTERP comes first.
    """
    share = dump_size(vma, mask, facts)
    if share.left_out is not LeftOut.FILTER or not _is_private_file(vma):
        return share
    if mask & ANON_PRIVATE and vma.flags and facts.is_lost(vma):
        return Share(vma.size, None, vma.size - share.size)
    if share.size == PAGE_SIZE and (end := page_up(facts.notes_end(vma))) > PAGE_SIZE:
        size = min(end, vma.size)
        return Share(size, LeftOut.FILTER if size < vma.size else None, size - share.size)
    return share


def _is_private_file(vma: Vma) -> bool:
    """Nor memory of a device, whose bytes come from no page of a file; nor a shared mapping that
    may only be read (VM_MAYSHARE alone)."""
    return vma.has_file and not vma.vm_flags & _NOT_OF_A_PRIVATE_FILE


_NOT_OF_A_PRIVATE_FILE = (
    VmFlag.SHARED | VmFlag.MAYSHARE | VmFlag.HUGETLB
    | VmFlag.IO | VmFlag.PFNMAP | VmFlag.MIXEDMAP
)  # fmt: skip


def _without_dax(vma: Vma, mask: int, facts: Facts) -> Share:
    shared = vma.kind.is_shared
    if vma.kind.is_hugetlb:
        return _all_if(mask & (HUGETLB_SHARED if shared else HUGETLB_PRIVATE), vma)
    if vma.kind.is_io:
        return Share(0, LeftOut.IO)
    if shared:
        wanted = mask & (ANON_SHARED | MAPPED_SHARED)
        if wanted in (ANON_SHARED, MAPPED_SHARED):
            return _all_if((wanted == ANON_SHARED) == facts.is_unlinked(vma), vma)
        return _all_if(wanted, vma)
    if mask & (MAPPED_PRIVATE if vma.has_file else 0):
        return Share(vma.size, None)
    if mask & ANON_PRIVATE and _is_written(vma, facts):
        return Share(vma.size, None)
    if not vma.has_file:
        is_written = vma.anonymous or vma.swapped
        return Share(0, LeftOut.FILTER if is_written else LeftOut.UNTOUCHED)
    if mask & ELF_HEADERS and vma.offset == 0 and vma.flags & PF_R and facts.is_program(vma):
        return Share(PAGE_SIZE, None if vma.size == PAGE_SIZE else LeftOut.FILTER)
    return Share(0, LeftOut.FILTER)


def _all_if(wanted: object, vma: Vma) -> Share:
    return Share(vma.size, None) if wanted else Share(0, LeftOut.FILTER)


def _is_written(vma: Vma, facts: Facts) -> bool:
    """Whether vma->anon_vma is set, as far as can be told."""
    if vma.anonymous:
        return True
    if vma.has_file:
        return bool(vma.swapped) and facts.is_swapped_out(vma)
    # mm/madvise.c, madvise_guard_install: anonymous memory has an anon_vma before it has guards.
    return bool(vma.swapped) or vma.kind.has_guards or _may_be_huge(vma, facts)


def _may_be_huge(vma: Vma, facts: Facts) -> bool:
    first = -(-vma.start // HUGE_PAGE_SIZE) * HUGE_PAGE_SIZE
    return first + HUGE_PAGE_SIZE <= vma.end and facts.has_huge_zero_page(vma)
