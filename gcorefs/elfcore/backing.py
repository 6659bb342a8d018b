"""What stands behind the addresses of a mapping, in a line of /proc/PID/maps (proc_pid_maps(5);
fs/proc/task_mmu.c, show_map_vma).  smaps begins each mapping with the same line."""

import re
from collections.abc import Callable
from typing import TypeVar

from gcorefs.elfcore.elf import PF_R, PF_W, PF_X
from gcorefs.elfcore.vma import Kind, MapsError, VmFlag

F = TypeVar("F")

ADDRESSES = rb"([0-9a-f]{1,16})-([0-9a-f]{1,16}) "

_PERMS = {(r + w + x).encode(): r_ | w_ | x_
            for r, r_ in (("r", PF_R), ("-", 0))
            for w, w_ in (("w", PF_W), ("-", 0))
            for x, x_ in (("x", PF_X), ("-", 0))}  # fmt: skip

_BACKING = re.compile(
    rb"([r-][w-][x-])[ps] ([0-9a-f]{1,16}) ([0-9a-f]+:[0-9a-f]+) (\d{1,20}) *+([^\n]*+)"
)


MOST_OF_PATHS = 16 << 20
"""Bytes.  No NT_FILE has so many (fs/coredump.c, CORE_FILE_NOTE_SIZE_MAX), so the names of a
process with more need not be complete."""
_LONGEST = 1 << 20
USUAL = 512
"""Bytes.  A text that is no longer is kept whole."""


class Texts:
    """The texts of one process, each cut where it is too long.

    No directory is too deep for maps: a path has many megabytes if the process likes, and 65,530
    mappings may have a path each.
    """

    def __init__(self) -> None:
        self._left = MOST_OF_PATHS

    def cut(self, text: bytes) -> bytes:
        """The text, or its beginning: some hundred bytes if there were many long ones."""
        if len(text) <= USUAL:
            return text
        length = max(USUAL, min(len(text), _LONGEST, self._left))
        self._left -= length
        return text[:length]


def begun(rest: bytes) -> bytes:
    """The beginning of a text that goes on in the next piece, without what `Texts.cut` would drop
    of its first line: the line may take hundreds of pieces."""
    if len(rest) <= _KEPT:
        return rest
    end = rest.find(b"\n")
    return rest[:_KEPT] + (rest[max(end, _KEPT) :] if end >= 0 else b"")


_KEPT = 2 * _LONGEST


class Kinds(dict[tuple[bytes, F], tuple[Kind, int]]):
    """Kind and file offset by the text behind the addresses and the flags, as the source of the
    mappings writes them.  MapsError: the kernel does not write such a text."""

    def __init__(self, vm_flags: Callable[[F], VmFlag]) -> None:
        self._vm_flags = vm_flags
        self._kinds: dict[tuple[object, ...], Kind] = {}  # without the file offset

    def __missing__(self, key: tuple[bytes, F]) -> tuple[Kind, int]:
        text, flags = key
        match = _BACKING.fullmatch(text)
        if match is None:
            raise MapsError("unexpected text behind the addresses of a mapping")
        perms, offset, dev, inode, name = match.groups()
        own = perms, dev, inode, name, flags
        kind = self._kinds.get(own)
        if kind is None:
            vm_flags = self._vm_flags(flags)
            kind = Kind(_PERMS[perms], dev.decode("ascii"), int(inode), name, vm_flags)
            self._kinds[own] = kind
        found = self[key] = kind, int(offset, 16)
        return found
