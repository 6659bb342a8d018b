"""How much of a mapping the kernel's own dumper would take.

The rules and their order are those of fs/coredump.c, vma_dump_size() and the ELF header
check of dump_vma_snapshot(); the bits are those of /proc/PID/coredump_filter (core(5)).
For the kernel, a mapping is written if vma->anon_vma is set, which only BPF shows
(sources/bpf).  With BPF our choice is exactly the kernel's.  Without it we decide by the pages, and
are wrong about a mapping without such pages:
- a private mapping that has lost all written pages (emptied by MADV_DONTNEED, split off a mapping
  that was written elsewhere, or given pages of zeros by UFFDIO_ZEROPAGE) counts as never written;
  it holds zeros or the bytes of the file;
- a mapping that has only guards, or that was only read and may have huge pages, also counts as
  never written on kernels that do not show this (VmFlags gu, PAGEMAP_SCAN).
Device DAX (/dev/dax0.0) counts as an ordinary mapping of a file: STATX_ATTR_DAX describes the
inode that has the name, but the kernel's rule is about the inode behind it (drivers/dax/device.c,
dax_open).

With memory=filter the core has more than the kernel's core (kept_size): the bytes that only the
live process has.  If a library was replaced on disk, its old code is nowhere else, and without it
a debugger cannot unwind.
"""

import enum
from typing import NamedTuple, Protocol

from gcorefs.arch.page import HUGE_PAGE_SIZE, PAGE_SIZE
from gcorefs.elfcore.elf import PF_R, page_up
from gcorefs.elfcore.vma import Vma

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
    """The process, or the kernel when it made the mapping, asked for this (VM_DONTDUMP)."""
    IO = "io"
    """Registers of a device: a read may have side effects (VM_IO)."""
    FILTER = "filter"
    """coredump_filter excludes it."""
    POLICY = "policy"
    """memory= of the policy excludes it (memory_rules.py)."""
    TOO_LARGE = "too_large"
    """The mapping is larger than largest= of the policy allows."""
    EXCLUDED = "excluded"
    """exclude= of the policy names it."""
    NO_ANSWER = "no_answer"
    """The policy takes it, but the server of its file did not answer in time."""
    UNTOUCHED = "untouched"
    """Private anonymous memory that was never written: nothing is lost."""
    TOO_FAR = "too_far"
    """It lies behind the first 4 GiB of a 32-bit core: p_offset is a 32-bit number."""


class Share(NamedTuple):
    """The part of a mapping that the core has."""

    size: int
    """Bytes from the start of the mapping."""
    left_out: LeftOut | None
    """Why the core does not have the rest; None if it has all."""
    beyond: int = 0
    """The part of `size` that the kernel's dumper would leave out."""


class Facts(Protocol):
    """Facts about a mapping that smaps does not show.  Each costs a system call, so the rules ask
    only if the answer matters."""

    def is_dax(self, vma: Vma) -> bool:
        """Accesses to the mapped file bypass the page cache (S_DAX)."""

    def is_unlinked(self, vma: Vma) -> bool:
        """The mapped file has no name left (i_nlink == 0)."""

    def is_program(self, vma: Vma) -> bool:
        """The mode of the mapped file has an x bit, or the file begins with the ELF magic."""

    def is_swapped_out(self, vma: Vma) -> bool:
        """A page table of the mapping has an entry that is swapped out.

        smaps counts the swap of a tmpfs file as swap of each mapping (fs/proc/task_mmu.c,
        smap_gather_stats), even if another process wrote it.
        """

    def has_huge_zero_page(self, vma: Vma) -> bool:
        """It has the huge zero page.  A read that maps the huge zero page makes an anon_vma
        (mm/huge_memory.c, do_huge_pmd_anonymous_page); a read of a small page does not."""

    def has_stack(self, vma: Vma) -> bool:
        """The stack pointer of a thread points into it."""

    def is_lost(self, vma: Vma) -> bool:
        """The path no longer leads to the mapped file as it was mapped: the file has no link
        left, the path leads to another file or to none, or the code in the file has changed."""

    def notes_end(self, vma: Vma) -> int:
        """The file offset where the notes of the mapped ELF file end; 0 if it is not known.

        The mapping must begin with the first byte of the file.
        """


def dump_size(vma: Vma, mask: int, facts: Facts) -> Share:
    """The part of `vma` that the kernel would dump with `mask` as coredump_filter."""
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
    """The part of `vma` that the kernel would dump, and the bytes that no file shows any more.

    A private mapping of a lost file counts as anonymous memory, because its bytes too are nowhere
    else.  The kernel dumps the first page of an ELF file for its build-id.  If the notes end
    behind that page (a long PT_INTERP comes first), the part reaches to their end.
    """
    share = dump_size(vma, mask, facts)
    if share.left_out is not LeftOut.FILTER or not vma.kind.is_private_file:
        return share
    if mask & ANON_PRIVATE and vma.flags and facts.is_lost(vma):
        return Share(vma.size, None, vma.size - share.size)
    if share.size == PAGE_SIZE and (end := page_up(facts.notes_end(vma))) > PAGE_SIZE:
        size = min(end, vma.size)
        return Share(size, LeftOut.FILTER if size < vma.size else None, size - share.size)
    return share


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
        return Share(0, LeftOut.FILTER if vma.is_written else LeftOut.UNTOUCHED)
    if mask & ELF_HEADERS and vma.offset == 0 and vma.flags & PF_R and facts.is_program(vma):
        return Share(PAGE_SIZE, None if vma.size == PAGE_SIZE else LeftOut.FILTER)
    return Share(0, LeftOut.FILTER)


def _all_if(wanted: object, vma: Vma) -> Share:
    return Share(vma.size, None) if wanted else Share(0, LeftOut.FILTER)


def _is_written(vma: Vma, facts: Facts) -> bool:
    """True if vma->anon_vma is set, as far as we can tell."""
    pages = vma.pages
    if pages.has_anon_vma is not None:
        return pages.has_anon_vma
    if pages.anonymous:
        return True
    if vma.has_file:
        return bool(pages.swapped) and facts.is_swapped_out(vma)
    # mm/madvise.c, madvise_guard_install: anonymous memory gets an anon_vma before the guards.
    return bool(pages.swapped) or vma.kind.has_guards or _may_be_huge(vma, facts)


def _may_be_huge(vma: Vma, facts: Facts) -> bool:
    first = -(-vma.start // HUGE_PAGE_SIZE) * HUGE_PAGE_SIZE
    return first + HUGE_PAGE_SIZE <= vma.end and facts.has_huge_zero_page(vma)
