"""The memory in which the kernel marks each page that the process writes (soft-dirty), and where a
page without a mark surely has the bytes that it had.

The kernel marks less than its documentation says.  Seen on Linux 6.1 and 6.12, and left out here or
found in another way:

- Memory that others write: shared memory, pages of files, huge pages of hugetlbfs.  The marks are
  in our process's own page tables.
- userfaultfd(2) moves pages in, with or without a mark, by version.
- KSM drops the mark of a page that it merges (mm/ksm.c, replace_page), and unmerging does not bring
  it back (mm/memory.c, wp_page_copy).  Unmerging copies the page, and the kernel counts that.
- In a mapping that is younger than the marks every page counts as written (VM_SOFTDIRTY).
- mremap(2) moves a whole page table as it is, without marks (mm/mremap.c, move_normal_pmd).  The
  page at an address is another one then, and has another frame: hold/image.py compares the frames.
- Before Linux 6.5 a direct read from a disk (O_DIRECT) does not pin the pages that it fills.  If it
  is under way when the marks are cleared, its bytes come without a mark.  No thread that stands
  still has such a read under way, but io_uring(7) and io_submit(2) may.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from gcorefs.elfcore.memory_choice import MemoryChoice
from gcorefs.elfcore.vma import Kind, Vma, VmFlag
from gcorefs.process.runs import Runs, nothing, runs_of

_RINGS = (b"/[aio] (deleted)", b"anon_inode:[io_uring]")
"""The mappings of io_submit(2) (fs/aio.c, aio_setup_ring) and of io_uring(7)."""


@dataclass(frozen=True, slots=True)
class Tracking:
    why_not: str = ""
    """Why nothing is tracked; empty otherwise."""
    runs: Runs = field(default_factory=nothing)
    """Tracked memory that a core may have."""
    older: Runs = field(default_factory=nothing)
    """The part of `runs` in mappings that are older than the marks: elsewhere every page counts as
    written."""
    has_rings: bool = False
    """The process has a ring of io_uring(7) or io_submit(2)."""


def track(vmas: Sequence[Vma], choice: MemoryChoice, mask: int) -> Tracking:
    """What a core with this choice takes of the tracked memory.  `mask`: the coredump_filter of
    the process."""
    known: dict[Kind, bool] = {}
    taken, older = [], []
    for vma in vmas:
        kind = vma.kind
        is_tracked = known.get(kind)
        if is_tracked is None:
            is_tracked = known[kind] = kind.is_plain and not kind.is_mergeable
        if is_tracked and choice.share(vma, mask, _Nothing()).size:
            taken.append((vma.start, vma.end))
            if VmFlag.SOFTDIRTY not in kind.vm_flags:
                older.append((vma.start, vma.end))
    return Tracking("", runs_of(taken), runs_of(older), any(kind.name in _RINGS for kind in known))


class _Nothing:
    """Facts about private memory without a file: no file has to be asked.  A mapping of which
    the choice takes more than this tells is copied in the stop."""

    def is_dax(self, vma: Vma) -> bool:
        return False

    is_unlinked = is_program = is_swapped_out = has_huge_zero_page = is_dax
    has_stack = is_lost = is_dax

    def notes_end(self, vma: Vma) -> int:
        return 0
