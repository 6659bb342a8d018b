"""The lines of /proc/PID/maps that an estimate needs: few of 70,000 if most are plain memory, whose
sum VmSize tells (estimate.py).
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from gcorefs.arch.page import HUGE_PAGE_SIZE
from gcorefs.elfcore.vma import MapsError

# The end of the line of a mapping without a file and a name, and further such lines.  With a
# possessive repeat, CPython before 3.11.5 takes a part of the next line too (gh-106052).
_PLAIN_ROW = re.compile(
    rb"( 00:00 0 \n)(?:[0-9a-f]+-[0-9a-f]+ [r-][w-][x-][ps] [0-9a-f]+ 00:00 0 \n)+"
)
_LINE = re.compile(
    rb"^([0-9a-f]{1,16})-([0-9a-f]{1,16}) ([r-][w-][x-][ps]) ([0-9a-f]{1,16})"
    rb" ([0-9a-f]+:[0-9a-f]+) (\d{1,20}) *+([^\n]*+)$",
    re.MULTILINE,
)


class Line(NamedTuple):
    """One mapping.  There may be thousands, so most properties are computed on demand."""

    start: int
    end: int
    perms: bytes
    offset: int
    name: bytes
    file: tuple[bytes, bytes] | None
    """Device and inode number; None if the mapping has no file."""

    @property
    def is_shared(self) -> bool:
        return self.perms[3:] == b"s"

    @property
    def may_be_huge(self) -> bool:
        """The mapping can be of hugetlbfs, whose device has major number 0."""
        alignment = HUGE_PAGE_SIZE - 1
        is_aligned = not (self.start | self.end | self.offset) & alignment
        return is_aligned and self.file is not None and self.file[0].startswith(b"00:")

    def goes_on(self, before: "Line") -> bool:
        """True if one mmap(2) probably made both, and an mprotect(2) of a part split them: for
        example .data and the part that the dynamic linker protects.

        Two adjacent mappings with the same permissions never were one mapping: the kernel would
        have merged them (mm/vma.c, can_vma_merge_after).
        """
        return (
            self.start == before.end
            and self.file is not None
            and self.file == before.file
            and self.offset == before.offset + before.end - before.start
            and self.is_shared == before.is_shared
            and self.perms != before.perms
            and b"x" not in self.perms + before.perms
        )


class FewLines:
    """Of a text that comes in pieces, cut at any place: each line with a file or a name, and a few
    of the others."""

    def __init__(self, sought: Sequence[bytes] = ()) -> None:
        """`sought`: parts of lines."""
        self.count = 0
        """Of all lines."""
        self.has_sought = False
        """A line has one of these parts."""
        self._sought = sought
        self._texts: list[bytes] = []
        self._begun: list[bytes] = []  # the line that goes on in the next piece

    def add(self, piece: bytes) -> None:
        end = piece.rfind(b"\n") + 1
        if end:
            text = b"".join((*self._begun, piece[:end]))
            self._begun.clear()
            self.count += text.count(b"\n")
            self.has_sought = self.has_sought or any(part in text for part in self._sought)
            self._texts.append(_PLAIN_ROW.sub(rb"\1", text))
        if end < len(piece):
            self._begun.append(piece[end:])

    def lines(self) -> list[Line]:
        """When all pieces are there.  MapsError: the kernel did not write such a text."""
        text = b"".join((*self._texts, *self._begun))
        found = [
            Line(
                int(start, 16),
                int(end, 16),
                perms,
                int(offset, 16),
                name,
                (dev, inode) if inode.strip(b"0") or name[:1] == b"/" else None,
            )
            for start, end, perms, offset, dev, inode, name in _LINE.findall(text)
        ]
        if len(found) != sum(1 for line in text.split(b"\n") if line):
            raise MapsError("unexpected text in maps")
        return found
