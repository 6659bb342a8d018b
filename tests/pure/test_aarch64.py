"""The table of aarch64, compared with the kernel's structures, which are written here again.

arch/arm64/include/uapi/asm/ptrace.h and sigcontext.h, include/uapi/linux/elf.h, and
include/linux/elfcore.h for struct elf_prstatus.
"""

import ctypes
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.arch import MACHINES
from gcorefs.arch.aarch64 import AARCH64
from gcorefs.arch.aarch64_calls import (
    AARCH64_CALLS,
    AARCH64_OPENING,
    AARCH64_OWN_CALLS,
)
from gcorefs.arch.aarch64_host import address_space_end, parse_auxv, register_bytes
from gcorefs.arch.machine import RegisterKind, Regset
from gcorefs.arch.x86_calls import X86_64_CALLS
from gcorefs.elfcore import notes
from gcorefs.elfcore.elf import ELF64
from gcorefs.elfcore.notes import ProcessIds, Thread
from gcorefs.elfcore.registers import Registers
from tests.pure.structures import Siginfo, Timeval, unpack

Quadword = ctypes.c_uint64 * 2
VECTOR_LENGTHS = range(16, 256 + 1, 16)


class UserPtRegs(ctypes.Structure):
    _fields_ = (
        ("regs", ctypes.c_uint64 * 31),
        ("sp", ctypes.c_uint64),
        ("pc", ctypes.c_uint64),
        ("pstate", ctypes.c_uint64),
    )


class UserFpsimdState(ctypes.Structure):
    _fields_ = (
        ("vregs", Quadword * 32),
        ("fpsr", ctypes.c_uint32),
        ("fpcr", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32 * 2),
    )


class DebugRegister(ctypes.Structure):
    _fields_ = (("addr", ctypes.c_uint64), ("ctrl", ctypes.c_uint32), ("pad", ctypes.c_uint32))


