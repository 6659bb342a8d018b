"""Small reads at addresses that the process itself supplies, and that may be wrong.

An address from a register or from a list in memory may lead anywhere.  So each is looked up in the
mappings first, and memory is not read that no core has (a device, MADV_DONTDUMP).  A peek never
waits: it gives fewer bytes, or none.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.columns import Column
from gcorefs.elfcore.elf import PF_R, ElfClass
from gcorefs.elfcore.vma import Vma
from gcorefs.process.memory import Memory
from gcorefs.process.page_providers import MayWait, NotBrought

LONGEST_TEXT = PAGE_SIZE
"""Bytes of a path (limits.h, PATH_MAX)."""

_MOST_PAGES = 1024
"""Pages that are remembered: a list in memory may lead to any number."""


class Peek:
    """The memory of a process that stands still, by addresses that may be wrong."""

    def __init__(self, memory: Memory, vmas: Sequence[Vma], form: ElfClass) -> None:
        self.form = form
        self._memory = memory
        self._vmas = vmas
        self._starts = array("Q", [vma.start for vma in vmas])
        self._pages: dict[int, bytes] = {}

    def vma(self, address: int) -> Vma | None:
        """The mapping around an address."""
        index = bisect_right(self._starts, address) - 1
        found = self._vmas[index] if index >= 0 else None
        return found if found is not None and address < found.end else None

    def overlaps(self, start: int, end: int) -> Iterator[Vma]:
        """The mappings that have a part of a range."""
        for index in range(max(0, bisect_right(self._starts, start) - 1), len(self._vmas)):
            vma = self._vmas[index]
            if vma.start >= end:
                return
            if vma.end > start:
                yield vma

    def named(self, name: bytes) -> Vma | None:
        """The first mapping of this name."""
        return next((vma for vma in self._vmas if vma.name == name), None)

    def behind(self, vma: Vma) -> Vma | None:
        """The mapping that begins where `vma` ends."""
        return self.vma(vma.end)

    def read(self, address: int, length: int) -> bytes:
        """The bytes at an address, up to the first that cannot be read."""
        parts = []
        while length > 0:
            start = address // PAGE_SIZE * PAGE_SIZE
            part = self._page(start)[address - start :][:length]
            if not part:
                break
            parts.append(part)
            address += len(part)
            length -= len(part)
        return b"".join(parts)

    def words(self, address: int, count: int) -> tuple[int, ...]:
        """`count` words at an address, or none."""
        size = self.form.word_size
        data = self.read(address, count * size)
        if len(data) < count * size:
            return ()
        return tuple(array(self.form.word, data))

    def text(self, address: int) -> bytes:
        """The text at an address, without its NUL."""
        return self.read(address, LONGEST_TEXT).partition(b"\0")[0]

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of each range (start, end), each inside one mapping, with few system calls.
        b"" for a range that cannot be read at once."""
        addresses, lengths = array("Q"), array("Q")
        for start, end in ranges:
            if self._may_read(start):
                addresses.append(start)
                lengths.append(end - start)
        data = self._read(addresses, lengths)
        if data is None:
            return [self.read(start, end - start) for start, end in ranges]
        found = dict(zip(addresses, _divided(data, lengths), strict=True))
        return [found.get(start, b"") for start, _ in ranges]

    def _page(self, start: int) -> bytes:
        found = self._pages.get(start)
        if found is None:
            found = b""
            if self._may_read(start):
                found = self._read(array("Q", [start]), array("Q", [PAGE_SIZE])) or b""
                if start in self._memory.unreadable_pages:
                    found = b""
            if len(self._pages) == _MOST_PAGES:
                self._pages.clear()
            self._pages[start] = found
        return found

    def _may_read(self, address: int) -> bool:
        vma = self.vma(address)
        if vma is None or not vma.flags & PF_R:
            return False
        return not (vma.kind.is_dontdump or vma.kind.is_io or vma.is_special)

    def _read(self, addresses: Column, lengths: Column) -> bytes | None:
        """None: somebody must supply a page."""
        buffer = bytearray(sum(lengths))
        try:
            self._memory.read_ranges(addresses, lengths, memoryview(buffer), ())
        except (MayWait, NotBrought):
            return None
        return bytes(buffer)


def _divided(data: bytes, lengths: Column) -> list[bytes]:
    parts = []
    at = 0
    for length in lengths:
        parts.append(data[at : at + length])
        at += length
    return parts
