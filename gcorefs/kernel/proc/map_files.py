"""The file behind a mapping, from /proc/PID/map_files (proc_pid_map_files(5)), and the devices of
memory that has no file."""

import contextlib
import functools
import os

from gcorefs.kernel import own_memory, statx
from gcorefs.kernel.statx import FileStat

_ESCAPED_NEWLINE = b"\\012"


def map_file(tid: int, start: int, end: int) -> str:
    """The link to the file that is mapped from `start` to `end` (proc(5), map_files).

    Without CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE the link cannot be followed.
    """
    return f"/proc/{tid}/map_files/{start:x}-{end:x}"


@functools.cache
def can_be_followed() -> bool:
    """True if this process has the capability for that, told by one of its own mappings."""
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/map_files"):
            try:
                statx.cached_stat(f"/proc/self/map_files/{name}")
            except FileNotFoundError:  # it is not mapped any more
                continue
            return True
    return False


def mapped_path(tid: int, start: int, end: int, shown: bytes) -> bytes:
    """The true path of a mapped file that maps shows as `shown`.

    maps writes a newline as \\012 and does not escape a backslash (fs/seq_file.c, mangle_path),
    so \\012 in a name can be either.  The link in map_files has the name without escapes.
    """
    if _ESCAPED_NEWLINE not in shown:
        return shown
    try:
        return os.readlink(map_file(tid, start, end).encode())
    except OSError:
        return shown.replace(_ESCAPED_NEWLINE, b"\n")


def mapped_file(tid: int, start: int, end: int) -> FileStat | None:
    """The file behind a mapping, whatever name it has or had.

    The attributes are the ones that the kernel has cached: a file server that does not answer is
    not asked.  None if the kernel does not show the file: without CAP_SYS_ADMIN or
    CAP_CHECKPOINT_RESTORE.
    """
    try:
        return statx.cached_stat(map_file(tid, start, end))
    except OSError:
        return None


def is_file_of(fd: int, device: str, inode: int) -> bool:
    """True if a file is the one that maps shows with this device and inode number."""
    found = os.fstat(fd)
    return (_name_of(found.st_dev), found.st_ino) == (device, inode)


@functools.cache
def shmem_device() -> str:
    """The device of memory without a name (memfd, System V, /dev/zero), as maps writes it.

    All of these are on one internal mount of the kernel (mm/shmem.c, shm_mnt).
    """
    return _device(os.memfd_create("gcorefs", os.MFD_CLOEXEC))


@functools.cache
def huge_devices() -> frozenset[str]:
    """The devices of memory without a name in huge pages of hugetlbfs, as maps writes them.

    Each size of page has one internal mount of the kernel (fs/hugetlbfs/inode.c,
    hugetlbfs_vfsmount).
    """
    found = set()
    for shift in _HUGE_SHIFTS:
        flags = os.MFD_CLOEXEC | os.MFD_HUGETLB | shift << os.MFD_HUGE_SHIFT
        with contextlib.suppress(OSError):  # this kernel or processor has no such pages
            found.add(_device(os.memfd_create("gcorefs", flags)))
    return frozenset(found)


_HUGE_SHIFTS = range(16, 35)
"""From 64 KiB to 16 GiB (include/uapi/linux/memfd.h, MFD_HUGE_64KB to MFD_HUGE_16GB)."""


@functools.cache
def secretmem_device() -> str | None:
    """The device of memfd_secret(2), as maps writes it; None if this kernel does not allow it."""
    try:
        return _device(own_memory.memfd_secret())
    except OSError:
        return None


@functools.cache
def aio_device() -> str | None:
    """The device of the rings of io_setup(2), as maps writes it; None if there are none here."""
    try:
        with own_memory.aio_ring() as address, open("/proc/self/maps", "rb") as maps:
            start = b"%x-" % address
            return next((line.split()[3].decode() for line in maps if line.startswith(start)), None)
    except OSError:
        return None


def _device(fd: int) -> str:
    """The device of an open file.  Closes the file."""
    try:
        device = os.fstat(fd).st_dev
    finally:
        os.close(fd)
    return _name_of(device)


def _name_of(device: int) -> str:
    return device_name(os.major(device), os.minor(device))


def device_name(major: int, minor: int) -> str:
    """A device as maps writes it."""
    return f"{major:02x}:{minor:02x}"
