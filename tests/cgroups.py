"""Control groups, wherever they are mounted here (cgroups(7)).

Debian has version 2 alone; other systems have the controllers in version 1.  A test that needs what
is not there is skipped.
"""

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from gcorefs.kernel.proc import procfile
from gcorefs.kernel.proc.mountinfo import parse_mounts


def top(version: str, controller: str) -> Path:
    """The top of version "v2", or of the hierarchy of "v1" that has this controller."""
    kind = {"v1": b"cgroup", "v2": b"cgroup2"}[version]
    for mount in parse_mounts(procfile.read("self/mountinfo")):
        if mount.kind == kind and (
            version == "v2" or controller.encode() in mount.options.split(b",")
        ):
            return Path(os.fsdecode(mount.place))
    pytest.skip(f"{controller} of cgroups {version} is not mounted")


class Freezer:
    """A group whose processes the kernel's freezer freezes and thaws."""

    def __init__(self, version: str) -> None:
        self.is_v1 = version == "v1"
        self._top = top(version, "freezer")
        self.path = self._top / f"gcorefs-{uuid.uuid4().hex}"
        self.path.mkdir()

    def add(self, pid: int) -> None:
        (self.path / "cgroup.procs").write_text(str(pid))

    def freeze(self) -> None:
        self._set(True)

    def thaw(self) -> None:
        self._set(False)

    def _set(self, is_frozen: bool) -> None:
        """Ask for it, and wait until it has happened."""
        if self.is_v1:
            (self.path / "freezer.state").write_text("FROZEN" if is_frozen else "THAWED")
        else:
            (self.path / "cgroup.freeze").write_text("1" if is_frozen else "0")
        self.wait(is_frozen)

    @property
    def is_frozen(self) -> bool:
        if self.is_v1:
            return (self.path / "freezer.state").read_text() == "FROZEN\n"
        return "frozen 1" in (self.path / "cgroup.events").read_text().splitlines()

    def wait(self, is_frozen: bool = True) -> None:
        deadline = time.monotonic() + 60
        while self.is_frozen != is_frozen:
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def remove(self) -> None:
        """Its processes thaw, and go back to the top."""
        self.thaw()
        for pid in (self.path / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (self._top / "cgroup.procs").write_text(pid)
        _remove(self.path)


@contextlib.contextmanager
def group_named(version: str, *names: str) -> Iterator["NamedGroup"]:
    """Groups of these names, each below the one before it; in version 1 in systemd's hierarchy.

    Afterwards their processes are at the top.
    """
    folder = top(version, "name=systemd")
    paths = [folder.joinpath(*names[:count]) for count in range(1, len(names) + 1)]
    paths[0].mkdir()
    try:
        for path in paths[1:]:
            path.mkdir()
        yield NamedGroup(paths[-1])
        for pid in (paths[-1] / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (folder / "cgroup.procs").write_text(pid)
    finally:
        for path in paths[::-1]:
            if path.exists():
                _remove(path)


class NamedGroup:
    """The lowest of some groups."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, pid: int) -> None:
        (self.path / "cgroup.procs").write_text(str(pid))


@contextlib.contextmanager
def memory_group() -> Iterator["MemoryGroup"]:
    """A group with a limit for its memory, of the version that has the memory controller."""
    folder, is_v2 = _top_with("memory")
    group = MemoryGroup(folder / f"gcorefs-{uuid.uuid4().hex}", is_v2)
    try:
        yield group
    finally:
        _remove(group.path)


@contextlib.contextmanager
def group_of_tasks() -> Iterator[Path]:
    """A group with the pids controller, of the version that has it."""
    path = _top_with("pids")[0] / f"gcorefs-{uuid.uuid4().hex}"
    path.mkdir()
    try:
        yield path
    finally:
        _remove(path)


def _top_with(controller: str) -> tuple[Path, bool]:
    """The top of the version that has the controller, and whether that is version 2."""
    controllers = procfile.read_system("cgroups").decode().splitlines()
    # The second field is the number of the hierarchy: 0 is that of version 2 (cgroups(7)).
    is_v2 = any(line.split()[:2] == [controller, "0"] for line in controllers)
    folder = top("v2" if is_v2 else "v1", controller)
    if is_v2:
        (folder / "cgroup.subtree_control").write_text(f"+{controller}")
    return folder, is_v2


class MemoryGroup:
    def __init__(self, path: Path, is_v2: bool) -> None:
        self.path = path
        self._limit, self._usage = (
            ("memory.max", "memory.current")
            if is_v2
            else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        self._is_v2 = is_v2
        path.mkdir()

    def add(self, pid: int) -> None:
        (self.path / "cgroup.procs").write_text(str(pid))

    @property
    def usage(self) -> int:
        return int((self.path / self._usage).read_text())

    def limit(self, size: int) -> None:
        (self.path / self._limit).write_text(str(size))

    @property
    def hits(self) -> int:
        """How often the limit was hit."""
        if not self._is_v2:
            return int((self.path / "memory.failcnt").read_text())
        lines = (self.path / "memory.events").read_text().splitlines()
        return int(dict(line.split() for line in lines)["max"])


def _remove(group: Path) -> None:
    # rmdir(2) does not wait until the group is empty.
    deadline = time.monotonic() + 60
    while True:
        try:
            group.rmdir()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        else:
            return
