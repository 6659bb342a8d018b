"""The area of XSAVE of a thread, as the kernel keeps it while the thread does not run
(arch/x86/kernel/fpu/xstate.c).

It is mostly compacted: the components that the kernel saves, one behind the other, and only those
in XSTATE_BV have bytes with a meaning.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gcorefs.arch.x86_saved import SavedThread, UnknownRegisters
from gcorefs.arch.xsave import Component, XsaveLayout

# Intel SDM vol. 1, 13.4: the area of XSAVE.
_X87 = (slice(0, 24), slice(32, 160))
_MXCSR = slice(24, 32)
_XMM = slice(160, 416)
_FXSAVE = 512
_FEATURES = slice(464, 472)
_HEADER = struct.Struct("<QQ")
_EXTENDED = 576
_IS_COMPACTED = 1 << 63
_AVX, _PKRU, _CET_USER = 2, 9, 11
_IS_ALIGNED = 2
_ALIGNMENT = 64

# The state after FNINIT, and MXCSR after a reset.
_INITIAL = bytearray(_FXSAVE)
_INITIAL[0:2] = (0x37F).to_bytes(2, "little")
_INITIAL[24:28] = (0x1F80).to_bytes(4, "little")


@dataclass(frozen=True, slots=True)
class SavedFormat:
    """How this processor and this kernel keep registers."""

    size: int
    """Bytes of the area of XSAVE in the standard format."""
    features: int
    """The features in it that programs may use."""
    cpuid: Callable[[int, int], Sequence[int]]
    """eax to edx of a leaf and a subleaf."""
    has_base_instructions: bool
    """True if programs may load the bases of fs and gs (FSGSBASE).  Else a selector that is not 0
    gives the base."""

    @classmethod
    def of(
        cls, state: bytes, cpuid: Callable[[int, int], Sequence[int]], has_base_instructions: bool
    ) -> "SavedFormat":
        """`state`: NT_X86_XSTATE of any thread.  UnknownRegisters."""
        layout = XsaveLayout.of(state, cpuid)
        if layout is None:
            raise UnknownRegisters("the processor has no XSAVE")
        return cls(layout.size, layout.features, cpuid, has_base_instructions)

    # The area of XSAVE.

    def xstate(self, thread: SavedThread) -> bytes:
        """NT_X86_XSTATE (fpu/xstate.c, __copy_xstate_to_uabi_buf)."""
        in_use, _ = _HEADER.unpack_from(thread.xsave, _FXSAVE)
        visible = in_use & thread.user_features
        area = bytearray(self.size)
        area[:_FXSAVE] = self.fxsave(thread)
        if visible & 1 << _AVX:
            area[_MXCSR] = thread.xsave[_MXCSR]
        area[_FEATURES] = self.features.to_bytes(8, "little")
        _HEADER.pack_into(area, _FXSAVE, visible, 0)
        for component, place in self._components(thread.xsave):
            end = component.offset + component.size
            if component.number == _PKRU:
                if thread.user_features & 1 << _PKRU:
                    area[component.offset : end] = thread.pkru.to_bytes(component.size, "little")
            elif visible & 1 << component.number:
                area[component.offset : end] = thread.xsave[place]
        return bytes(area)

    def fxsave(self, thread: SavedThread) -> bytes:
        """x87 and SSE in the format of FXSAVE: NT_PRFPREG, or NT_PRXFPREG of 32 bits."""
        in_use, _ = _HEADER.unpack_from(thread.xsave, _FXSAVE)
        area = bytearray(_INITIAL)
        if in_use & 0b1:
            for part in _X87:
                area[part] = thread.xsave[part]
        if in_use & 0b10:
            area[_XMM] = thread.xsave[_XMM]
        if in_use & 0b110:  # AVX too: MXCSR belongs to both
            area[_MXCSR] = thread.xsave[_MXCSR]
        return bytes(area)

    def shadow_stack(self, thread: SavedThread) -> bytes:
        """NT_X86_SHSTK; empty if the thread has no shadow stack."""
        in_use, _ = _HEADER.unpack_from(thread.xsave, _FXSAVE)
        for component, place in self._components(thread.xsave):
            if component.number == _CET_USER and in_use & 1 << _CET_USER:
                control, pointer = struct.unpack("<QQ", thread.xsave[place])
                return struct.pack("<Q", pointer) if control & 1 else b""
        return b""

    def _components(self, xsave: bytes) -> Iterator[tuple[Component, slice]]:
        """Each extended component that the area may hold, and its place there."""
        _, compaction = _HEADER.unpack_from(xsave, _FXSAVE)
        is_compacted = bool(compaction & _IS_COMPACTED)
        held = compaction if is_compacted else self.features
        end = _EXTENDED
        for number in range(2, 63):
            if held & 1 << number:
                size, offset, flags, *_ = self.cpuid(0xD, number)
                if not is_compacted:
                    start = offset
                else:
                    start = -(-end // _ALIGNMENT) * _ALIGNMENT if flags & _IS_ALIGNED else end
                end = start + size
                yield Component(number, size, offset), slice(start, end)
