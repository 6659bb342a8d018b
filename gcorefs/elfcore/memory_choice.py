"""All options of a policy that choose memory, together: memory=, include=, exclude=, largest=.

The rule of memory= chooses first; a mapping that is larger than `largest` is then left out; what
`include` names is taken whole; what `exclude` names is left out in any case.
"""

from dataclasses import dataclass

from gcorefs.elfcore.filter import Facts, LeftOut, Share, dump_size
from gcorefs.elfcore.memory_kinds import PLAIN_KINDS
from gcorefs.elfcore.memory_rules import MemoryRule, never
from gcorefs.elfcore.patterns import NONE, Patterns
from gcorefs.elfcore.vma import Vma


@dataclass(frozen=True, slots=True)
class MemoryChoice:
    rule: MemoryRule
    include: Patterns = NONE
    exclude: Patterns = NONE
    largest: int = 0
    """Bytes; 0: no mapping is too large."""

    @property
    def is_rule_alone(self) -> bool:
        return self.include is NONE and self.exclude is NONE and not self.largest

    @property
    def is_bounded_by_use(self) -> bool:
        """True if it takes hardly a page of a file that is not in the page tables."""
        return self.rule.is_bounded_by_use and self.include is NONE

    @property
    def is_by_size(self) -> bool:
        """True if the share of plain memory that was written depends on its size alone."""
        has_names = self.include is not NONE or self.exclude is not NONE
        return not (has_names or PLAIN_KINDS.intersection(self.rule.kinds))

    def share(self, vma: Vma, mask: int, facts: Facts) -> Share:
        """The part of `vma` in the core, but for ranges of addresses.  `mask`: the coredump_filter
        of the process."""
        if self.is_rule_alone:
            return self.rule.share(vma, mask, facts)
        if self.exclude.match(vma.name):
            return Share(0, never(vma) or LeftOut.EXCLUDED)
        if self.include.match(vma.name):
            if (reason := never(vma)) is not None:
                return Share(0, reason)
            kernels = dump_size(vma, mask, facts)
            return Share(vma.size, None, max(0, vma.size - kernels.size))
        found = self.rule.share(vma, mask, facts)
        if self.largest and vma.size > self.largest and found.size and not vma.is_special:
            return Share(0, LeftOut.TOO_LARGE)
        return found
