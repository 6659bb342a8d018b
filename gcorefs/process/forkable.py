"""The memory that a child of fork(2) has as it was at the fork.

The rest is copied while the process stands still: memory that both share, or that the child does
not have (madvise(2), MADV_DONTFORK, MADV_WIPEONFORK), and pages of files, which others may write.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from gcorefs.elfcore.vma import Kind, Vma, VmFlag
from gcorefs.process.runs import Runs, nothing, runs_of

_NOT_IN_A_CHILD = VmFlag.DONTCOPY | VmFlag.WIPEONFORK
_SUPPLIED = VmFlag.UFFD_MISSING | VmFlag.UFFD_WP | VmFlag.UFFD_MINOR


@dataclass(frozen=True, slots=True)
class Forkable:
    why_not: str = "the stop began without hold=fork"
    """Why the process must not be forked; empty otherwise."""
    runs: Runs = field(default_factory=nothing)
    """The memory that a child has for itself."""


def forkable(vmas: Sequence[Vma]) -> Forkable:
    known: dict[Kind, bool] = {}
    for vma in vmas:
        kind = vma.kind
        if kind not in known:
            if kind.vm_flags & _SUPPLIED:
                # fork(2) waits for the monitor of the memory (UFFD_FEATURE_EVENT_FORK), and pages
                # that are missing are zeros in the child.
                return Forkable("it has memory of userfaultfd(2)")
            known[kind] = kind.is_plain and not kind.vm_flags & _NOT_IN_A_CHILD
    return Forkable("", runs_of([(vma.start, vma.end) for vma in vmas if known[vma.kind]]))
