"""Finds memory that was never populated (holes) without touching it.

A read is not free for the process: an untouched page of anonymous memory gets page tables, a hole
in a memfd becomes a page of zeros that stays, a huge page is taken from the hugetlb pool.  And
there may be terabytes of holes.  So we find the holes first, know that they are zeros, and do not
read them.

The page tables show the holes of private anonymous memory (pagemap.py); a guard page is one too
(guards.py).  The file shows the holes
of shared memory without a name (shmem.py).  A private mapping of a memfd has a hole where both have
one, and so has a private mapping of huge pages whose file has no page.  Mappings under
userfaultfd(2) have no known holes: only the handler knows the content of a missing page.  Other
private mappings of files have none either: an untouched page has the bytes of the file.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

from gcorefs.elfcore.columns import Column
from gcorefs.elfcore.vma import HUGE_PAGES, Vma, VmFlag
from gcorefs.process.pagemap import Pagemap
from gcorefs.process.runs import Runs, common, nothing, runs_of, size_of
from gcorefs.process.shmem import Shmem

Holes = tuple[Column, Column]
"""Starts and ends, multiples of the page size, in order."""

_NONE: Holes = array("Q"), array("Q")

_BEHIND_ALL = 1 << 64, 1 << 64

_TOGETHER = 256
"""Mappings."""

_NEAR = 1 << 20
"""A walk of fewer bytes takes no longer than one more call."""


def find_holes(
    vmas: Sequence[Vma], sizes: Sequence[int], pagemap: Pagemap, shared: Shmem
) -> list[Holes]:
    """The holes of each mapping.  `sizes`: how many bytes of each the core wants."""
    found: list[Holes] = [_NONE] * len(vmas)
    for row, mapped in _rows(vmas, sizes, shared):
        populated = pagemap.runs(mapped)
        for index in _not_full(row, mapped, populated):
            found[index] = _between(*populated, vmas[index])
    for index, vma in enumerate(vmas):
        if vma.kind.has_file and sizes[index] == vma.size:
            holes = shared.holes(vma)
            if holes[0] and VmFlag.MAYSHARE not in vma.vm_flags:
                runs = pagemap.runs(runs_of([(vma.start, vma.end)]))
                holes = _in_both(holes, _between(*runs, vma))
            if holes[0]:
                found[index] = holes
    return found


def _not_full(row: Sequence[int], mapped: Runs, populated: Runs) -> Iterator[int]:
    """The mappings of a row, by index, that do not lie in one run each.

    Most do, and to go through 100,000 mappings and runs takes long.  So it is first asked of many
    mappings together whether as much is populated as they have, if nothing else lies between them.
    """
    for first in range(0, len(row), _TOGETHER):
        some = slice(first, first + _TOGETHER)
        indexes, own = row[some], (mapped[0][some], mapped[1][some])
        runs = common(runs_of([(own[0][0], own[1][-1])]), populated)
        are_alone = indexes[-1] - indexes[0] == len(indexes) - 1
        # More runs than mappings: one of them has a hole.
        if are_alone and len(runs[0]) <= len(indexes) and size_of(runs) == size_of(own):
            continue
        pairs = zip(*runs, strict=True)
        start = end = 0
        for index, low, high in zip(indexes, *own, strict=True):
            while end <= low:
                start, end = next(pairs, _BEHIND_ALL)
            if start > low or end < high:
                yield index


def _in_both(one: Holes, other: Holes) -> Holes:
    """The parts that two lists of ranges have in common."""
    starts, ends = array("Q"), array("Q")
    for first, last in zip(*one, strict=True):
        for at in range(bisect_right(other[1], first), bisect_left(other[0], last)):
            starts.append(max(first, other[0][at]))
            ends.append(min(last, other[1][at]))
    return starts, ends


def _rows(
    vmas: Sequence[Vma], sizes: Sequence[int], shared: Shmem
) -> Iterator[tuple[list[int], Runs]]:
    """Mappings that may have holes, by index, and their addresses, in rows.  One call finds the
    holes of a row.

    The stacks of threads lie in a row, and one call for each stack would be 10,000 calls.  But a
    walk of a gibibyte without holes between two mappings takes 3 ms.
    """
    row: list[int] = []
    starts, ends = nothing()
    between = 0
    for index, (vma, size) in enumerate(zip(vmas, sizes, strict=True)):
        start, end = vma.start, vma.end
        if (
            size == end - start
            # Pages that nobody has counted may be populated or not.
            and size > vma.pages.populated
            and (vma.kind.is_plain or _is_private_anonymous(vma, shared))
        ):
            if between > _NEAR:
                yield row, (starts, ends)
                row, (starts, ends) = [], nothing()
            row.append(index)
            starts.append(start)
            ends.append(end)
            between = 0
        elif row:
            between += end - start
    if row:
        yield row, (starts, ends)


def _is_private_anonymous(vma: Vma, shared: Shmem) -> bool:
    """True if so.  `vma` is not plain."""
    kind = vma.kind
    if kind.is_special or (kind.has_file and not kind.is_hugetlb):
        return False
    if kind.vm_flags & (VmFlag.MAYSHARE | VmFlag.UFFD_MISSING):
        return False
    return not kind.has_file or kind.name == HUGE_PAGES or shared.has_no_pages(vma)


def _between(starts: Column, ends: Column, vma: Vma) -> Holes:
    """The parts of a mapping between populated runs."""
    first, last = bisect_right(ends, vma.start), bisect_left(starts, vma.end)
    hole_starts, hole_ends = ends[first:last], starts[first:last]
    # If a run crosses an end of the mapping, there is no hole at that end.
    if last > first and hole_ends[0] <= vma.start:
        del hole_ends[0]
    else:
        hole_starts.insert(0, vma.start)
    if last > first and hole_starts[-1] >= vma.end:
        hole_starts.pop()
    else:
        hole_ends.append(vma.end)
    return hole_starts, hole_ends
