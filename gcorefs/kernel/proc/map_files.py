"""/proc/PID/map_files (proc_pid_map_files(5)): the file behind a mapping; and the devices of memory
that has no file."""

import functools
import os

from gcorefs.kernel import own_memory, statx
from gcorefs.kernel.statx import FileStat

_ESCAPED_NEWLINE = b"\\012"


def map_file(tid: int, start: int, end: int) -> str:
    """The link to the file that is mapped from `start` to `end` (proc(5), map_files).

    Without CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE it cannot be followed.
    """
    return f"/proc/{tid}/map_files/{start:x}-{end:x}"


def mapped_path(tid: int, start: int, end: int, shown: bytes) -> bytes:
    """The true path of a mapped file, of which maps shows `shown`.

    maps writes a newline as \\012 and leaves a backslash alone (fs/seq_file.c, mangle_path),
    so a name with \\012 in it can be either; the link in map_files has it as it is.
    """
    if _ESCAPED_NEWLINE not in shown:
        return shown
    try:
        return os.readlink(map_file(tid, start, end).encode())
    except OSError:
        return shown.replace(_ESCAPED_NEWLINE, b"\n")


def mapped_file(tid: int, start: int, end: int) -> FileStat | None:
    """The file behind a mapping, whatever name it has or had.

    As the kernel has them: a file server that does not answer is not asked.  None where the
    kernel does not show it: without CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE.
    """
    try:
        return statx.cached_stat(map_file(tid, start, end))
    except OSError:
        return None


@functools.cache
def shmem_device() -> str:
    """The device of memory without a name, as maps writes it: memfd, System V, /dev/zero.

    They share one mount of the kernel's own (mm/shmem.c, shm_mnt).
    """
    return _device(os.memfd_create("gcorefs", os.MFD_CLOEXEC))


@functools.cache
def secretmem_device() -> str | None:
    """The device of memfd_secret(2), as maps writes it; None where that is not to be had."""
    try:
        return _device(own_memory.memfd_secret())
    except OSError:
        return None


def _device(fd: int) -> str:
    """Of an open file, which is closed."""
    try:
        device = os.fstat(fd).st_dev
    finally:
        os.close(fd)
    return f"{os.major(device):02x}:{os.minor(device):02x}"
