"""Marks processes that stop others for gcorefs, so that gcorefs never stops them.

Two servers that stop each other would both stand still for ever.  So would a server that stops a
`gcorefs dump` of itself.  So a process marks itself before it looks at the process that it wants to
stop: if two begin at the same time, at least one sees the mark of the other.

The mark is a page of a memfd, at an address that the kernel never chooses by itself: it lies below
the mappings at the top of the address space and above the start of programs and heaps
(mm/util.c, mmap_base; asm/elf.h, ELF_ET_DYN_BASE).  One look-up in
/proc/PID/map_files shows it, in all namespaces of the process.  Only the process itself can map it:
so users can keep gcorefs away from their own processes, but not from the processes of others.
"""

import errno
import os

from gcorefs.arch import HOST
from gcorefs.arch.page import PAGE_SIZE
from gcorefs.kernel import own_memory
from gcorefs.kernel.proc import map_files, tasks
from gcorefs.kernel.proc.procfile import explained

_START = 0x67636F720000 % HOST.address_space_end
"""gcor; with 39 bits of address, as in some kernels of aarch64, only the end of it."""


def mark() -> None:
    """Mark this process, until it ends or calls execve(2).  EFBIG, EMFILE, ENOMEM."""
    fd = os.memfd_create("gcorefs", os.MFD_CLOEXEC)
    try:
        os.write(fd, bytes(PAGE_SIZE))  # the unit denies ftruncate(2)
        own_memory.map_at(_START, fd, PAGE_SIZE)
    except OSError as error:
        if error.errno == errno.EFBIG:
            why = "gcorefs may write no file, not even in memory (RLIMIT_FSIZE)"
            raise OSError(errno.EFBIG, why) from error
        if error.errno != errno.EEXIST:  # it is marked already
            raise
    finally:
        os.close(fd)


def is_marked(tid: int) -> bool:
    """True if the process of this thread is marked.  ESRCH.

    False also if /proc does not show it to us: then we may not trace the process either.
    """
    try:
        os.lstat(map_files.map_file(tid, _START, _START + PAGE_SIZE))
    except OSError as error:
        reason = explained(error, f"{tid}/map_files")
        if isinstance(reason, (FileNotFoundError, PermissionError)):
            return False
        raise reason from error
    return True


def is_gcorefs(pid: int) -> bool:
    """The same of a process.  False also if it has ended."""
    try:
        return tasks.ask_live_thread(pid, is_marked)
    except OSError:
        return False
