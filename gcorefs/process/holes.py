"""Memory that was never populated, found without touching it.

Reading is not free for the process that is read: an untouched page of anonymous memory gets
page tables, a hole in a memfd becomes a page of zeros that stays.  And there may be terabytes
of it.  So what is not populated is known to be zeros before anything is read, and is not read.

Private anonymous memory: the page tables tell (pagemap.py).  Shared memory without a name: its
file does (shared.py).  Mappings under userfaultfd(2) are not asked about: what a missing page
of theirs holds, its handler knows.  Nor are private mappings of files: an untouched page of
these is the file's.
"""

from collections.abc import Iterable, Iterator, Sequence

from gcorefs.elfcore.vma import Vma
from gcorefs.process.pagemap import Pagemap
from gcorefs.process.shared import Shared

Hole = tuple[int, int]
"""Start and end, on page borders."""


def find_holes(
    vmas: Sequence[Vma], sizes: Sequence[int], pagemap: Pagemap, shared: Shared
) -> list[list[Hole]]:
    """The holes of each mapping, in order, of which `sizes` bytes are wanted in the core."""
    found: list[list[Hole]] = [[] for _ in vmas]
    for first, last in _neighbours(vmas, sizes):
        runs = pagemap.runs(
            [
                (vma.start, vma.end)
                for vma, size in zip(vmas[first:last], sizes[first:last], strict=True)
                if _may_have_holes(vma, size)
            ]
        )
        for index, holes in enumerate(_between(runs, vmas[first:last]), first):
            if _may_have_holes(vmas[index], sizes[index]):
                found[index] = holes
    for index, (vma, size) in enumerate(zip(vmas, sizes, strict=True)):
        if size == vma.size and "sh" in vma.vm_flags:
            found[index] = list(shared.holes(vma))
    return found


def _neighbours(vmas: Sequence[Vma], sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last index of private anonymous mappings in a row, to be asked about at once.

    Threads have their stacks in such rows, and one question for each would be 10,000.
    """
    first = None
    is_asked = False
    for index, (vma, size) in enumerate(zip(vmas, sizes, strict=True)):
        if not _is_private_anonymous(vma):
            if first is not None and is_asked:
                yield first, index
            first, is_asked = None, False
            continue
        if first is None:
            first = index
        is_asked = is_asked or _may_have_holes(vma, size)
    if first is not None and is_asked:
        yield first, len(vmas)


def _is_private_anonymous(vma: Vma) -> bool:
    return not (vma.has_file or vma.is_special or vma.vm_flags & {"sh", "um", "ht"})


def _may_have_holes(vma: Vma, size: int) -> bool:
    return size == vma.size > vma.anonymous + vma.swapped


def _between(runs: Iterable[Hole], vmas: Sequence[Vma]) -> Iterator[list[Hole]]:
    """What lies between the populated runs, for each mapping."""
    rest = iter(runs)
    run = next(rest, None)
    for vma in vmas:
        holes = []
        at = vma.start
        while run is not None and run[0] < vma.end:
            if run[0] > at:
                holes.append((at, run[0]))
            at = max(at, min(run[1], vma.end))
            if run[1] > vma.end:
                break
            run = next(rest, None)
        if at < vma.end:
            holes.append((at, vma.end))
        yield holes
