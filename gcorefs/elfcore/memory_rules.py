"""memory=: the rules that choose how much of each mapping a core has.

    filter   the memory that coredump_filter selects, and the bytes that no file holds any more
    kernel   exactly the bytes that the kernel's own dumper takes
    0x33     as filter, with this mask in place of the coredump_filter of the process
    all      every byte that can be read
    text     the code that lies in files
    stacks   what a debugger needs for a backtrace of every thread (process/unwinding.py)
    none     no byte

`filter+text` is the memory of filter, and the code in files; the same for kernel and a mask.

No rule takes memory that the process, or the kernel, wants in no core (MADV_DONTDUMP), or registers
of a device, whose read may have side effects.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from gcorefs.elfcore import filter as rules
from gcorefs.elfcore.elf import PF_X
from gcorefs.elfcore.filter import Facts, LeftOut, Share
from gcorefs.elfcore.vma import Vma
from gcorefs.errors import GcorefsError

WORDS = "filter, kernel, all, text, stacks, none, a mask from 0x0 to 0x1ff, or one of these +text"

_ALL_BITS = (rules.DAX_SHARED << 1) - 1
_MASK = re.compile("0x[0-9a-f]{1,3}")
_TEXT = "text"


class RuleError(GcorefsError, ValueError):
    """There is no such rule.  The text says what a rule may be."""


@dataclass(frozen=True, slots=True)
class MemoryRule:
    base: str
    """filter, kernel, all, stacks, none, or a mask as hex() writes it."""
    has_text: bool = False
    """It also takes the code that lies in files."""

    def __str__(self) -> str:
        if not self.has_text:
            return self.base
        return _TEXT if self.base == "none" else f"{self.base}+{_TEXT}"

    def mask(self, own: int) -> int:
        """The coredump_filter that has this effect, but for the code.  `own`: the process's own."""
        match self.base:
            case "filter" | "kernel":
                return own
            case "all":
                return _ALL_BITS
            case "stacks":
                return rules.ELF_HEADERS
            case "none":
                return 0
        return int(self.base, 16)

    @property
    def has_stacks(self) -> bool:
        """It also takes parts of mappings that only the threads' registers tell."""
        return self.base == "stacks"

    @property
    def keeps_lost_files(self) -> bool:
        """True if it takes private mappings of files that do not show the bytes any more."""
        return self.base not in ("kernel", "stacks", "none")

    @property
    def is_small(self) -> bool:
        """True if it takes little memory of any process."""
        return self.base in ("stacks", "none") and not self.has_text

    @property
    def is_bounded_by_use(self) -> bool:
        """True if it takes hardly a page of a file that is not in the page tables."""
        return self.base in ("filter", "kernel", "stacks", "none") and not self.has_text

    def share(self, vma: Vma, mask: int, facts: Facts) -> Share:
        """The part of `vma` in the core.  `mask`: the coredump_filter of the process."""
        if self == FILTER:  # the usual case, for 100,000 mappings
            return rules.kept_size(vma, mask, facts)
        found = self._without_text(vma, mask, facts)
        if self.has_text and _is_code(vma):
            found = Share(vma.size, None)
        if not found.size or (self.base == "kernel" and not self.has_text):
            return found
        kernels = rules.dump_size(vma, mask, facts)
        return found._replace(beyond=max(0, found.size - kernels.size))

    def _without_text(self, vma: Vma, mask: int, facts: Facts) -> Share:
        match self.base:
            case "filter":
                return rules.kept_size(vma, mask, facts)
            case "kernel":
                return rules.dump_size(vma, mask, facts)
            case "all":
                return _everything(vma)
            case "none":
                return _nothing(vma)
        share = rules.kept_size(vma, self.mask(mask), facts)
        if share.left_out is LeftOut.FILTER:
            share = share._replace(left_out=LeftOut.POLICY)
        return share


FILTER = MemoryRule("filter")


@lru_cache(100)
def memory_rule(text: str) -> MemoryRule:
    """The rule with this name.  RuleError."""
    base, plus, text_word = text.partition("+")
    if base == _TEXT:
        base, text_word = text_word or "none", _TEXT
        if plus and base == "none":
            raise RuleError(WORDS)
    if (plus and text_word != _TEXT) or (base == "none" and plus):
        raise RuleError(WORDS)
    if _MASK.fullmatch(base) and int(base, 16) <= _ALL_BITS:
        base = hex(int(base, 16))
    elif base not in ("filter", "kernel", "all", "stacks", "none"):
        raise RuleError(WORDS)
    return MemoryRule(base, has_text=text_word == _TEXT and base != "all")


def _everything(vma: Vma) -> Share:
    if vma.is_special:
        return Share(vma.size, None)
    if (reason := _never(vma)) is not None:
        return Share(0, reason)
    if not vma.flags and not vma.kind.is_shared and not _is_written(vma):
        # PROT_NONE: reserved addresses, or a gap between the parts of a library.
        return Share(0, LeftOut.POLICY if vma.has_file else LeftOut.UNTOUCHED)
    return Share(vma.size, None)


def _nothing(vma: Vma) -> Share:
    if vma.is_special:
        return Share(0, LeftOut.POLICY)
    if (reason := _never(vma)) is not None:
        return Share(0, reason)
    is_untouched = not (vma.has_file or vma.kind.is_shared or _is_written(vma))
    return Share(0, LeftOut.UNTOUCHED if is_untouched else LeftOut.POLICY)


def _never(vma: Vma) -> LeftOut | None:
    """Why no rule takes it; None if a rule may."""
    if vma.kind.is_dontdump:
        return LeftOut.DONTDUMP
    return LeftOut.IO if vma.kind.is_io and not vma.kind.is_hugetlb else None


def _is_written(vma: Vma) -> bool:
    """hugetlbfs pages are counted nowhere (fs/proc/task_mmu.c, smaps_account)."""
    return bool(vma.anonymous or vma.swapped or vma.kind.is_hugetlb)


def _is_code(vma: Vma) -> bool:
    return vma.has_file and bool(vma.flags & PF_X) and _never(vma) is None
