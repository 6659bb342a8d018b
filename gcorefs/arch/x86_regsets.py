"""Register sets of a thread on x86-64, from what the kernel keeps of it while it does not run: the
bytes that ptrace(2) would give (arch/x86/kernel/ptrace.c, fpu/regset.c, tls.c)."""

import struct
from collections.abc import Sequence

from gcorefs.arch.machine import RegisterKind as Kind
from gcorefs.arch.machine import Sets
from gcorefs.arch.x86_saved import SavedThread, UnknownRegisters
from gcorefs.arch.xsave_saved import SavedFormat

_ONES = 0xFFFF0000
_GDT_TLS = 12
"""GDT_ENTRY_TLS_MIN (asm/segment.h)."""
_UNKNOWN_BASE = "the base of fs or gs is in a descriptor"


def sets_of_64_bit(thread: SavedThread, saved: SavedFormat) -> tuple[bytes, Sets]:
    """The general registers and all other sets of a thread of 64 bits.  UnknownRegisters."""
    _check(thread)
    ds, es, fs, gs = thread.selectors
    if not saved.has_base_instructions and (fs or gs):
        raise UnknownRegisters(_UNKNOWN_BASE)
    words = struct.unpack("<21Q", thread.registers)
    general = struct.pack("<27Q", *_with_selectors(words), *thread.bases, ds, es, fs, gs)
    found = [
        (Kind.FLOATING_POINT, saved.fxsave(thread)),
        (Kind.XSTATE, saved.xstate(thread)),
    ]
    if shadow_stack := saved.shadow_stack(thread):
        found.append((Kind.SHSTK, shadow_stack))
    return general, found


def sets_of_32_bit(thread: SavedThread, saved: SavedFormat) -> tuple[bytes, Sets]:
    """The same of a thread of 32 bits.  UnknownRegisters."""
    _check(thread)
    words = [word & 0xFFFFFFFF for word in struct.unpack("<21Q", thread.registers)]
    names = dict(zip(_SAVED, _with_selectors(words), strict=True))
    for name, value in zip(("ds", "es", "fs", "gs"), thread.selectors, strict=True):
        names[name] = value
    general = struct.pack("<17I", *(names[name] for name in GENERAL_32))
    found = [
        (Kind.FLOATING_POINT, _fsave(thread, saved)),
        (Kind.FXSAVE, saved.fxsave(thread)),
        (Kind.XSTATE, saved.xstate(thread)),
    ]
    tls = b"".join(
        _user_descriptor(_GDT_TLS + index, thread.tls[8 * index : 8 * index + 8])
        for index in range(3)
    )
    if any(thread.tls):
        found.append((Kind.TLS, tls))
    return general, found


def _check(thread: SavedThread) -> None:
    if not thread.xsave:
        raise UnknownRegisters("its vector registers")
    if thread.has_io_permissions:
        raise UnknownRegisters("its I/O permissions")


# struct pt_regs of a 64-bit kernel, by the names that a 32-bit program has for them.
_SAVED = (
    "r15", "r14", "r13", "r12", "ebp", "ebx", "r11", "r10", "r9", "r8", "eax", "ecx", "edx", "esi",
    "edi", "orig_eax", "eip", "cs", "eflags", "esp", "ss",
)  # fmt: skip
GENERAL_32 = (
    "ebx", "ecx", "edx", "esi", "edi", "ebp", "eax", "ds", "es", "fs", "gs", "orig_eax", "eip",
    "cs", "eflags", "esp", "ss",
)  # fmt: skip
"""struct user_regs_struct32, arch/x86/include/asm/user32.h."""
_CS, _SS = _SAVED.index("cs"), _SAVED.index("ss")


def _with_selectors(words: Sequence[int]) -> list[int]:
    """The other bits of cs and ss are the event type of FRED (asm/ptrace.h, struct fred_cs)."""
    found = [*words]
    found[_CS] &= 0xFFFF
    found[_SS] &= 0xFFFF
    return found


def _fsave(thread: SavedThread, saved: SavedFormat) -> bytes:
    """struct user_i387_ia32_struct (fpu/regset.c, convert_from_fxsr)."""
    area = saved.fxsave(thread)
    control, status, tags = struct.unpack_from("<HHB", area)
    instruction, operand = struct.unpack_from("<I4xI", area, 8)
    ds = thread.selectors[0]
    (cs,) = struct.unpack_from("<H", thread.registers, 8 * _CS)
    stack = [area[32 + 16 * index : 42 + 16 * index] for index in range(8)]
    environment = (
        control | _ONES, status | _ONES, _full_tags(status, tags, stack) | _ONES,
        instruction, cs, operand, ds | _ONES,
    )  # fmt: skip
    return struct.pack("<7I", *environment) + b"".join(stack)


def _full_tags(status: int, tags: int, stack: Sequence[bytes]) -> int:
    """Two bits for each register (twd_fxsr_to_i387): valid, zero, special or empty."""
    top = status >> 11 & 7
    found = 0
    for number in range(8):
        tag = 3
        if tags >> number & 1:
            mantissa, exponent = struct.unpack("<QH", stack[number - top & 7])
            exponent &= 0x7FFF
            if exponent == 0x7FFF:
                tag = 2
            elif exponent == 0:
                tag = 2 if mantissa else 1
            else:
                tag = 0 if mantissa >> 63 else 2
        found |= tag << 2 * number
    return found


def _user_descriptor(number: int, descriptor: bytes) -> bytes:
    """struct user_desc of a descriptor in the GDT (tls.c, fill_user_desc)."""
    (word,) = struct.unpack("<Q", descriptor)
    limit = word & 0xFFFF | word >> 32 & 0xF0000
    base = word >> 16 & 0xFFFFFF | word >> 32 & 0xFF000000
    kind = word >> 40 & 0xF
    present, available, is_long = word >> 47 & 1, word >> 52 & 1, word >> 53 & 1
    is_32_bit, in_pages = word >> 54 & 1, word >> 55 & 1
    flags = (
        is_32_bit
        | kind >> 2 << 1
        | (not kind & 2) << 3
        | in_pages << 4
        | (not present) << 5
        | available << 6
        | is_long << 7
    )
    return struct.pack("<4I", number, base, limit, flags)
