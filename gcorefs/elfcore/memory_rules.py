"""memory=: the rules that choose how much of each mapping a core has.

    filter   the memory that coredump_filter selects, and the bytes that no file holds any more
    kernel   exactly the bytes that the kernel's own dumper takes
    0x33     as filter, with this mask in place of the coredump_filter of the process
    all      every byte that can be read
    stacks   what a debugger needs for a backtrace of every thread (process/unwinding.py)
    none     no byte

    text     the code that lies in files; heap, anon ...: other kinds (memory_kinds.py)

`filter+text` is the memory of filter, and the code in files; the same for other rules, and for any
number of kinds.

Only `all+dontdump` takes memory that the process, or the kernel, wants in no core (MADV_DONTDUMP).
No rule takes registers of a device, whose read may have side effects.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from gcorefs.elfcore import filter as rules
from gcorefs.elfcore.filter import Facts, LeftOut, Share
from gcorefs.elfcore.memory_kinds import MASKS, MemoryKind, kind_of
from gcorefs.elfcore.vma import Vma
from gcorefs.errors import GcorefsError

_BASES = ("filter", "kernel", "all", "stacks", "none")
_DONTDUMP = "dontdump"
_UNSPARING = f"all+{_DONTDUMP}"
WORDS = (
    f"{', '.join(_BASES)}, {_UNSPARING}, a mask from 0x0 to 0x1ff, or kinds "
    f"({', '.join(kind.value for kind in MemoryKind)}), or both with + between them"
)

_ALL_BITS = (rules.DAX_SHARED << 1) - 1
_MASK = re.compile("0x[0-9a-f]{1,3}")


class RuleError(GcorefsError, ValueError):
    """There is no such rule.  The text says what a rule may be."""


@dataclass(frozen=True, slots=True)
class MemoryRule:
    base: str
    """filter, kernel, all, all+dontdump, stacks, none, or a mask as hex() writes it."""
    kinds: tuple[MemoryKind, ...] = ()
    """It also takes these kinds of mappings, in the order of MemoryKind."""

    def __str__(self) -> str:
        words = [] if self.kinds and self.base == "none" else [self.base]
        return "+".join([*words, *(kind.value for kind in self.kinds)])

    @property
    def has_text(self) -> bool:
        """It takes the code that lies in files, whatever its base."""
        return MemoryKind.TEXT in self.kinds

    def mask(self, own: int) -> int:
        """The coredump_filter that has this effect, but for the code.  `own`: the process's own."""
        match self.base:
            case "filter" | "kernel":
                bits = own
            case "all" | "all+dontdump":
                return _ALL_BITS
            case "stacks":
                bits = rules.ELF_HEADERS
            case "none":
                bits = 0
            case _:
                bits = int(self.base, 16)
        for kind in self.kinds:
            bits |= MASKS[kind]
        return bits

    @property
    def has_stacks(self) -> bool:
        """It also takes parts of mappings that only the threads' registers tell."""
        return self.base == "stacks"

    @property
    def asks_for_stacks(self) -> bool:
        """True if it has to know where the threads' stacks are."""
        return self.has_stacks or MemoryKind.STACK in self.kinds

    @property
    def keeps_lost_files(self) -> bool:
        """True if it takes private mappings of files that do not show the bytes any more."""
        return self.base not in ("kernel", "stacks", "none")

    @property
    def is_small(self) -> bool:
        """True if it takes little memory of any process."""
        return self.base in ("stacks", "none") and not self.kinds

    @property
    def is_bounded_by_use(self) -> bool:
        """True if it takes hardly a page of a file that is not in the page tables."""
        is_of_files = {MemoryKind.TEXT, MemoryKind.FILE, MemoryKind.DAX}.intersection(self.kinds)
        return self.base in ("filter", "kernel", "stacks", "none") and not is_of_files

    def share(self, vma: Vma, mask: int, facts: Facts) -> Share:
        """The part of `vma` in the core.  `mask`: the coredump_filter of the process."""
        if self == FILTER:  # the usual case, for 100,000 mappings
            return rules.kept_size(vma, mask, facts)
        found = self._of_base(vma, mask, facts)
        if self.kinds and found.size < vma.size:
            found = self._of_kinds(vma, found, facts)
        if not found.size or (self.base == "kernel" and not self.kinds):
            return found
        kernels = rules.dump_size(vma, mask, facts)
        return found._replace(beyond=max(0, found.size - kernels.size))

    def _of_kinds(self, vma: Vma, found: Share, facts: Facts) -> Share:
        """The share if one of the kinds takes the mapping, else `found`."""
        if never(vma) is not None or kind_of(vma, facts) not in self.kinds:
            return found
        is_private = not (vma.has_file or vma.kind.is_shared)
        if is_private and not _is_written(vma):
            return Share(0, LeftOut.UNTOUCHED)
        return Share(vma.size, None)

    def _of_base(self, vma: Vma, mask: int, facts: Facts) -> Share:
        match self.base:
            case "filter":
                return rules.kept_size(vma, mask, facts)
            case "kernel":
                return rules.dump_size(vma, mask, facts)
            case "all":
                return _everything(vma, never(vma))
            case "all+dontdump":
                return _everything(vma, _registers(vma))
            case "none":
                return _nothing(vma)
        own = rules.ELF_HEADERS if self.has_stacks else int(self.base, 16)
        share = rules.kept_size(vma, own, facts)
        if share.left_out is LeftOut.FILTER:
            share = share._replace(left_out=LeftOut.POLICY)
        return share


