"""Files of /proc that belong to no process: meminfo, locks, sys/kernel.

proc_meminfo(5), proc_locks(5), proc_sys_kernel(5).
"""

import os
from collections.abc import Container, Mapping

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.kernel.proc import procfile, task_status
from gcorefs.kernel.proc.procfile import FormatError


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


Leases = Mapping[int, Container[str]]
"""The devices, as maps writes them, on which the files with an inode number are under a lease that
an open for reading breaks: a lease for writing, or one that is being broken already."""


def parse_leases(text: bytes) -> Leases:
    """The leases in /proc/locks.  FormatError."""
    found: dict[int, set[str]] = {}
    try:
        for fields in map(bytes.split, text.splitlines()):
            if fields[1] in (b"LEASE", b"DELEG") and fields[2:4] != [b"ACTIVE", b"READ"]:
                device, _, inode = fields[5].rpartition(b":")
                major, minor = (int(number, 16) for number in device.split(b":"))
                found.setdefault(int(inode), set()).add(f"{major:02x}:{minor:02x}")
    except (ValueError, IndexError) as error:
        raise FormatError("unexpected text in locks") from error
    return found


def leases() -> Leases | None:
    """All leases: an open of such a file sends a signal to who holds it (fcntl(2)).

    None if this cannot be known: /proc/locks does not exist, we may not read it, or another file
    is mounted over it.  It does not show a lease of a process outside of this pid namespace
    (fs/locks.c, locks_show).
    """
    try:
        if not procfile.is_kernels_own("locks"):
            return None
        return parse_leases(procfile.read_system("locks"))
    except OSError:
        return None
