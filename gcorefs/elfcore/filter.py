"""How much of a mapping the kernel's own dumper would take.

The rules and their order are those of fs/coredump.c, vma_dump_size() and the ELF header
check of dump_vma_snapshot(); the bits are those of /proc/PID/coredump_filter (core(5)).
Three things cannot be seen from outside:
- DAX mappings (bits 7 and 8) are taken for ordinary file mappings;
- a private mapping of which nothing written is left (emptied by MADV_DONTNEED, or split off
  one that was written elsewhere) is taken for one never written; it holds zeros or the file;
- a private mapping of a tmpfs file that is swapped out is taken for one written
  (fs/proc/task_mmu.c, smap_gather_stats, counts the file's swap as its own).
"""

from collections.abc import Callable

from gcorefs.elfcore.elf import PAGE_SIZE, PF_R
from gcorefs.elfcore.vma import Vma

ANON_PRIVATE = 1 << 0
ANON_SHARED = 1 << 1
MAPPED_PRIVATE = 1 << 2
MAPPED_SHARED = 1 << 3
ELF_HEADERS = 1 << 4
HUGETLB_PRIVATE = 1 << 5
HUGETLB_SHARED = 1 << 6

DEFAULT = ANON_PRIVATE | ANON_SHARED | ELF_HEADERS | HUGETLB_PRIVATE


def dump_size(
    vma: Vma,
    mask: int,
    is_unlinked: Callable[[Vma], bool],
    is_program: Callable[[Vma], bool],
) -> int:
    """Bytes from the start of `vma` that belong in the core: none, one page or all.

    `is_unlinked` tells whether the mapped file has no name left (i_nlink == 0), `is_program`
    whether its mode has an x bit or it begins as an ELF file does; each is asked only where
    the answer matters, since the asking costs a system call.
    """
    if vma.is_special:
        return vma.size
    if "dd" in vma.vm_flags:
        return 0
    shared = "sh" in vma.vm_flags
    if "ht" in vma.vm_flags:
        return vma.size if mask & (HUGETLB_SHARED if shared else HUGETLB_PRIVATE) else 0
    if "io" in vma.vm_flags:
        return 0
    if shared:
        wanted = mask & (ANON_SHARED | MAPPED_SHARED)
        if wanted in (ANON_SHARED, MAPPED_SHARED):
            wanted = (wanted == ANON_SHARED) == is_unlinked(vma)
        return vma.size if wanted else 0
    if (vma.anonymous or vma.swapped) and mask & ANON_PRIVATE:
        return vma.size
    if not vma.has_file:
        return 0
    if mask & MAPPED_PRIVATE:
        return vma.size
    if mask & ELF_HEADERS and vma.offset == 0 and vma.flags & PF_R and is_program(vma):
        return PAGE_SIZE
    return 0
