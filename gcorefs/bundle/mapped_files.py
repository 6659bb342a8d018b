"""The files that a process has mapped, whatever has become of their paths, kept open.

They are opened through map_files (proc_pid_map_files(5)), which leads to the file itself, also if
it was deleted, was replaced, or lies in another mount namespace.  Without the capability for that,
a file is opened by its path, and taken only if it is the one that maps shows.  With it, no path is
tried: whoever controls the root directory of the process decides where a path leads.
"""

import contextlib
import os
import re
import resource
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from gcorefs.elfcore import file_notes
from gcorefs.kernel import statx
from gcorefs.kernel.proc import leases, map_files, mountinfo, task_stat
from gcorefs.kernel.proc.leases import Leases
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.process.bounded_questions import ask_each
from gcorefs.process.errors import named_with_limit
from gcorefs.process.mapped_files import is_changed
from gcorefs.process.quiet_open import NotOpenedError, NotRegularError, open_regular
from gcorefs.readers.files import notes_of
from gcorefs.sources.procfs import maps

_MAPPING = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) \S+ [0-9a-f]+ (\S+) (\d+) +(/.*)$", re.MULTILINE)
_DELETED = b" (deleted)"
_ELF = b"\x7fELF"

MEMORY = "it is memory without a name, which the core has as far as its policy takes it"
NOT_REGULAR = str(NotRegularError())
_NOT_SHOWN = "without CAP_CHECKPOINT_RESTORE, as root has it, only its path leads to it"
SILENT = "its file system does not answer"

_MOST = 8 << 30
"""Bytes of all files together, or 16 times the limit of one file if that is more: a file may be
sparse, and a process may map thousands of them."""
_TOO_MANY = "all files together have more than 8 GiB and 16 times --file-limit"

_DESCRIPTORS_BESIDE = 64
"""For all that a bundle needs beside these files."""

_HOLES = 16
"""An ELF file above the limit is left out if not even this part of it lies on the disk."""

Key = tuple[str, int, bytes]
"""Device, inode number and name: the identity of a mapped file in maps."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One file, open."""

    path: bytes
    """In the root directory of the process, absolute."""
    fd: int
    size: int
    """Bytes."""
    is_elf: bool
    build_id: str
    """Hexadecimal digits; empty if it has none."""
    is_deleted: bool
    is_changed: bool
    """It was changed after the process started, which may have other bytes: those of the core."""
    is_program: bool
    identity: tuple[int, int]
    """Its device and inode number: a file may have many names."""


@dataclass(frozen=True, slots=True)
class NotTaken:
    path: bytes
    why: str

    @property
    def is_expected(self) -> bool:
        """A debugger does not miss it."""
        return self.why in (MEMORY, NOT_REGULAR)


