"""What the path of a control group says: a unit of systemd, a container, a pod.

Each function takes a word of the user's, and returns the question whether a process in certain
groups is meant by it.  A process counts wherever the group stands in its path: it may be in a group
below that.
"""

import os
import re
from collections.abc import Callable, Iterable, Sequence

from gcorefs.errors import GcorefsError
from gcorefs.kernel.proc.membership import Group
from gcorefs.kernel.proc.mountinfo import Mount

Question = Callable[[Sequence[Group]], bool]


class GroupNameError(GcorefsError, ValueError):
    """No group has such a name.  The text is one line."""


# systemd.unit(5).
_KINDS = (
    ".service", ".scope", ".slice", ".socket", ".mount", ".swap", ".target", ".timer", ".path",
    ".device", ".automount",
)  # fmt: skip
_OF_SYSTEMD = (b"", b"name=systemd")
"""The hierarchies in which systemd has a group for each unit: version 2, or its own one."""

LEAST_DIGITS = 12
"""Of an id; docker(1) shows so many."""
_ID = re.compile(rf"[0-9a-f]{{{LEAST_DIGITS},64}}")
_SCHEME = re.compile(r"[a-z0-9.-]+://")
# docker-ID.scope, cri-containerd-ID.scope, crio-ID.scope, libpod-ID.scope, or the id alone
# (cgroupfs); of a containerd that finds systemd's names where cgroupfs is, SLICE:cri-containerd:ID.
# Of conmon, which watches a container, it is crio-conmon-ID.scope.
_CONTAINER = re.compile(rb"(?:(?!.*conmon).*[-_:])?([0-9a-f]{12,64})(?:\.scope)?")
# kubepods-burstable-podUID.slice, podUID (cgroupfs), machine-libpod_pod_ID.slice.
_POD = re.compile(rb"(?:.*[-_])?pod_?([0-9a-f][0-9a-f_-]{11,})(?:\.slice)?(?::.*)?")


def in_unit(text: str) -> Question:
    """A unit of systemd; a name without a suffix is that of a service (systemctl(1))."""
    name = os.fsencode(unit_of(text))
    # systemd puts the mark before a name that could be one of a file of the kernel's, cpu.service
    # for example (src/basic/cgroup-util.c, cg_escape).
    names = {name, b"_" + name}
    return lambda groups: any(
        not names.isdisjoint(group.parts)
        for group in groups
        if not group.controllers.isdisjoint(_OF_SYSTEMD)
    )


def unit_of(text: str) -> str:
    """The whole name of a unit.  GroupNameError."""
    if not text or "/" in text:
        raise GroupNameError(f"{text!r} is no name of a unit")
    return text if text.endswith(_KINDS) else f"{text}.service"


def in_container(text: str) -> Question:
    """A container, by 12 digits of its id or more; kubectl's docker://ID and the like too.

    GroupNameError.
    """
    digits = _digits(_SCHEME.sub("", text, count=1), "container")
    return lambda groups: any(id_.startswith(digits) for id_ in _found(_CONTAINER, groups))


def in_pod(text: str) -> Question:
    """A pod, by 12 digits of its uid or more, with hyphens, underscores or neither between them.

    GroupNameError.
    """
    digits = _digits(_without_marks(text.removeprefix("pod")), "pod")
    return lambda groups: any(
        _without_marks(id_.decode("ascii")).encode().startswith(digits)
        for id_ in _found(_POD, groups)
    )


def _digits(text: str, what: str) -> bytes:
    if not _ID.fullmatch(text.lower()):
        raise GroupNameError(
            f"{text!r} is no id of a {what}: {LEAST_DIGITS} to 64 hexadecimal digits"
        )
    return text.lower().encode("ascii")


def _without_marks(text: str) -> str:
    return text.replace("-", "").replace("_", "")


def _found(pattern: re.Pattern[bytes], groups: Iterable[Group]) -> set[bytes]:
    parts = {part for group in groups for part in group.parts}
    return {match[1] for part in parts if (match := pattern.fullmatch(part))}


def below(text: str, mounts: Iterable[Mount]) -> Question:
    """A group and all groups below it.

    The path is one below the mount point of a hierarchy, of these `mounts`: absolute, or from
    /sys/fs/cgroup on.  Otherwise it is one as in /proc/PID/cgroup, of any hierarchy.
    GroupNameError.
    """
    if not text:
        raise GroupNameError("a path cannot be empty")
    # In a cgroup namespace, /proc shows a group outside of it so (cgroup_namespaces(7)); and nobody
    # means all processes by "..".
    if os.path.normpath(text.lstrip("/")).split("/")[0] == "..":
        raise GroupNameError(f"{text!r} is a path that leads out of our cgroup namespace")
    path = os.path.normpath(os.path.join(b"/sys/fs/cgroup", os.fsencode(text)))
    found = [each for each in mounts if each.kind in _KINDS_OF_MOUNTS and _is_in(path, each.place)]
    if not found:
        path = os.path.normpath(b"/" + os.fsencode(text).lstrip(b"/"))
        return lambda groups: any(_is_in(group.path, path) for group in groups)
    mount = max(found, key=lambda each: len(each.place))
    inside = os.path.normpath(os.path.join(mount.root, os.path.relpath(path, mount.place)))
    names = _controllers(mount)
    return lambda groups: any(
        _is_in(group.path, inside) for group in groups if not names.isdisjoint(group.controllers)
    )


_KINDS_OF_MOUNTS = (b"cgroup", b"cgroup2")


def _controllers(mount: Mount) -> frozenset[bytes]:
    """As /proc/PID/cgroup names the hierarchy."""
    return frozenset({b""} if mount.kind == b"cgroup2" else mount.options.split(b","))


def _is_in(path: bytes, top: bytes) -> bool:
    return path == top or path.startswith(top.rstrip(b"/") + b"/")
