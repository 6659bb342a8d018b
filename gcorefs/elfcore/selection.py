"""Parts of mappings that a core has, as ranges of addresses.

A rule takes the beginning of a mapping (filter.py, Share).  memory=stacks also takes what lies in
the middle of one; include= and exclude= may name ranges of addresses.  Then the mapping is cut at
the ends of each part, and each piece is in the core or is not.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.elf import page_up
from gcorefs.elfcore.filter import LeftOut, Share
from gcorefs.elfcore.vma import Pages, Vma

Range = tuple[int, int]
"""The first address, and the first behind it."""

# With memory=stacks a core has, beside the stacks (process/unwinding.py), in bytes:
MOST_OF_LINKER = 4 << 20
"""At most so much of the dynamic linker and libc."""
MOST_OF_DATA = 4 << 20
"""At most so much of the data of programs that was written (process/written_data.py)."""
MOST_OF_LOST_CODE = 16 << 20
"""At most so much of code that no file holds."""
MOST_REFERENCED = 64 << 20
"""At most so much of what registers and stacks point to (process/referenced.py)."""
MOST_OF_A_THREAD = 32 << 10
"""At most so much of a thread: what libc keeps for it, whole pages, program headers."""

_CUTTABLE = (None, LeftOut.FILTER, LeftOut.POLICY, LeftOut.UNTOUCHED, LeftOut.TOO_LARGE)
"""Memory that is left out for another reason is never taken."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Ranges, each list as `whole_pages` returns them."""

    parts: Sequence[Range]
    """The core has them beside the shares of the mappings."""
    without: Sequence[Range] = ()
    """The core does not have them, whatever else says so."""

    @property
    def is_empty(self) -> bool:
        return not (self.parts or self.without)


def whole_pages(ranges: Iterable[Range]) -> list[Range]:
    """The ranges as whole pages, in order; none touches the next."""
    merged: list[Range] = []
    for low, high in sorted(ranges):
        if low >= high:
            continue
        start, end = low // PAGE_SIZE * PAGE_SIZE, page_up(high)
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((start, end))
    return merged


def without(ranges: Sequence[Range], holes: Sequence[Range]) -> list[Range]:
    """What is left of `ranges` outside of `holes`.  Both as `whole_pages` returns them."""
    found = []
    for start, end in ranges:
        border = start
        for low, high in holes:
            if low < end and border < high:
                if border < low:
                    found.append((border, low))
                border = min(end, high)
        if border < end:
            found.append((border, end))
    return found


def cut(
    vmas: Sequence[Vma],
    shares: Sequence[Share],
    selection: Selection,
    beyond: Callable[[Vma], int],
) -> tuple[list[Vma], list[Share]]:
    """The pieces of the mappings, and the share of each.

    `beyond`: where the kernel's own dumper ends in a mapping.
    """
    parts, holes = _Within(selection.parts), _Within(selection.without)
    pieces: list[Vma] = []
    piece_shares: list[Share] = []
    for vma, share in zip(vmas, shares, strict=True):
        added, removed = parts.of(vma), holes.of(vma)
        if share.left_out not in _CUTTABLE or not (added or (removed and share.size)):
            pieces.append(vma)
            piece_shares.append(share)
            continue
        own = [(vma.start, vma.start + share.size)] if share.size else []
        wanted = whole_pages([*own, *added])
        kernels = beyond(vma)
        taken = without(wanted, removed) if removed else wanted
        for start, end, is_taken in _row(vma, taken, wanted):
            pieces.append(_piece(vma, start, end))
            if is_taken is None:
                piece_shares.append(Share(0, share.left_out))
            elif is_taken:
                piece_shares.append(Share(end - start, None, end - min(end, max(start, kernels))))
            else:
                piece_shares.append(Share(0, LeftOut.EXCLUDED))
    return pieces, piece_shares


def _row(
    vma: Vma, taken: Sequence[Range], wanted: Sequence[Range]
) -> Iterator[tuple[int, int, bool | None]]:
    """The pieces of a mapping in order: True for what is taken, False for what is wanted but not
    taken, None for the rest."""
    known: list[tuple[int, int, bool | None]] = [(*each, True) for each in taken]
    if taken is not wanted:
        known += [(*each, False) for each in without(wanted, taken)]
        known.sort()
    border = vma.start
    for start, end, is_taken in known:
        if border < start:
            yield border, start, None
        yield start, end, is_taken
        border = end
    if border < vma.end:
        yield border, vma.end, None


class _Within:
    """The parts of ranges in each of ascending mappings."""

    def __init__(self, ranges: Sequence[Range]) -> None:
        self._ranges = ranges
        self._next = 0

    def of(self, vma: Vma) -> list[Range]:
        ranges = self._ranges
        while self._next < len(ranges) and ranges[self._next][1] <= vma.start:
            self._next += 1
        at = self._next
        found = []
        while at < len(ranges) and ranges[at][0] < vma.end:
            start, end = ranges[at]
            found.append((max(start, vma.start), min(end, vma.end)))
            at += 1
        return found


def _piece(vma: Vma, start: int, end: int) -> Vma:
    """A part of a mapping.  How many of its pages are populated, is not known."""
    # Not dataclasses.replace, which takes five times as long: there may be thousands.
    pages = Pages(None, None, vma.pages.shared, vma.pages.has_anon_vma)
    return Vma(start, end, vma.kind, vma.offset + start - vma.start, pages)
