"""Other processors: where each puts its registers, and states full of register values.

The offsets and sizes come from the CPUID of a processor (leaf 0xD: size and offset of each feature,
Intel SDM vol. 1, 13.2), never from a table of ours.  The ones below are made up from such answers.
"""

import random
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Layout = dict[int, tuple[int, int]]
"""Offset and size, by feature."""

AVX, OPMASK, ZMM_HI256, HI16_ZMM, PKRU, TILECFG, TILEDATA, APX = 2, 5, 6, 7, 9, 17, 18, 19
BNDREGS, BNDCSR = 3, 4

AMD_AVX512: Layout = {
    AVX: (576, 256), OPMASK: (832, 64), ZMM_HI256: (896, 512), HI16_ZMM: (1408, 1024),
}  # fmt: skip
INTEL_AVX512: Layout = {
    AVX: (576, 256), OPMASK: (1088, 64), ZMM_HI256: (1152, 512), HI16_ZMM: (1664, 1024),
}  # fmt: skip
MPX: Layout = {BNDREGS: (960, 64), BNDCSR: (1024, 64)}
INTEL_PKRU: Layout = {PKRU: (2688, 8)}
AMD_PKRU: Layout = {PKRU: (2432, 8)}
AMX: Layout = {TILECFG: (2752, 64), TILEDATA: (2816, 8192)}

LAYOUTS: dict[str, Layout] = {
    "Intel with AMX": INTEL_AVX512 | INTEL_PKRU | AMX,
    "Intel with AMX and APX": INTEL_AVX512 | INTEL_PKRU | AMX | {APX: (960, 128)},
    "Intel with AVX-512 and protection keys": INTEL_AVX512 | INTEL_PKRU,
    "Intel with AVX-512": INTEL_AVX512,
    "Intel with AVX-512 and MPX": INTEL_AVX512 | MPX,
    "Intel with MPX": {AVX: (576, 256)} | MPX,
    "Intel without AVX-512": {AVX: (576, 256)} | INTEL_PKRU,
    "AMD": AMD_AVX512 | AMD_PKRU,
    "AMD without protection keys": AMD_AVX512,
    "AMD without AVX-512": {AVX: (576, 256)} | AMD_PKRU,
    "AVX alone": {AVX: (576, 256)},
    "SSE alone": {},
}

KNOWN = {
    "Intel with AVX-512 and protection keys", "Intel with AVX-512", "Intel with AVX-512 and MPX",
    "Intel with MPX", "Intel without AVX-512", "AVX alone", "SSE alone",
}  # fmt: skip
"""The processors whose own layout every gdb knows."""


def features(layout: Layout) -> int:
    return 0b11 | sum(1 << feature for feature in layout)


def cpuid_of(layout: Mapping[int, tuple[int, int]], leaf: int, subleaf: int) -> tuple[int, ...]:
    assert leaf == 0xD
    offset, size = layout[subleaf]
    return size, offset, 0, 0


@dataclass(frozen=True)
class State:
    """The registers of one thread, as PTRACE_GETREGSET returns them and a debugger should show
    them."""

    xstate: bytes
    legacy: bytes
    """NT_PRFPREG of a 64-bit process, NT_PRXFPREG of a 32-bit process."""
    parts: Mapping[int, bytes]
    """Registers, by feature."""

    def vector(self, number: int) -> bytes:
        """The parts of zmm0 to zmm31 that exist."""
        if number >= 16:
            return self.parts[HI16_ZMM][64 * (number - 16) : 64 * (number - 15)]
        pieces = [self.legacy[160 + 16 * number : 176 + 16 * number]]
        for feature, size in ((AVX, 16), (ZMM_HI256, 32)):
            if feature in self.parts:
                pieces.append(self.parts[feature][size * number : size * (number + 1)])
        return b"".join(pieces)

    @property
    def opmasks(self) -> tuple[int, ...]:
        return struct.unpack("<8Q", self.parts[OPMASK]) if OPMASK in self.parts else ()

    @property
    def pkru(self) -> int | None:
        return struct.unpack_from("<I", self.parts[PKRU])[0] if PKRU in self.parts else None


def full(layout: Layout, seed: int, unused: tuple[int, ...] = ()) -> State:
    """Every register has a different value.  Only the registers of `unused` features are in their
    initial state: zeros (arch/x86/kernel/fpu/xstate.c, __copy_xstate_to_uabi_buf)."""
    some = random.Random(seed)
    legacy = bytearray(512)
    struct.pack_into("<HHBxHQQII", legacy, 0, 0x37F, 0, 0xFF, 0, 0, 0, 0x1F80, 0xFFFF)
    for number in range(8):  # x87: normal numbers
        at = 32 + 16 * number
        legacy[at : at + 10] = some.randbytes(7) + b"\x80" + struct.pack("<H", 0x3FFF + number)
    legacy[160:416] = some.randbytes(256)
    struct.pack_into("<Q", legacy, 464, features(layout))
    parts = {
        feature: bytes(size) if feature in unused else some.randbytes(size)
        for feature, (_, size) in layout.items()
    }
    if PKRU in parts:  # 32 bits, and 32 reserved bits
        parts[PKRU] = parts[PKRU][:4] + bytes(4)
    in_use = features(layout) & ~sum(1 << feature for feature in unused)
    size = max((offset + size for offset, size in layout.values()), default=576)
    state = bytearray(legacy + struct.pack("<Q", in_use)).ljust(size, b"\0")
    for feature, data in parts.items():
        offset = layout[feature][0]
        state[offset : offset + len(data)] = data
    return State(bytes(state), bytes(legacy[:464]).ljust(512, b"\0"), parts)


def moved_back(facts: Mapping[str, Any], written: Layout, xstate: bytes) -> bytes:
    """NT_X86_XSTATE as PTRACE_GETREGSET returns it, made from one in the layout `written`: each
    component moves to the place in the note of gcorefs (`facts`)."""
    if facts["layout"] == "kernel":
        return xstate
    assert (facts["layout"], facts["size"]) == ("standard", len(xstate))
    state = bytearray(facts["kernel_size"])
    state[:576] = xstate[:576]  # the legacy area and the header
    state[464:472] = int(facts["kernel_features"], 16).to_bytes(8, "little")
    for number, size, offset in facts["kernel_components"]:
        if number in written:
            place, length = written[number]
            assert length == size
            state[offset : offset + size] = xstate[place : place + size]
    return bytes(state)
