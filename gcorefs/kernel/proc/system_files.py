"""Files of /proc that belong to no process: meminfo, locks, sys/kernel.

proc_meminfo(5), proc_locks(5), proc_sys_kernel(5).
"""

import os

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.kernel.proc import procfile, task_status
from gcorefs.kernel.proc.procfile import FormatError


def file_note_limit() -> int | None:
    """How large the kernel would make NT_FILE (Documentation/admin-guide/sysctl/kernel.rst,
    core_file_note_size_limit); None where it cannot be set, or /proc does not say."""
    try:
        return int(procfile.read_system("sys/kernel/core_file_note_size_limit"))
    except (OSError, ValueError):
        return None


def available_memory() -> int:
    """Bytes that can be had without swapping (proc(5), MemAvailable).

    Where /proc does not say, the bytes that nobody uses just now (sysinfo(2), freeram): fewer, for
    what is cached of files is not among them.
    """
    try:
        found = task_status.parse_status(procfile.read_system("meminfo"))
        return int(found["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, IndexError, ValueError):
        return os.sysconf("SC_AVPHYS_PAGES") * PAGE_SIZE


def parse_leases(text: bytes) -> set[int]:
    """The inodes of /proc/locks on which somebody holds a lease.  FormatError."""
    try:
        return {
            int(fields[5].split(b":")[2])
            for fields in map(bytes.split, text.splitlines())
            if fields[1] in (b"LEASE", b"DELEG")
        }
    except (ValueError, IndexError) as error:
        raise FormatError("unexpected text in locks") from error


def leased_inodes() -> set[int] | None:
    """Inodes on which somebody holds a lease: opening such a file sends a signal (fcntl(2)).

    None where nobody tells: the kernel's list is not there, not ours to read, or hidden behind
    another file.  A lease of a process outside of this pid namespace is not in it (fs/locks.c,
    locks_show).
    """
    try:
        if not procfile.is_kernels_own("locks"):
            return None
        return parse_leases(procfile.read_system("locks"))
    except OSError:
        return None
