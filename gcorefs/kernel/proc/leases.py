"""The files under a lease: an open of such a file sends a signal to who holds it (fcntl(2),
F_SETLEASE), and that signal kills a process that does not expect it.

/proc/locks has all leases and all locks of the machine (proc_locks(5)).  Its length is chosen by
any user, and the kernel takes seconds for 100,000 lines, because each read(2) begins at the first
one (fs/locks.c, locks_start).  If it is long, we ask the open files of the process instead
(proc_pid_fdinfo(5)).  That misses hardly a lease: one for writing can only be had while nobody else
has opened the file (fs/locks.c, check_conflicting_open), so it is on the open file that the process
has mapped.  Only if the process has closed that file, and keeps the mapping, it is not shown.
"""

import contextlib
import errno
import os
from collections.abc import Container, Iterable, Mapping

from gcorefs.kernel.proc import procfile
from gcorefs.kernel.proc.map_files import device_name
from gcorefs.kernel.proc.procfile import FormatError

Leases = Mapping[int, Container[str]]
"""The devices, as maps writes them, on which the files with an inode number are under a lease that
an open for reading breaks: a lease for writing, or one that is being broken already."""

_MOST = 256 << 10
"""Bytes: some 4,000 lines, which take a few milliseconds."""

_IN_FDINFO = b"lock:"


def leases(tid: int, paths: Container[bytes] | None = None) -> Leases | None:
    """All leases, or those of the open files of thread `tid`.

    `paths`: of the files that matter, as maps has them.  Others may be left out: fdinfo takes
    twenty times as long as a link.

    None if this cannot be known: /proc/locks does not exist, we may not read it, or another file
    is mounted over it; or it is long, and so are the locks of the files that the process has open.
    It does not show a lease of a process outside of this pid namespace (fs/locks.c, locks_show).
    """
    try:
        if not procfile.is_kernels_own("locks"):
            return None
        return parse_leases(procfile.read_system("locks", _MOST).splitlines())
    except OSError as error:
        return _of_open_files(tid, paths) if error.errno == errno.EFBIG else None


def _of_open_files(tid: int, paths: Container[bytes] | None) -> Leases | None:
    lines: list[bytes] = []
    left = _MOST
    try:
        for number in os.listdir(f"/proc/{tid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # a process that shares them closed it
                if paths is not None and _path(tid, number) not in paths:
                    continue
                for text in procfile.pieces(f"{tid}/fdinfo/{number}"):
                    found = [line for line in text.splitlines() if line.startswith(_IN_FDINFO)]
                    lines += found
                    left -= sum(map(len, found))
                    if left < 0:
                        return None
    except OSError:
        return None
    return parse_leases(line.removeprefix(_IN_FDINFO) for line in lines)


def _path(tid: int, number: str) -> bytes:
    """Of an open file, as maps writes it."""
    return os.readlink(f"/proc/{tid}/fd/{number}".encode()).replace(b"\n", b"\\012")


def parse_leases(lines: Iterable[bytes]) -> Leases:
    """The leases in lines of /proc/locks.  FormatError."""
    found: dict[int, set[str]] = {}
    try:
        for fields in map(bytes.split, lines):
            if fields[1] in (b"LEASE", b"DELEG") and fields[2:4] != [b"ACTIVE", b"READ"]:
                device, _, inode = fields[5].rpartition(b":")
                major, minor = (int(number, 16) for number in device.split(b":"))
                found.setdefault(int(inode), set()).add(device_name(major, minor))
    except (ValueError, IndexError) as error:
        raise FormatError("unexpected text in locks") from error
    return found
