"""Which pages of the mappings that are in the core cannot be had, before any is read.

A page that nobody can read costs a page of zeros in the core (memory.py).  Most of these can
be told from what the kernel keeps, without a page being touched or anybody being asked:

- past the end of a mapped file there is nothing (mm/filemap.c, filemap_fault; SIGBUS), and
  what was there when the file was longer is gone (mm/truncate.c, truncate_pagecache);
- guards (MADV_GUARD_INSTALL) and pages that userfaultfd(2) poisoned (UFFDIO_POISON) are
  markers in the page tables (include/linux/swapops.h, PTE_MARKER_*);
- memory from memfd_secret(2) is nobody's but the process's own (mm/gup.c, check_vma_flags).

Not told: pages with a hardware error, mappings of devices, poison that outlived its userfaultfd,
guards where PAGEMAP_SCAN does not show them (before 6.16), files that are not shown to us
(without CAP_CHECKPOINT_RESTORE).  These are seen when they are read.
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
from gcorefs.elfcore.vma import Vma, VmFlag
from gcorefs.kernel.pagemap_scan import GUARD, PRESENT, SWAPPED
from gcorefs.kernel.proc import address_space, map_files
from gcorefs.process.absent import source_of
from gcorefs.process.mapped_files import FileKey, MappedFiles, file_key
from gcorefs.process.pagemap import Pagemap
from gcorefs.process.patience import Question, ask_each

Range = tuple[int, int]

_MADV_GUARD_INSTALL = 102
_FLAGS_WITH_GUARD = re.compile(rb"^VmFlags:.* gu ", re.MULTILINE)


def unreadable(
    files: MappedFiles, taken: Sequence[tuple[Vma, int]], pagemap: Pagemap
) -> list[Range]:
    """Ranges of whole pages, in order and apart, of the process that has mapped these files.

    `taken`: mappings in address order, each with how many bytes from its start are wanted.
    """
    guards = _guards_of_this_kernel()
    wanted = [
        (vma, vma.start + size)
        for vma, size in taken
        if size
        # Of plain memory nothing is told but guards that are not shown.
        and (not vma.kind.is_plain or guards is _Guards.ANYWHERE)
        and not vma.kind.is_special
    ]
    secret = map_files.secretmem_device()
    found: list[Range] = []
    for vma, end in wanted:
        if vma.dev == secret:
            found.append((vma.start, end))
        elif vma.vm_flags & (VmFlag.UFFD_MISSING | VmFlag.UFFD_MINOR | VmFlag.UFFD_WP):
            found += pagemap.poisoned(vma.start, end)
    if guards is not _Guards.NONE:
        found += _guarded(wanted, guards, pagemap)
    for vma, end, size in _files(files, wanted):
        first = vma.start + max(0, page_up(size) - vma.offset)
        if first < end:
            found += _absent(first, end, pagemap)
    return _merged(found)


def _files(files: MappedFiles, wanted: Sequence[tuple[Vma, int]]) -> Iterator[tuple[Vma, int, int]]:
    """Those that map a file which has an end, with its size.  Each file is asked once."""
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
    """What of a range is in no page table.  What is there can be read, whatever the file's size:
    drivers fill in pages by themselves (tracefs)."""
    populated = pagemap.scan(start, end, any_of=PRESENT | SWAPPED)
    for first, last in zip(*populated or ((), ()), strict=True):
        if start < first:
            yield start, first
        start = last
    if start < end:
        yield start, end


class _Guards(enum.Enum):
    """What this kernel has of them."""

    NONE = "no guards"
    SHOWN = "VmFlags says which mappings may have some"
    ANYWHERE = "any mapping may have some"


@functools.cache
def _guards_of_this_kernel() -> _Guards:
    """By a guard of our own: no number of a version tells what was brought to an older one."""
    with mmap.mmap(-1, PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        try:
            memory.madvise(_MADV_GUARD_INSTALL)
        except OSError:
            return _Guards.NONE
        is_shown = _FLAGS_WITH_GUARD.search(address_space.read_mm(os.getpid(), "smaps"))
    return _Guards.SHOWN if is_shown else _Guards.ANYWHERE


def _guarded(
    wanted: Sequence[tuple[Vma, int]], guards: _Guards, pagemap: Pagemap
) -> Iterator[Range]:
    shown = guards is _Guards.SHOWN
    possible = [(vma, end) for vma, end in wanted if not shown or vma.kind.has_guards]
    # Neighbours in one scan: of thousands of mappings few have any.
    for start, end in _merged([(vma.start, end) for vma, end in possible]):
        yield from zip(*pagemap.scan(start, end, all_of=GUARD) or ((), ()), strict=True)


def _merged(ranges: list[Range]) -> list[Range]:
    merged: list[Range] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((start, end))
    return merged
