"""The control groups that a process is in: /proc/PID/cgroup (cgroups(7))."""

from typing import NamedTuple

from gcorefs.kernel.proc.procfile import FormatError

_REMOVED = b" (deleted)"  # kernel/cgroup/cgroup.c, proc_cgroup_show: of a dead process


class Group(NamedTuple):
    """One group that a process is in: one line of the file."""

    controllers: frozenset[bytes]
    """What stands between the colons: controllers of version 1, or name=systemd; of version 2 the
    empty name alone."""
    path: bytes
    """From the top of the hierarchy, or of the reader's cgroup namespace."""

    @property
    def parts(self) -> list[bytes]:
        """The names of the group and of those above it, the topmost first."""
        return [name for name in self.path.split(b"/") if name]


def parse_groups(text: bytes) -> list[Group]:
    """The groups, in the order of the file.  FormatError.

    No name has a newline in it (kernel/cgroup/cgroup.c, cgroup_mkdir).
    """
    found = []
    for line in text.split(b"\n")[:-1]:
        fields = line.split(b":", 2)
        if len(fields) < 3:
            raise FormatError(f"not a line of cgroup: {line!r}")
        _, controllers, path = fields
        found.append(Group(frozenset(controllers.split(b",")), path.removesuffix(_REMOVED)))
    return found
