"""Finds the unreadable pages of the mappings in the core, before any page is read.

An unreadable page is a page of zeros in the core (memory.py).  The kernel's own records show most
of these pages, without touching a page:

- past the end of a mapped file there are no pages (mm/filemap.c, filemap_fault; SIGBUS), and the
  pages from when the file was longer are gone (mm/truncate.c, truncate_pagecache);
- guards (MADV_GUARD_INSTALL) and pages that userfaultfd(2) poisoned (UFFDIO_POISON) are
  markers in the page tables (include/linux/swapops.h, PTE_MARKER_*);
- only the process itself can read memory of memfd_secret(2) (mm/gup.c, check_vma_flags).

The following pages are found only when they are read: pages with a hardware error, mappings of
devices, poison that outlived its userfaultfd, guards that PAGEMAP_SCAN does not show (before 6.16),
and pages of files that we may not see (without CAP_CHECKPOINT_RESTORE).
"""

import enum
import functools
import mmap
import os
import re
import stat
from collections.abc import Iterator, Sequence
from functools import partial

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.elf import page_up
from gcorefs.elfcore.selection import Range, whole_pages
from gcorefs.elfcore.vma import Vma, VmFlag
from gcorefs.kernel.pagemap_scan import GUARD
from gcorefs.kernel.proc import address_space, map_files
from gcorefs.process.bounded_questions import Question, ask_each
from gcorefs.process.mapped_files import FileKey, MappedFiles, file_key
from gcorefs.process.page_providers import source_of
from gcorefs.process.pagemap import Pagemap

_MADV_GUARD_INSTALL = 102
_FLAGS_WITH_GUARD = re.compile(rb"^VmFlags:.* gu ", re.MULTILINE)


def unreadable(
    files: MappedFiles, taken: Sequence[tuple[Vma, int]], pagemap: Pagemap
) -> list[Range]:
    """The unreadable ranges of a process: whole pages, in order and disjoint.

    `taken`: mappings in address order, each with the number of bytes wanted from its start.
    """
    guards = guards_of_this_kernel()
    wanted = [
        (vma, vma.start + size)
        for vma, size in taken
        if size
        # Plain memory has no unreadable pages but guards that VmFlags does not show.
        and (not vma.kind.is_plain or guards is Guards.ANYWHERE)
        and not vma.kind.is_special
    ]
    secret = map_files.secretmem_device()
    found: list[Range] = []
    for vma, end in wanted:
        if vma.dev == secret:
            found.append((vma.start, end))
        elif vma.vm_flags & (VmFlag.UFFD_MISSING | VmFlag.UFFD_MINOR | VmFlag.UFFD_WP):
            found += pagemap.poisoned(vma.start, end)
    if guards is not Guards.NONE:
        found += _guarded(wanted, guards, pagemap)
    for vma, end, size in _files(files, wanted):
        first = vma.start + max(0, page_up(size) - vma.offset)
        if first < end:
            found += _absent(first, end, pagemap)
    return whole_pages(found)


def _files(files: MappedFiles, wanted: Sequence[tuple[Vma, int]]) -> Iterator[tuple[Vma, int, int]]:
    """Mappings of regular files, with the wanted end and the size of the file.  Each file is asked
    once."""
    shmem = map_files.shmem_device()
    questions: dict[FileKey, Question[int | None]] = {}
    for vma, _ in wanted:
        if vma.has_file:
            source = source_of(vma, files.tid, shmem) or vma.dev
            questions.setdefault(file_key(vma), (source, partial(_size, files, vma)))
    answers = ask_each(list(questions.values()), lambda _: None)
    sizes = dict(zip(questions, answers, strict=True))
    for vma, end in wanted:
        size = sizes.get(file_key(vma))
        if size is not None:
            yield vma, end, size


def _size(files: MappedFiles, vma: Vma, may_wait: bool) -> int | None:
    file = files[vma] if may_wait else None
    return file.size if file is not None and stat.S_ISREG(file.mode) else None


def _absent(start: int, end: int, pagemap: Pagemap) -> Iterator[Range]:
    """The parts of a range that are in no page table.  A page that is there can be read whatever
    the size of the file: some drivers insert pages themselves (tracefs)."""
    for first, last in zip(*pagemap.mapped(start, end), strict=True):
        if start < first:
            yield start, first
        start = last
    if start < end:
        yield start, end


class Guards(enum.Enum):
    """Whether this kernel has guards, and whether it shows them."""

    NONE = "no guards"
    SHOWN = "VmFlags says which mappings may have some"
    ANYWHERE = "any mapping may have some"


@functools.cache
def guards_of_this_kernel() -> Guards:
    """Tests with a guard of our own: a version number does not show what was backported."""
    with mmap.mmap(-1, PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        try:
            memory.madvise(_MADV_GUARD_INSTALL)
        except OSError:
            return Guards.NONE
        is_shown = _FLAGS_WITH_GUARD.search(address_space.read_mm(os.getpid(), "smaps"))
    return Guards.SHOWN if is_shown else Guards.ANYWHERE


def _guarded(
    wanted: Sequence[tuple[Vma, int]], guards: Guards, pagemap: Pagemap
) -> Iterator[Range]:
    shown = guards is Guards.SHOWN
    possible = [(vma, end) for vma, end in wanted if not shown or vma.kind.has_guards]
    # One scan for adjacent mappings: few of thousands have guards.
    for start, end in whole_pages([(vma.start, end) for vma, end in possible]):
        yield from zip(*pagemap.scan(start, end, all_of=GUARD) or ((), ()), strict=True)
