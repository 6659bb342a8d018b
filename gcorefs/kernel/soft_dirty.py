"""Soft-dirty: the kernel marks each page of a process that was written since the marks were cleared
(Documentation/admin-guide/mm/soft-dirty.rst; CONFIG_MEM_SOFT_DIRTY).

The marks belong to the process, not to whoever clears them.  If two watch the same process, the one
who clears takes the marks from the other.
"""

import ctypes
import functools
import mmap
import os
from array import array

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.kernel import process_vm
from gcorefs.kernel.proc import procfile

MARK = 1 << 55
"""In an entry of pagemap."""

_CLEAR = b"4"  # Documentation/filesystems/proc.rst, clear_refs


def clear(tid: int) -> None:
    """Clear all marks of the process.  Each page that it writes from now on costs it one page
    fault.  When this returns, no processor has an old entry in its TLB.  ESRCH, EACCES."""
    fd = procfile.open_file(f"{tid}/clear_refs", os.O_WRONLY)
    try:
        os.write(fd, _CLEAR)
    finally:
        os.close(fd)


def mark(tid: int, address: int) -> None:
    """Have the kernel mark a page, without a write: process_vm_writev(2) brings the page in for
    writing before it looks for the bytes, and there are none (mm/process_vm_access.c,
    process_vm_rw_single_vec).

    If the process may not write there, nothing happens.
    """
    process_vm.write_nothing(tid, address)


@functools.cache
def is_supported() -> bool:
    """True if the kernel marks a page of ours when we write it."""
    page = mmap.mmap(-1, PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        place = ctypes.addressof(ctypes.c_char.from_buffer(page)) // PAGE_SIZE
        page[0] = 1
        clear(os.getpid())
        with open("/proc/self/pagemap", "rb", 0) as file:
            before = _entry(file.fileno(), place)
            page[0] = 2
            after = _entry(file.fileno(), place)
    except OSError:
        return False
    return bool(before and not before & MARK and after & MARK)


@functools.cache
def direct_reads_pin() -> bool:
    """True if a direct read from a disk pins the pages that it fills.  The kernel never clears the
    mark of a pinned page (fs/proc/task_mmu.c, clear_soft_dirty).

    Block devices pin since Linux 6.5 (block/bio.c, bio_iov_iter_get_pages), by a function that
    shows whether a kernel has that.
    """
    try:
        with open("/proc/kallsyms", "rb") as symbols:
            return any(b" iov_iter_extract_pages" in line for line in symbols)
    except OSError:
        return False


def unmerged_pages() -> int | None:
    """How many pages KSM has separated since the system began (mm/memory.c, do_wp_page, COW_KSM).

    None: the kernel does not count them.  Those that do not, mark such a page.
    """
    try:
        lines = procfile.read_system("vmstat").splitlines()
    except OSError:
        return None
    return next((int(line[8:]) for line in lines if line.startswith(b"cow_ksm ")), None)


def _entry(pagemap: int, page: int) -> int:
    entry = array("Q", os.pread(pagemap, 8, page * 8))
    return entry[0] if entry else 0
