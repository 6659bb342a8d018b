"""The mounts that a process sees, from /proc/PID/mountinfo (proc_pid_mountinfo(5))."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gcorefs.kernel.proc import procfile
from gcorefs.kernel.proc.procfile import FormatError


@dataclass(frozen=True, slots=True)
class Mount:
    """One line, with names without escapes."""

    number: int
    """The mount id; fdinfo of an open file has the same number (mnt_id)."""
    device: tuple[int, int]
    """Major and minor number."""
    root: bytes
    """The directory of the file system that is mounted."""
    place: bytes
    """The mount point."""
    kind: bytes
    """The type of the file system."""
    options: bytes
    """The options of the file system (super options), separated by commas."""


def parse_mounts(text: bytes) -> Iterator[Mount]:
    """The mounts, in the order in which they were mounted: at one mount point the last is on top.

    FormatError at the first line that the kernel would not write.
    """
    # Only a newline ends a line: the kernel escapes it in a name, but does not escape \r.
    for line in filter(None, text.split(b"\n")):
        fields = line.split(b" ")
        try:
            # The number of fields before the hyphen varies.
            kind, _, options, *_ = fields[fields.index(b"-", 6) + 1 :]
            number = int(fields[0])
            major, minor = (int(word) for word in fields[2].split(b":"))
        except ValueError as error:
            raise FormatError(f"not a line of mountinfo: {line!r}") from error
        root, place = (_ESCAPE.sub(_unescaped, name) for name in fields[3:5])
        yield Mount(number, (major, minor), root, place, kind, options)


# fs/proc_namespace.c, mangle: blank, tab, newline, backslash and hash in octal.
_ESCAPE = re.compile(rb"\\(040|011|012|134|043)")


def _unescaped(match: re.Match[bytes]) -> bytes:
    return bytes((int(match[1], 8),))


def file_system(tid: int, device: str) -> bytes:
    """The type of the file system on `device`, in the format of maps; empty if it is not mounted
    anywhere that the process sees.  ESRCH, FormatError."""
    major, minor = (int(number, 16) for number in device.split(":"))
    for mount in parse_mounts(procfile.read(f"{tid}/mountinfo")):
        if mount.device == (major, minor):
            return mount.kind
    return b""
