"""Parts of mappings that a core has, as ranges of addresses.

A rule takes the beginning of a mapping (filter.py, Share).  memory=stacks also takes what lies in
the middle of one.  Then the mapping is cut at the ends of each part, and each piece is in the core
or is not.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.elf import page_up
from gcorefs.elfcore.filter import LeftOut, Share
from gcorefs.elfcore.vma import Vma

Range = tuple[int, int]
"""The first address, and the first behind it."""

# With memory=stacks a core has, beside the stacks (process/unwinding.py), in bytes:
MOST_OF_LINKER = 4 << 20
"""At most so much of the dynamic linker and libc."""
MOST_OF_LOST_CODE = 16 << 20
"""At most so much of code that no file holds."""
MOST_OF_A_THREAD = 32 << 10
"""At most so much of a thread: what libc keeps for it, whole pages, program headers."""

_CUTTABLE = (LeftOut.FILTER, LeftOut.POLICY, LeftOut.UNTOUCHED)
"""Memory that is left out for another reason is never taken."""


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


def cut(
    vmas: Sequence[Vma],
    shares: Sequence[Share],
    parts: Sequence[Range],
    beyond: Callable[[Vma], int],
) -> tuple[list[Vma], list[Share]]:
    """The pieces of the mappings, and the share of each.

    `parts`: ranges that the core has beside the shares, as `whole_pages` returns them.
    `beyond`: where the kernel's own dumper ends in this mapping.
    """
    pieces: list[Vma] = []
    piece_shares: list[Share] = []
    index = 0
    for vma, share in zip(vmas, shares, strict=True):
        while index < len(parts) and parts[index][1] <= vma.start:
            index += 1
        if index == len(parts) or parts[index][0] >= vma.end or share.left_out not in _CUTTABLE:
            pieces.append(vma)
            piece_shares.append(share)
            continue
        wanted = [(vma.start, vma.start + share.size)] if share.size else []
        at = index
        while at < len(parts) and parts[at][0] < vma.end:
            start, end = parts[at]
            wanted.append((max(start, vma.start), min(end, vma.end)))
            at += 1
        kernels = beyond(vma)
        border = vma.start
        for start, end in whole_pages(wanted):
            if border < start:
                pieces.append(_piece(vma, border, start))
                piece_shares.append(Share(0, share.left_out))
            pieces.append(_piece(vma, start, end))
            piece_shares.append(Share(end - start, None, end - min(end, max(start, kernels))))
            border = end
        if border < vma.end:
            pieces.append(_piece(vma, border, vma.end))
            piece_shares.append(Share(0, share.left_out))
    return pieces, piece_shares


def _piece(vma: Vma, start: int, end: int) -> Vma:
    """A part of a mapping.  How many of its pages are populated, is not known."""
    offset = vma.offset + start - vma.start
    return replace(vma, start=start, end=end, offset=offset, anonymous=0, swapped=0)
