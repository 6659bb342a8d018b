"""Files of /proc that belong to no process: meminfo, sys/kernel.

proc_meminfo(5), proc_sys_kernel(5).
"""

import os

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.kernel.proc import procfile, task_status


def file_note_limit() -> int | None:
    """The size limit of NT_FILE in the kernel's cores (Documentation/admin-guide/sysctl/kernel.rst,
    core_file_note_size_limit); None if there is no such sysctl, or /proc does not show it."""
    try:
        return int(procfile.read_system("sys/kernel/core_file_note_size_limit"))
    except (OSError, ValueError):
        return None


def available_memory() -> int:
    """Bytes that can be allocated without swapping (proc(5), MemAvailable).

    If /proc does not show it, the bytes that are unused now (sysinfo(2), freeram).  These are
    fewer, because they do not include the page cache.
    """
    try:
        found = task_status.parse_status(procfile.read_system("meminfo"))
        return int(found["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, IndexError, ValueError):
        return os.sysconf("SC_AVPHYS_PAGES") * PAGE_SIZE