class UserHwdebugState(ctypes.Structure):
    _fields_ = (
        ("dbg_info", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("dbg_regs", DebugRegister * 16),
    )


class UserSveHeader(ctypes.Structure):
    """struct user_za_header is the same."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("max_size", ctypes.c_uint32),
        ("vl", ctypes.c_uint16),
        ("max_vl", ctypes.c_uint16),
        ("flags", ctypes.c_uint16),
        ("reserved", ctypes.c_uint16),
    )


class UserPacMask(ctypes.Structure):
    _fields_ = (("data_mask", ctypes.c_uint64), ("insn_mask", ctypes.c_uint64))


class UserPacAddressKeys(ctypes.Structure):
    _fields_ = tuple((name, Quadword) for name in ("apiakey", "apibkey", "apdakey", "apdbkey"))


class UserPacGenericKeys(ctypes.Structure):
    _fields_ = (("apgakey", Quadword),)


class UserGcs(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64) for name in ("features_enabled", "features_locked", "gcspr_el0")
    )


def sve_state(length: int) -> type[ctypes.Structure]:
    """SVE_PT_SVE_*_OFFSET and _SIZE: the state of one thread, for vectors of `length` bytes."""
    registers = (
        ("header", UserSveHeader),
        ("z", ctypes.c_uint8 * length * 32),
        ("p", ctypes.c_uint8 * (length // 8) * 16),
        ("ffr", ctypes.c_uint8 * (length // 8)),
    )
    used = sum(ctypes.sizeof(kind) for _, kind in registers)
    fields = (
        *registers,
        ("to_a_quadword", ctypes.c_uint8 * (-used % 16)),
        ("fpsr", ctypes.c_uint32),
        ("fpcr", ctypes.c_uint32),
        ("to_the_next", ctypes.c_uint8 * 8),
    )
    return type("SveState", (ctypes.Structure,), {"_fields_": fields})


def za_state(length: int) -> type[ctypes.Structure]:
    """ZA_PT_ZA_OFFSET and _SIZE: `length` vectors of `length` bytes."""
    fields = (("header", UserSveHeader), ("za", ctypes.c_uint8 * length * length))
    return type("ZaState", (ctypes.Structure,), {"_fields_": fields})


class Prstatus(ctypes.Structure):
    _fields_ = (
        ("info", Siginfo),
        ("cursig", ctypes.c_short),
        ("sigpend", ctypes.c_ulong),
        ("sighold", ctypes.c_ulong),
        *((name, ctypes.c_int) for name in ("pid", "ppid", "pgrp", "sid")),
        *((name, Timeval) for name in ("utime", "stime", "cutime", "cstime")),
        ("reg", UserPtRegs),
        ("fpvalid", ctypes.c_int),
    )


# All sets of enum aarch64_regset (arch/arm64/kernel/ptrace.c) that can be built in: the name of the
# note, its type, and its largest content.
REGSETS = (
    ("NT_PRFPREG", 2, UserFpsimdState),
    ("NT_ARM_TLS", 0x401, ctypes.c_uint64 * 2),
    ("NT_ARM_HW_BREAK", 0x402, UserHwdebugState),
    ("NT_ARM_HW_WATCH", 0x403, UserHwdebugState),
    ("NT_ARM_FPMR", 0x40E, ctypes.c_uint64),
    ("NT_ARM_SYSTEM_CALL", 0x404, ctypes.c_int),
    ("NT_ARM_SVE", 0x405, sve_state(256)),
    ("NT_ARM_SSVE", 0x40B, sve_state(256)),
    ("NT_ARM_ZA", 0x40C, za_state(256)),
    ("NT_ARM_ZT", 0x40D, ctypes.c_uint8 * 64),  # sigcontext.h, ZT_SIG_REG_BYTES
    ("NT_ARM_PAC_MASK", 0x406, UserPacMask),
    ("NT_ARM_PAC_ENABLED_KEYS", 0x40A, ctypes.c_long),
    ("NT_ARM_PACA_KEYS", 0x407, UserPacAddressKeys),
    ("NT_ARM_PACG_KEYS", 0x408, UserPacGenericKeys),
    ("NT_ARM_TAGGED_ADDR_CTRL", 0x409, ctypes.c_long),
    ("NT_ARM_POE", 0x40F, ctypes.c_long),
    ("NT_ARM_GCS", 0x410, UserGcs),
)
VARIABLE = {0x405, 0x40B, 0x40C}


def regset(note: int) -> Regset:
    (found,) = (each for each in AARCH64.regsets if each.note == note)
    return found


def test_only_64_bit_processes_are_handled() -> None:
    assert MACHINES["aarch64", False] is AARCH64
    assert ("aarch64", True) not in MACHINES


def test_the_structures_are_as_large_as_the_kernel_s() -> None:
    sizes = [ctypes.sizeof(kind) for _, _, kind in REGSETS]
    assert sizes == [528, 16, 264, 264, 8, 4, 8768, 8768, 65552, 64, 16, 8, 64, 16, 8, 8, 24]
    assert (ctypes.sizeof(Prstatus), Prstatus.reg.offset) == (392, 112)


def test_the_sets_stand_in_the_kernel_s_order_with_the_kernel_s_sizes() -> None:
    assert [
        (each.note, each.owner, each.size, each.is_variable) for each in AARCH64.regsets
    ] == [
        (note, b"CORE" if name == "NT_PRFPREG" else b"LINUX", ctypes.sizeof(kind), note in VARIABLE)
        for name, note, kind in REGSETS
    ]  # fmt: skip


def test_the_words_stand_where_the_kernel_has_them() -> None:
    offsets = {f"x{number}": 8 * number for number in range(31)}
    offsets |= {name: getattr(UserPtRegs, name).offset for name in ("sp", "pc", "pstate")}
    assert {name: AARCH64.offset(name) for name in AARCH64.general} == offsets
    assert AARCH64.general_size == ctypes.sizeof(UserPtRegs) == 272


word = st.integers(0, (1 << 64) - 1)


@given(st.lists(word, min_size=34, max_size=34))
def test_prstatus_holds_every_register(values: list[int]) -> None:
    sets = [(RegisterKind.FLOATING_POINT, b"f" * 528)]
    thread = Thread(14, Registers.of(struct.pack("<34Q", *values), sets), 19, 5, 6)
    ((owner, kind, desc),) = unpack(notes.pack_prstatus(AARCH64, thread, ProcessIds(11, 12, 13)))
    assert (owner, kind, len(desc)) == (b"CORE", 1, 392)
    seen = Prstatus.from_buffer_copy(desc)
    assert [*seen.reg.regs, seen.reg.sp, seen.reg.pc, seen.reg.pstate] == values
    assert (seen.pid, seen.ppid, seen.pgrp, seen.sid) == (14, 11, 12, 13)
    assert (seen.info.signo, seen.cursig, seen.sigpend, seen.sighold) == (19, 19, 5, 6)
    assert seen.fpvalid == 1


@given(st.integers(0, 500), st.lists(word, min_size=6, max_size=6), word, word)
def test_a_system_call_gives_nine_registers_and_the_rest_are_zero(
    number: int, arguments: list[int], sp: int, pc: int
) -> None:
    seen = UserPtRegs.from_buffer_copy(AARCH64.partial(number, arguments, sp, pc))
    assert [*seen.regs] == [*arguments, 0, 0, number, *[0] * 22]
    assert (seen.sp, seen.pc, seen.pstate) == (sp, pc, 0)


def test_the_header_names_the_machine() -> None:
    assert struct.unpack_from("<HH", ELF64.pack_ehdr(AARCH64.elf_machine, 1, 0, 0), 16) == (4, 183)


@pytest.mark.parametrize("length", VECTOR_LENGTHS)
@pytest.mark.parametrize(
    ("note", "state"), [(0x405, sve_state), (0x40B, sve_state), (0x40C, za_state)]
)
def test_a_variable_set_is_as_long_as_it_says(note: int, state: type, length: int) -> None:
    size = ctypes.sizeof(state(length))
    header = bytes(UserSveHeader(size, regset(note).size, length, 256, 1, 0))
    # The rest of the buffer has bytes of another thread.
    given_by_ptrace = (header + b"r" * (size - 16)).ljust(regset(note).size, b"\xee")
    assert regset(note).cut(given_by_ptrace) == given_by_ptrace[:size]
    assert b"\xee" not in regset(note).cut(given_by_ptrace)


def test_a_set_without_registers_is_its_header() -> None:
    header = bytes(UserSveHeader(16, 65552, 64, 256, 0, 0))
    assert regset(0x40C).cut(header.ljust(65552, b"\xee")) == header


def test_vectors_of_another_mode_are_those_of_fpsimd() -> None:
    state = bytes(UserSveHeader(16 + 528, 8768, 64, 256, 0, 0)) + b"f" * 528
    assert regset(0x405).cut(state.ljust(8768, b"\xee")) == state


@given(st.binary(min_size=4, max_size=600))
def test_a_set_of_fixed_size_is_never_cut(data: bytes) -> None:
    assert regset(2).cut(data) == data


_TABLE = Path("/usr/include/asm-generic/unistd.h")
_OLD = {"access", "epoll_wait", "getdents", "lstat", "open", "readlink", "select", "stat"}
"""The calls of x86-64 that the common table does not have."""
_NEW = {"mseal": 462, "getxattrat": 464, "listxattrat": 465, "file_getattr": 468}
"""The calls of Linux 6.10, 6.13 and 6.17, which the table of an older Debian does not have."""


def numbers() -> dict[str, int]:
    """The common table.  It has two names for a few calls; 64-bit machines have the second one."""
    text = _TABLE.read_text()
    found = re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)$", text, re.M)
    named = {name: int(number) for name, number in found}
    return _NEW | named | {"newfstatat": named["fstatat"]}


def test_the_numbers_are_those_of_the_common_table() -> None:
    known = numbers()
    ours = {name: number for number, name in AARCH64_CALLS.items()} | AARCH64_OWN_CALLS
    assert {name: known[name] for name in ours} == ours
    assert {known[name] for name in ("openat", "openat2")} == AARCH64_OPENING


def test_the_same_calls_are_restarted_as_on_x86() -> None:
    assert {*X86_64_CALLS.values()} - {*AARCH64_CALLS.values()} == _OLD
    assert {*AARCH64_CALLS.values()} <= {*X86_64_CALLS.values()}


@pytest.mark.parametrize("bits", [36, 39, 42, 47, 48])
def test_the_stack_tells_where_the_address_space_ends(bits: int) -> None:
    auxv = struct.pack("<6Q", 6, 4096, 25, (1 << bits) - 0x1234567, 0, 0)
    assert address_space_end(parse_auxv(auxv)) == 1 << bits


def test_without_an_auxiliary_vector_there_are_48_bits() -> None:
    assert address_space_end(parse_auxv(b"")) == 1 << 48


def test_a_thread_has_the_sets_of_its_processor() -> None:
    every = sum(each.size for each in AARCH64.regsets)
    vectors, matrices = 8768, 8768 + 65552 + 64
    assert register_bytes({16: 1 << 22, 26: 1 << 23}) == every
    assert register_bytes({16: 1 << 22}) == every - matrices
    assert register_bytes({26: 1 << 23}) == every - vectors
    assert register_bytes({}) == every - vectors - matrices


@given(st.lists(word, min_size=34, max_size=34), word, word)
def test_words_are_changed_and_no_others(values: list[int], one: int, other: int) -> None:
    general = struct.pack("<34Q", *values)
    changed = AARCH64.with_words(general, {"x0": one, "pc": other - (1 << 63)})
    values[0], values[32] = one, (other - (1 << 63)) % (1 << 64)
    assert changed == struct.pack("<34Q", *values)
