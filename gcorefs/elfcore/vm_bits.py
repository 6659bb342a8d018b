"""vm_flags of a mapping, as the kernel keeps them (include/linux/mm.h, VM_*).

The numbers of these bits are no interface: they differ between versions, machines and builds.  So
they are learned from mappings whose bits and whose letters in smaps are both known: a bit means the
letters that the same mappings have.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gcorefs.elfcore.vma import VmFlag
from gcorefs.errors import GcorefsError

_WORD = 64


class UnknownBits(GcorefsError, ValueError):
    """What a bit means is not known."""


@dataclass(frozen=True, slots=True)
class VmBits:
    groups: Sequence[tuple[int, VmFlag]]
    """Bits that occurred only together, and the flags that occurred with them; NONE for bits
    without a letter in smaps."""

    def flags(self, word: int) -> VmFlag:
        """UnknownBits: a bit never occurred, or not without another."""
        found = VmFlag.NONE
        for mask, flags in self.groups:
            if word & mask == mask:
                word &= ~mask
                found |= flags
        if word:
            raise UnknownBits(f"vm_flags {word:#x} are not known")
        return found


def learned(words: Sequence[int], flags: Sequence[VmFlag]) -> VmBits:
    """What the bits mean, from `words` and `flags` of the same mappings.

    UnknownBits: a flag has no bit.
    """
    groups: dict[int, tuple[int, VmFlag]] = {}  # by the mappings, one bit for each
    for bit in range(_WORD):
        found = sum((word >> bit & 1) << index for index, word in enumerate(words))
        mask, _ = groups.get(found, (0, VmFlag.NONE))
        groups[found] = mask | 1 << bit, VmFlag.NONE
    del groups[0]  # the bits that no mapping has
    for flag in VmFlag:
        found = sum((flag in some) << index for index, some in enumerate(flags))
        if found and found not in groups:
            raise UnknownBits(f"no bit of vm_flags means {flag.name}")
        if found:
            mask, also = groups[found]
            groups[found] = mask, also | flag
    return VmBits([*groups.values()])
