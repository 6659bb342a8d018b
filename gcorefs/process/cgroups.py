"""The limits of memory and of tasks of cgroups, the files that count how often the former are met,
and whether a group is frozen: cgroups(7).

A controller is in version 2 (Documentation/admin-guide/cgroup-v2.rst) or in version 1
(cgroup-v1/memory.rst, cgroup-v1/pids.rst).  Every group up to the top may have a limit, and counts
its children too.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from gcorefs.kernel.proc import procfile
from gcorefs.kernel.proc.membership import parse_groups
from gcorefs.kernel.proc.mountinfo import parse_mounts


class Limit(NamedTuple):
    """The limit of one group, in bytes or in tasks."""

    size: int
    left: int
    """What can still be allocated; for memory the kernel reclaims inactive file pages."""


class _Names(NamedTuple):
    """The names of a group's files."""

    limits: tuple[str, ...]
    usage: str
    inactive: str
    """A key in memory.stat; counts the group and its children."""


# Above memory.high the kernel kills nobody, but makes a process that allocates wait for reclaim.
_V2 = _Names(("memory.max", "memory.high"), "memory.current", "inactive_file")
_V2_DEADLY = _V2._replace(limits=("memory.max",))
_V1 = _Names(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")


def memory_limits(process: str = "self") -> list[Limit]:
    """The limits that hold for a process, its own group first; none if they cannot be read.

    `process`: its name in /proc."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        folders, is_v1 = _groups(process, b"memory")
        names = _V1 if is_v1 else _V2
        return [limit for each in folders for limit in _limits_of(os.fsdecode(each), names)]
    return []


def task_limits() -> list[Limit]:
    """The limits of the number of threads that hold for us, our own group first; none if they
    cannot be read."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        for each in _groups("self", b"pids")[0]:
            with contextlib.suppress(OSError, ValueError):  # "max": no limit; the top has no file
                size = int(_text(os.fsdecode(each), "pids.max"))
                found.append(Limit(size, size - int(_text(os.fsdecode(each), "pids.current"))))
    return found


def memory_event_files(pid: int) -> list[str]:
    """memory.events.local of the group of a process and of each above it; none without the memory
    controller of version 2 (before Linux 5.2 it has no such files)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        folders = _folders_of_v2(str(pid))
        files = [os.path.join(os.fsdecode(each), "memory.events.local") for each in folders]
        return [each for each in files if os.path.exists(each)]
    return []


def deadly_limits() -> list[Limit]:
    """The limits at which the kernel kills us together with all others of a group: those of the
    groups from the first one upwards that has memory.oom.group (mm/memcontrol.c,
    mem_cgroup_get_oom_group).  None if they cannot be read.  Version 1 has no such thing."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        groups = _folders_of_v2("self")
        while groups and not _kills_all(groups[0]):
            del groups[0]
        return [limit for each in groups for limit in _limits_of(os.fsdecode(each), _V2_DEADLY)]
    return []


def dies_together(process: str) -> bool:
    """True if a process dies with others of a group when the kernel kills one of them for its
    memory (memory.oom.group).  False if that cannot be read.  Version 1 has no such thing."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return any(map(_kills_all, _folders_of_v2(process)))
    return False


def _kills_all(folder: bytes) -> bool:
    return _is_set(os.path.join(folder, b"memory.oom.group"))


def is_frozen(pid: int) -> bool:
    """True if a group of version 2 in which the process is stands frozen (cgroup.freeze).  A thread
    there stops for ptrace(2), but does not run.  False if that cannot be read."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        groups = parse_groups(procfile.read(f"{pid}/cgroup"))
        paths = [path for names, path in groups if b"" in names]
        folders = _up(*_folder(paths[0], b"", is_v1=False))
        return any(_is_set(os.path.join(each, b"cgroup.freeze")) for each in folders)
    return False


def _folders_of_v2(process: str) -> list[bytes]:
    """The directories of the group of a process and of each above it; none if the memory controller
    is of version 1.  OSError, ValueError, IndexError."""
    folders, is_v1 = _groups(process, b"memory")
    return [] if is_v1 else folders


def _groups(process: str, controller: bytes) -> tuple[list[bytes], bool]:
    """The directories of the group of a process and of each above it, and whether version 1 has the
    controller.  OSError, ValueError, IndexError."""
    path, is_v1 = _own_group(procfile.read(f"{process}/cgroup"), controller)
    return [*_up(*_folder(path, controller, is_v1))], is_v1


def _is_set(path: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read() == b"1\n"
    except FileNotFoundError:  # the top group has no such file
        return False


def _folder(path: bytes, controller: bytes, is_v1: bool) -> tuple[bytes, bytes]:
    """The directory of a group, and that of the topmost group that we see.  OSError, ValueError."""
    root, place = _mounted(procfile.read("self/mountinfo"), controller, is_v1)
    below = os.path.relpath(path, root) if _is_below(path, root) else b"."
    return os.path.normpath(os.path.join(place, below)), place


def _is_below(path: bytes, root: bytes) -> bool:
    return os.path.commonpath((path, root)) == root


def _up(folder: bytes, top: bytes) -> Iterator[bytes]:
    """A directory, and all above it up to `top`."""
    while _is_below(folder, top):
        yield folder
        folder = os.path.dirname(folder)


def _own_group(text: bytes, controller: bytes) -> tuple[bytes, bool]:
    """The path of our group, and whether version 1 has the controller.

    `text` is /proc/PID/cgroup: "4:memory:/a" of version 1, "0::/a" of version 2.  ValueError.
    """
    groups = {name: path for names, path in parse_groups(text) for name in names}
    if controller in groups:
        return groups[controller], True
    if b"" in groups:
        return groups[b""], False
    raise ValueError("no such controller")


def _mounted(text: bytes, controller: bytes, is_v1: bool) -> tuple[bytes, bytes]:
    """The group that is the root of the mount, and the mount point, of the hierarchy that has the
    controller.

    `text` is /proc/PID/mountinfo (proc_pid_mountinfo(5)).  In a container the root is often not
    the top group.  ValueError.
    """
    kind = b"cgroup" if is_v1 else b"cgroup2"
    for mount in parse_mounts(text):
        if mount.kind == kind and (not is_v1 or controller in mount.options.split(b",")):
            return mount.root, mount.place
    raise ValueError("cgroups are not mounted")


def _limits_of(folder: str, names: _Names) -> Iterator[Limit]:
    # The top group has no such files, and another mount may hide them.
    with contextlib.suppress(OSError, ValueError):
        usage = int(_text(folder, names.usage))
        stat = dict(line.split(" ", 1) for line in _text(folder, "memory.stat").splitlines())
        used = usage - int(stat.get(names.inactive, 0))
        for name in names.limits:
            with contextlib.suppress(OSError, ValueError):  # "max": no limit
                size = int(_text(folder, name))
                yield Limit(size, size - used)


def _text(folder: str, name: str) -> str:
    with open(os.path.join(folder, name), encoding="ascii") as file:
        return file.read()
