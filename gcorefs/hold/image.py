"""An image of memory by address, and which part of it is still true.

Each run of memory that is copied has a place in one buffer.  Beside every page stands its entry in
pagemap from just before it was copied.  A page of the image is true as long as the process has the
same page frame at that address, and the kernel has no mark that it was written.

The mark alone is not enough: mremap(2) moves page tables without marks (process/tracking.py).  Two
pages that were both there when the marks were cleared have different frames.  But the kernel's page
of zeros is at many addresses and comes back without a mark: after a write and MADV_DONTNEED, a read
maps it again.  So no such page of the image counts as true.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import compress, repeat
from operator import add

from gcorefs.arch.page import HUGE_PAGE_SIZE, PAGE_SIZE
from gcorefs.elfcore.columns import Column, differences
from gcorefs.kernel.pagemap_scan import FILE, PFNZERO, PRESENT, SWAPPED
from gcorefs.kernel.pagemap_scan import SOFT_DIRTY as IS_MARKED
from gcorefs.kernel.soft_dirty import MARK
from gcorefs.process.pagemap import FRAME, Pagemap, append_runs
from gcorefs.process.ranges import Ranges
from gcorefs.process.runs import Runs, common, nothing

_IS_PRESENT = 1 << 63
_IS_SWAPPED = 1 << 62
_IS_FILE = 1 << 61
_IS_OURS = 1 << 56
"""No other process maps the page, and it is no page of zeros."""
_COMPARED = FRAME | MARK | _IS_OURS | _IS_FILE | _IS_SWAPPED | _IS_PRESENT
_ENTRY_SIZE = 8
_AT_ONCE = 8192
"""Entries that are compared at once: of 32 MiB with small pages."""


class Image:
    """Where each part of the memory is in the buffer, and which page frame it came from."""

    def __init__(self) -> None:
        self._starts, self._ends = nothing()
        self._places: Column = array("Q")
        self._entries = array("Q")
        self.size = 0
        """Bytes of the buffer that have an address."""

    def make_places(self, runs: Runs) -> None:
        """Give whole pages of memory that have none a place, at the end of the buffer."""
        lengths = differences(runs[1], runs[0])
        slots = [*zip(self._starts, self._ends, self._places, strict=True)]
        for start, length in zip(runs[0], lengths, strict=True):
            slots.append((start, start + length, self.size))
            self.size += length
        slots.sort()
        self._starts, self._ends, self._places = (
            array("Q", column) for column in (zip(*slots, strict=True) if slots else repeat((), 3))
        )
        self._entries.frombytes(bytes((self.size // PAGE_SIZE - len(self._entries)) * _ENTRY_SIZE))

    @property
    def placed(self) -> Runs:
        """All memory that has a place."""
        return self._starts, self._ends

    def ranges(self, runs: Runs) -> Ranges:
        """The parts of `runs` that have a place, each with its place, in order of address."""
        starts, ends = common(self.placed, runs)
        lengths = differences(ends, starts)
        places = array("Q")
        at = 0
        while at < len(starts):
            # All parts in one slot at once: there are few slots and many parts, or few parts.
            slot = bisect_right(self._starts, starts[at]) - 1
            last = bisect_right(starts, self._ends[slot] - 1, at)
            move = self._places[slot] - self._starts[slot]
            places.extend(map(add, starts[at:last], repeat(move)))
            at = last
        return Ranges(starts, lengths, places)

    def note_frames(self, ranges: Ranges, pagemap: Pagemap) -> None:
        """Take down which frames the pages of `ranges` have.  Copy them after that: a page that
        is moved in between has another frame than the one that is taken down."""
        for address, length, place in ranges:
            entries = array("Q", pagemap.entries(address, length))
            first = place // PAGE_SIZE
            missing = length // PAGE_SIZE - len(entries)
            entries.frombytes(bytes(missing * _ENTRY_SIZE))
            self._entries[first : first + len(entries)] = entries

    def true_part(self, runs: Runs, pagemap: Pagemap) -> Runs:
        """The part of `runs`, which were copied, that has the bytes of the process."""
        if not runs[0]:
            return runs
        marked = IS_MARKED | FILE | SWAPPED | PFNZERO
        clean = pagemap.scan(runs[0][0], runs[1][-1], all_of=PRESENT, none_of=marked)
        if clean is not None:
            return self._unmoved(common(runs, clean), pagemap)
        found = nothing()
        for address, length, place in self.ranges(runs):
            for done in range(0, length, _AT_ONCE * PAGE_SIZE):
                count = min(length - done, _AT_ONCE * PAGE_SIZE) // PAGE_SIZE
                same = self._same_pages(pagemap, address + done, place + done, count)
                append_runs(found, address + done, same)
        return found

    def _same_pages(self, pagemap: Pagemap, address: int, place: int, count: int) -> bytes:
        """A byte for each page: 1 if it is the page that was copied, and was not written."""
        now = pagemap.entries(address, count * PAGE_SIZE)
        first = place // PAGE_SIZE
        return _same(now, self._entries[first : first + len(now) // _ENTRY_SIZE].tobytes())

    def _unmoved(self, runs: Runs, pagemap: Pagemap) -> Runs:
        """The part of `runs` whose page tables are where they were.  mremap(2) moves a table as a
        whole, so the first page of the image in each table tells for all of them."""
        looked_at: Column = array("Q")
        table = -1
        for start, end in zip(*runs, strict=True):
            first, last = start // HUGE_PAGE_SIZE, (end - 1) // HUGE_PAGE_SIZE
            if first > table:
                looked_at.append(start)
            if last > first:
                borders = range(first + 1, last + 1)
                looked_at.extend(border * HUGE_PAGE_SIZE for border in borders)
            table = last
        then = array("Q", [self._entries[self._place(at) // PAGE_SIZE] for at in looked_at])
        now = b"".join(map(pagemap.entries, looked_at, repeat(PAGE_SIZE)))
        if len(now) < len(then) * _ENTRY_SIZE:  # the address space is gone
            return nothing()
        is_still = _same(now, then.tobytes())
        if all(is_still):
            return runs
        still = [at // HUGE_PAGE_SIZE for at in compress(looked_at, is_still)]
        tables = (
            array("Q", [each * HUGE_PAGE_SIZE for each in still]),
            array("Q", [(each + 1) * HUGE_PAGE_SIZE for each in still]),
        )
        return common(runs, tables)

    def _place(self, address: int) -> int:
        slot = bisect_right(self._starts, address) - 1
        return self._places[slot] + address - self._starts[slot]

    def in_file(self, wanted: Ranges) -> "FileImage":
        """The image in the order of a file.  `wanted`: the memory in the file, each range with its
        offset.  All of it has a place."""
        parts = self.ranges(wanted.runs)
        if sum(parts.lengths) != sum(wanted.lengths):
            raise ValueError("a part of the file is not in the image")
        offsets = array("Q")
        for address in parts.addresses:
            index = bisect_right(wanted.addresses, address) - 1
            offsets.append(wanted.places[index] + address - wanted.addresses[index])
        return FileImage(offsets, parts.lengths, parts.places)


class FileImage:
    """The parts of an image in the order of a file; what is between them is zeros."""

    def __init__(self, offsets: Column, lengths: Column, places: Column) -> None:
        """Where each part is in the file, its bytes, and where it is in the image."""
        self._offsets = offsets
        self._lengths = lengths
        self._places = places

    def pieces(self, offset: int, length: int) -> Iterator[tuple[int | None, int]]:
        """Place and length of the pieces of `length` bytes at `offset`.  None: zeros."""
        index = bisect_right(self._offsets, offset) - 1
        while length > 0:
            inside = offset - self._offsets[index] if index >= 0 else 0
            left = self._lengths[index] - inside if index >= 0 else 0
            place: int | None = None
            if left > 0:
                count = min(length, left)
                place = self._places[index] + inside
            else:
                index += 1
                is_last = index == len(self._offsets)
                count = length if is_last else min(length, self._offsets[index] - offset)
            if count:
                yield place, count
            offset, length = offset + count, length - count


_WORDS = (_COMPARED, FRAME, _IS_PRESENT | _IS_OURS)
_IS_ZERO = bytes([1]) + bytes(255)


def _same(now: bytes, then: bytes) -> bytes:
    """A byte for each entry: 1 if `now` is the frame of `then`, present, the process's own, and not
    written."""
    count = len(now) // _ENTRY_SIZE
    compared, frames, present = (_words(word, count) for word in _WORDS)
    # All entries in one number: that takes hardly longer than a copy of them.
    differ = (int.from_bytes(now, "little") & compared) ^ (
        int.from_bytes(then, "little") & frames | present
    )
    for shift in (32, 16, 8):  # the lowest byte of each entry is 0 if the whole entry is
        differ |= differ >> shift
    return differ.to_bytes(len(now), "little")[::_ENTRY_SIZE].translate(_IS_ZERO)


@lru_cache(64)
def _words(word: int, count: int) -> int:
    """A number that consists of `count` equal words."""
    return int.from_bytes(word.to_bytes(_ENTRY_SIZE, "little") * count, "little")
