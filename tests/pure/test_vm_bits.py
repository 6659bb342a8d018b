"""What the bits of vm_flags mean, learned from mappings of which both are known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.elfcore.vm_bits import UnknownBits, VmBits, learned
from gcorefs.elfcore.vma import VmFlag

FLAGS = [*VmFlag]
_some_flags = st.sets(st.sampled_from(FLAGS), max_size=8)


def joined(flags: set[VmFlag]) -> VmFlag:
    found = VmFlag.NONE
    for flag in flags:
        found |= flag
    return found


@given(st.data())
def test_any_numbering_is_learned(data: st.DataObject) -> None:
    """As on any kernel, which may give each flag any bit, and have bits without a letter."""
    bits = data.draw(st.permutations(range(64)))
    number = dict(zip(FLAGS, bits, strict=False))
    silent = bits[len(FLAGS) :]

    def word(flags: set[VmFlag], more: set[int]) -> int:
        return sum({1 << number[flag] for flag in flags} | {1 << bit for bit in more})

    # Each flag has a mapping without it, and no other flag has the same mappings.
    samples = [({flag}, {silent[0]}) for flag in FLAGS] + [(set(), {silent[1]})]
    found = learned([word(*each) for each in samples], [joined(flags) for flags, _ in samples])
    flags = data.draw(_some_flags)
    more = data.draw(st.sets(st.sampled_from(silent[:2])))
    assert found.flags(word(flags, more)) == joined(flags)
    with pytest.raises(UnknownBits):
        found.flags(word(flags, {silent[2]}))


def test_bits_that_occurred_only_together_mean_nothing_alone() -> None:
    both = VmFlag.IO | VmFlag.PFNMAP
    bits = learned([0b0110, 0b0001, 0], [both, VmFlag.READ, VmFlag.NONE])
    assert bits.flags(0b0111) == both | VmFlag.READ
    for word in (0b0010, 0b0100, 0b0101):
        with pytest.raises(UnknownBits):
            bits.flags(word)


def test_a_flag_without_a_bit_is_noticed() -> None:
    with pytest.raises(UnknownBits, match="no bit of vm_flags means WRITE"):
        learned([1, 1], [VmFlag.READ | VmFlag.WRITE, VmFlag.READ])


def test_a_bit_that_was_never_seen_is_unknown() -> None:
    with pytest.raises(UnknownBits, match="0x10 are not known"):
        VmBits([(1, VmFlag.READ)]).flags(0x11)