class MappedFiles:
    """Close it when the bundle is written."""

    def __init__(self, limit: int) -> None:
        """`limit`: the bytes of the largest file that is taken if it is no ELF file."""
        self._limit = limit
        self._open = contextlib.ExitStack()
        self._found: dict[Key, Kept | NotTaken] = {}
        self._ranges: list[tuple[int, int, Key]] = []  # in address order, as maps is
        self.maps = b""
        """The text of maps at the last look."""

    @property
    def kept(self) -> list[Kept]:
        return [each for each in self._found.values() if isinstance(each, Kept)]

    @property
    def not_taken(self) -> list[NotTaken]:
        return [each for each in self._found.values() if isinstance(each, NotTaken)]

    def at(self, address: int) -> Kept | None:
        """The file that is mapped around an address."""
        index = bisect_right(self._ranges, address, key=lambda each: each[0]) - 1
        if index < 0 or address >= self._ranges[index][1]:
            return None
        found = self._found[self._ranges[index][2]]
        return found if isinstance(found, Kept) else None

    def look(self, tid: int) -> None:
        """Open what thread `tid` has mapped and is not open yet, and forget what it has no more.
        OSError, MapsError."""
        with maps(tid) as text:
            self.maps = bytes(text)
        self._ranges.clear()
        root = _root_of(tid)
        program = _identity(f"/proc/{tid}/exe")
        started = task_stat.started(Process(tid, task_stat.stat(tid).start_time))
        mapped: dict[Key, _Candidate] = {}
        for start, end, device, inode, shown in _MAPPING.findall(self.maps):
            key = device.decode(), int(inode), shown
            if key[1]:  # what has inode 0 is no file
                span = int(start, 16), int(end, 16)
                self._ranges.append((*span, key))
                mapped.setdefault(
                    key, _Candidate(tid, span, key, root, program, self._limit, started)
                )
        # What could not be opened is tried again, because it may be mapped elsewhere by now; and
        # the process may have become another program (execve(2)).
        self._found = {
            key: replace(it, is_program=it.identity == program)
            for key, it in self._found.items()
            if isinstance(it, Kept) and key in mapped
        }
        new = {key: it for key, it in mapped.items() if key not in self._found}
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        room = max(0, limit - _DESCRIPTORS_BESIDE - len(self._found))
        for key in [*new][room:]:
            del new[key]
            self._found[key] = NotTaken(key[2], f"RLIMIT_NOFILE is {limit}, and others are open")
        candidates = [*new.values()]
        # The first reader of /proc/locks waits some 10 ms for all processors.
        leased = (leases.leases(tid) if new else None) or {}
        found = ask_each(
            [(os.fsdecode(each.key[2]), partial(_opened, each, leased)) for each in candidates],
            otherwise=lambda number: NotTaken(candidates[number].key[2], SILENT),
        )
        for key, each in zip(new, found, strict=True):
            if isinstance(each, Kept):
                self._open.callback(os.close, each.fd)
            self._found[key] = each
        self._bound()

    def _bound(self) -> None:
        """Leave files out where all together are too many bytes.  A file with several names
        counts once."""
        left = max(_MOST, 16 * self._limit)
        seen: set[tuple[int, int]] = set()
        for key, each in self._found.items():
            if isinstance(each, Kept) and each.identity not in seen:
                seen.add(each.identity)
                left -= each.size
                if left < 0:
                    self._found[key] = NotTaken(each.path, _TOO_MANY)
                    left += each.size

    def close(self) -> None:
        self._open.close()


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A file that is not open yet, and one of its mappings."""

    tid: int
    span: tuple[int, int]
    key: Key
    root: bytes
    program: tuple[int, int] | None
    limit: int
    started: float
    """When the process started, in seconds since the epoch."""


def _opened(it: _Candidate, leased: Leases, may_wait: bool) -> Kept | NotTaken:
    device, _, shown = it.key
    name = map_files.mapped_path(it.tid, *it.span, shown)
    path = _within(it.root, name)
    if device in _memory_devices():
        return NotTaken(path, MEMORY)
    if not may_wait:
        return NotTaken(path, SILENT)
    is_deleted = path.endswith(_DELETED)
    whys: list[str] = []
    for way in _ways(it, path):
        try:
            fd = open_regular(way, leased, it.tid)
        except NotOpenedError as error:
            return NotTaken(path.removesuffix(_DELETED), str(error))
        except PermissionError:
            whys.append(_NOT_SHOWN if not whys else "we may not open that")
            continue
        except FileNotFoundError:
            whys.append("nothing is there")
            continue
        except OSError as error:
            whys.append(named_with_limit(error))
            continue
        if _is(fd, way, it) or _leads_to(way, name):
            if is_deleted and _is_named(it.tid, path, fd):
                is_deleted = False
            path = path.removesuffix(_DELETED) if is_deleted else path
            return _kept(fd, path, is_deleted, it)
        os.close(fd)
        whys.append("another file is there")
    return NotTaken(path.removesuffix(_DELETED), ", and ".join([whys[0], *whys[1:][-1:]]))


def _kept(fd: int, path: bytes, is_deleted: bool, it: _Candidate) -> Kept | NotTaken:
    try:
        found = os.fstat(fd)
        is_elf = os.pread(fd, len(_ELF), 0) == _ELF
        build_id = file_notes.build_id(notes_of(fd)).hex() if is_elf else ""
    except OSError as error:
        os.close(fd)
        return NotTaken(path, named_with_limit(error))
    if not is_elf and found.st_size > it.limit:
        os.close(fd)
        mebibytes = -(-found.st_size >> 20)
        return NotTaken(path, f"it is no ELF file and has {mebibytes} MiB, more than --file-limit")
    if is_elf and found.st_size > it.limit and found.st_blocks * 512 < found.st_size // _HOLES:
        os.close(fd)  # no linker makes such a file, and it may have exbibytes
        return NotTaken(path, "nearly all of it is a hole, and it has more than --file-limit")
    identity = found.st_dev, found.st_ino
    is_program = identity == it.program
    changed = not is_deleted and is_changed(max(found.st_mtime, found.st_ctime), it.started)
    return Kept(
        path, fd, found.st_size, is_elf, build_id, is_deleted, changed, is_program, identity
    )


def _ways(it: _Candidate, path: bytes) -> Iterator[str | bytes]:
    yield map_files.map_file(it.tid, *it.span)
    if it.program is not None and it.program[1] == it.key[1]:
        yield f"/proc/{it.tid}/exe"
    if not map_files.can_be_followed():
        yield f"/proc/{it.tid}/root".encode() + path


def _is(fd: int, way: str | bytes, it: _Candidate) -> bool:
    """True if an open file is the one that maps shows.

    For subvolumes of btrfs and for overlays maps shows another device than stat(2): that of the
    mount, a device without a major number.
    """
    device, inode, _ = it.key
    if map_files.is_file_of(fd, device, inode):
        return True
    if not device.startswith("00:") or os.fstat(fd).st_ino != inode:
        return False
    if isinstance(way, str):
        return True
    mount = mountinfo.mount_of(fd, it.tid)  # somebody may have led a path elsewhere
    return mount is not None and mount.device_name == device


def _leads_to(way: str | bytes, name: bytes) -> bool:
    """True if a link of map_files still is that of the file with this name: an overlay may show
    another inode number."""
    try:
        return isinstance(way, str) and os.readlink(way.encode()) == name
    except OSError:
        return False


def _is_named(tid: int, path: bytes, fd: int) -> bool:
    """True if a name really ends as that of a deleted file does."""
    found = os.fstat(fd)
    identity = _identity(f"/proc/{tid}/root".encode() + path)
    return identity == (found.st_dev, found.st_ino)


def _identity(path: str | bytes) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        major, minor, inode = statx.cached_stat(path).identity
        return os.makedev(major, minor), inode
    return None


def _root_of(tid: int) -> bytes:
    """The root directory of a process, as our paths show it; empty if it is ours."""
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{tid}/root".encode()).rstrip(b"/")
    return b""


def _within(root: bytes, path: bytes) -> bytes:
    """The path in the root directory of a process (chroot(2))."""
    return path[len(root) :] if root and path.startswith(root + b"/") else path


def _memory_devices() -> set[str | None]:
    return {map_files.shmem_device(), *map_files.huge_devices(), map_files.secretmem_device()}
