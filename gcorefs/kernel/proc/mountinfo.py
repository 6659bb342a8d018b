"""The mounts that a process sees, from /proc/PID/mountinfo (proc_pid_mountinfo(5))."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from gcorefs.kernel.proc import procfile, task_status
from gcorefs.kernel.proc.map_files import device_name
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

    @property
    def device_name(self) -> str:
        """The device, in the format of maps."""
        return device_name(*self.device)


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
        root, place = map(_unescaped, fields[3:5])
        yield Mount(number, (major, minor), root, place, kind, options)


# fs/proc_namespace.c, mangle: blank, tab, newline and hash in octal, and the backslash, whose
# escape must be the last one to be looked for.
_ESCAPES = (
    (b"\\040", b" "),
    (b"\\011", b"\t"),
    (b"\\012", b"\n"),
    (b"\\043", b"#"),
    (b"\\134", b"\\"),
)


def _unescaped(name: bytes) -> bytes:
    for escape, letter in _ESCAPES:
        name = name.replace(escape, letter)
    return name


def mounts_of(process: int | str) -> Iterator[Mount]:
    """The mounts that a process sees, by its name in /proc, without the whole text in memory: a
    user may have 100,000 mounts of their own, with names of 16 KiB each.  OSError, FormatError."""
    for text in procfile.pieces(f"{process}/mountinfo"):
        yield from parse_mounts(text)


def file_systems(tid: int, devices: Collection[str]) -> dict[str, bytes]:
    """The type of the file system on each of these devices, in the format of maps.

    Without those that are mounted nowhere that the process sees, or behind too many others.  All of
    them are looked for at once: a process may map files of as many devices as it has mounts.
    ESRCH, FormatError.
    """
    wanted = {_numbers(each): each for each in devices}
    found: dict[str, bytes] = {}
    with procfile.unless_too_long():
        for mount in mounts_of(tid) if wanted else ():
            if device := wanted.pop(mount.device, ""):
                found[device] = mount.kind
                if not wanted:
                    break
    return found


def _numbers(device: str) -> tuple[int, int]:
    major, minor = (int(number, 16) for number in device.split(":"))
    return major, minor


def devices_of(tid: int, kind: bytes) -> set[str]:
    """The devices of all file systems of this type that the process sees, as `file_systems`."""
    found = set()
    with procfile.unless_too_long():
        for mount in mounts_of(tid):
            if mount.kind == kind:
                found.add(mount.device_name)
    return found


def mount_of(fd: int, tid: int) -> Mount | None:
    """The mount on which our file `fd` is; None if neither we nor process `tid` see it.  OSError,
    FormatError."""
    number = mount_id(fd)
    for process in ("self", tid):
        with procfile.unless_too_long():
            for mount in mounts_of(process):
                if mount.number == number:
                    return mount
    return None


def mount_id(fd: int) -> int:
    """The mount id of an open file of ours.  OSError, FormatError."""
    return int(task_status.fdinfo("self", fd)["mnt_id"])
