"""Processes that stop others for gcorefs, told from all others: they are never stopped themselves.

Two servers that stop each other would both stand still for ever, as would a server and a `gcorefs
dump` of it that it is asked to stop.  So whoever is about to stop processes marks itself first and
only then looks at what it is to stop: of two that begin at the same time, one sees the other.

The mark is a page of a memfd, mapped at an address that the kernel gives to nobody by itself: it
lies between what is mapped from the top of the address space and where programs and heaps begin
(arch/x86/mm/mmap.c, mmap_base; arch/x86/include/asm/elf.h, ELF_ET_DYN_BASE).  /proc/PID/map_files
shows it with one look-up, in whatever namespaces the process is.  Nobody but the process itself can
map it: so users can keep gcorefs away from their own processes, and from nobody else's.
"""

import errno
import os

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.kernel import own_memory
from gcorefs.kernel.proc import map_files
from gcorefs.kernel.proc.procfile import explained

_START = 0x67636F720000
"""gcor."""


def mark() -> None:
    """Mark this process, until it ends or calls execve(2)."""
    fd = os.memfd_create("gcorefs", os.MFD_CLOEXEC)
    try:
        os.write(fd, bytes(PAGE_SIZE))  # the unit denies ftruncate(2)
        own_memory.map_at(_START, fd, PAGE_SIZE)
    except OSError as error:
        if error.errno != errno.EEXIST:  # it is marked already
            raise
    finally:
        os.close(fd)


def is_marked(tid: int) -> bool:
    """True where the process of this thread is marked.  ESRCH.

    False also where /proc does not show it: whom it is not shown to may not trace it either.
    """
    try:
        os.lstat(map_files.map_file(tid, _START, _START + PAGE_SIZE))
    except OSError as error:
        reason = explained(error, f"{tid}/map_files")
        if isinstance(reason, (FileNotFoundError, PermissionError)):
            return False
        raise reason from error
    return True
