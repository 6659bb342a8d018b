"""A machine with aarch64 on which gcorefs runs.  Its kernel and its processor differ from others in
more than the numbers of the calls: the auxiliary vector tells (getauxval(3))."""

import functools
import struct

from gcorefs.arch.aarch64 import AARCH64, MATRICES, VECTORS
from gcorefs.arch.aarch64_calls import AARCH64_OWN_CALLS
from gcorefs.arch.machine import Host

# include/uapi/linux/auxvec.h
AT_HWCAP = 16
AT_RANDOM = 25
AT_HWCAP2 = 26
# arch/arm64/include/uapi/asm/hwcap.h
HWCAP_SVE = 1 << 22
HWCAP2_SME = 1 << 23

_USUAL_BITS = 48


def parse_auxv(auxv: bytes) -> dict[int, int]:
    """The values by type.  A type that the kernel does not give is 0, as with getauxval(3)."""
    return dict(struct.iter_unpack("<QQ", auxv[: len(auxv) // 16 * 16]))


def address_space_end(auxv: dict[int, int]) -> int:
    """The first address behind a process: 2 to the power of 36, 39, 42, 47 or 48, as the kernel is
    built (Documentation/arch/arm64/memory.rst).

    The stack is at the end of the address space, and the 16 random bytes are on it
    (fs/binfmt_elf.c, create_elf_tables).  With 52 bits a process has more only if it asks for such
    an address, and its stack stays below 48.
    """
    return 1 << (auxv.get(AT_RANDOM, 0).bit_length() or _USUAL_BITS)


def register_bytes(auxv: dict[int, int]) -> int:
    """The most bytes of the sets of a thread on this processor."""
    absent = set() if auxv.get(AT_HWCAP, 0) & HWCAP_SVE else set(VECTORS)
    absent |= set() if auxv.get(AT_HWCAP2, 0) & HWCAP2_SME else MATRICES
    return sum(each.size for each in AARCH64.regsets if each.kind not in absent)


def _own_auxv() -> dict[int, int]:
    try:
        with open("/proc/self/auxv", "rb") as file:
            return parse_auxv(file.read())
    except OSError:  # no /proc: nothing works, and the caller says so
        return {}


def host() -> Host:
    auxv = _own_auxv()
    return Host(
        native=AARCH64,
        address_space_end=address_space_end(auxv),
        # With 52 bits the greatest address has bit 51.  Bits 56 to 63 are a tag, which the kernel
        # replaces by copies of bit 55 (arch/arm64/include/asm/uaccess.h, untagged_addr).
        nowhere=1 << 54,
        page_sizes=frozenset((4096,)),
        calls=AARCH64_OWN_CALLS,
        saved_threads=None,
        register_bytes=functools.partial(register_bytes, auxv),
    )