FILTER = MemoryRule("filter")


@lru_cache(100)
def memory_rule(text: str) -> MemoryRule:
    """The rule with this name.  RuleError."""
    words = text.split("+")
    kinds = {_KINDS[word] for word in words if word in _KINDS}
    bases = [word for word in words if word not in _KINDS]
    is_repeated = len(kinds) + len(bases) < len(words)
    if sorted(bases) == ["all", _DONTDUMP]:
        bases = [_UNSPARING]
    if is_repeated or len(bases) > 1 or (kinds and "none" in bases):
        raise RuleError(WORDS)
    (base,) = bases or ("none",)
    if _MASK.fullmatch(base) and int(base, 16) <= _ALL_BITS:
        base = hex(int(base, 16))
    elif base not in (*_BASES, _UNSPARING):
        raise RuleError(WORDS)
    taken = (
        () if base in ("all", _UNSPARING) else tuple(kind for kind in MemoryKind if kind in kinds)
    )
    return MemoryRule(base, taken)


_KINDS = {kind.value: kind for kind in MemoryKind}


def _everything(vma: Vma, why_never: LeftOut | None) -> Share:
    if vma.is_special:
        return Share(vma.size, None)
    if why_never is not None:
        return Share(0, why_never)
    if not vma.flags and not vma.kind.is_shared and not _is_written(vma):
        # PROT_NONE: reserved addresses, or a gap between the parts of a library.
        return Share(0, LeftOut.POLICY if vma.has_file else LeftOut.UNTOUCHED)
    return Share(vma.size, None)


def _nothing(vma: Vma) -> Share:
    if vma.is_special:
        return Share(0, LeftOut.POLICY)
    if (reason := never(vma)) is not None:
        return Share(0, reason)
    is_untouched = not (vma.has_file or vma.kind.is_shared or _is_written(vma))
    return Share(0, LeftOut.UNTOUCHED if is_untouched else LeftOut.POLICY)


def never(vma: Vma) -> LeftOut | None:
    """Why no rule but all+dontdump takes it; None if a rule may."""
    return LeftOut.DONTDUMP if vma.kind.is_dontdump else _registers(vma)


def _registers(vma: Vma) -> LeftOut | None:
    """IO if they are registers of a device."""
    return LeftOut.IO if vma.kind.is_io and not vma.kind.is_hugetlb else None


def _is_written(vma: Vma) -> bool:
    """hugetlbfs pages are counted nowhere (fs/proc/task_mmu.c, smaps_account)."""
    return vma.is_written or vma.kind.is_hugetlb
