"""Finds the unreadable pages of the mappings in the core, before any page is read.

An unreadable page is a page of zeros in the core (memory.py).  The kernel's own records show most
of these pages, without touching a page:

- past the end of a mapped file there are no pages (mm/filemap.c, filemap_fault; SIGBUS), and the
  pages from when the file was longer are gone (mm/truncate.c, truncate_pagecache);
- pages that userfaultfd(2) poisoned (UFFDIO_POISON) are markers in the page tables
  (include/linux/swapops.h, PTE_MARKER_POISONED);
- only the process itself can read memory of memfd_secret(2) (mm/gup.c, check_vma_flags).

The following pages are found only when they are read: pages with a hardware error, mappings of
devices, poison that outlived its userfaultfd, and pages of files that we may not see (without
CAP_CHECKPOINT_RESTORE).  Guards are no loss (guards.py).
"""

import stat
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from gcorefs.elfcore.elf import page_up
from gcorefs.elfcore.selection import Range, whole_pages
from gcorefs.elfcore.vma import Vma
from gcorefs.kernel.proc import map_files
from gcorefs.process.bounded_questions import Question, ask_each
from gcorefs.process.mapped_files import FileKey, MappedFiles, file_key
from gcorefs.process.page_providers import source_of
from gcorefs.process.pagemap import Pagemap


def unreadable(
    files: MappedFiles, taken: Iterable[tuple[Vma, int]], pagemap: Pagemap
) -> list[Range]:
    """The unreadable ranges of a process: whole pages, in order and disjoint.

    `taken`: mappings in address order, each with the number of bytes wanted from its start.
    """
    wanted = [
        (vma, vma.start + size)
        for vma, size in taken
        if not vma.kind.is_plain and size and not vma.kind.is_special
    ]
    secret = map_files.secretmem_device()
    found: list[Range] = []
    for vma, end in wanted:
        if vma.dev == secret:
            found.append((vma.start, end))
        elif vma.kind.is_watched:
            found += pagemap.poisoned(vma.start, end)
    for vma, end, size in _files(files, wanted):
        first = vma.start + max(0, page_up(size) - vma.offset)
        if first < end:
            found += _absent(first, end, pagemap)
    return whole_pages(found)


def _files(files: MappedFiles, wanted: Sequence[tuple[Vma, int]]) -> Iterator[tuple[Vma, int, int]]:
    """Mappings of regular files, with the wanted end and the size of the file.  Each file is asked
    once.  If all have answered before, as is usual, no thread is started to ask them."""
    shmem = map_files.shmem_device()
    sizes: dict[FileKey, int | None] = {}
    questions: dict[FileKey, Question[int | None]] = {}
    for vma, _ in wanted:
        if vma in files:
            sizes[file_key(vma)] = _size(files, vma, may_wait=True)
        elif vma.has_file:
            source = source_of(vma, files.tid, shmem) or vma.dev
            questions.setdefault(file_key(vma), (source, partial(_size, files, vma)))
    answers = ask_each(list(questions.values()), lambda _: None)
    sizes.update(zip(questions, answers, strict=True))
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
