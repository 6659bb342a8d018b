"""64-bit processes on aarch64.

gcorefs refuses 32-bit processes there: the kernel keeps their registers in another order, and they
make their calls by the numbers of another table.
"""

from gcorefs.arch.aarch64_calls import (
    AARCH64_BPF,
    AARCH64_CALLS,
    AARCH64_OPENING,
    AUDIT_ARCH_AARCH64,
)
from gcorefs.arch.machine import (
    NT_PRFPREG,
    Convention,
    Machine,
    RegisterSets,
    Regset,
    Rewind,
    ThreadArea,
)
from gcorefs.arch.machine import RegisterKind as Kind

EM_AARCH64 = 183  # include/uapi/linux/elf-em.h

# include/uapi/linux/elf.h
NT_ARM_TLS = 0x401
NT_ARM_HW_BREAK = 0x402
NT_ARM_HW_WATCH = 0x403
NT_ARM_SYSTEM_CALL = 0x404
NT_ARM_SVE = 0x405
NT_ARM_PAC_MASK = 0x406
NT_ARM_PACA_KEYS = 0x407
NT_ARM_PACG_KEYS = 0x408
NT_ARM_TAGGED_ADDR_CTRL = 0x409
NT_ARM_PAC_ENABLED_KEYS = 0x40A
NT_ARM_SSVE = 0x40B
NT_ARM_ZA = 0x40C
NT_ARM_ZT = 0x40D
NT_ARM_FPMR = 0x40E
NT_ARM_POE = 0x40F
NT_ARM_GCS = 0x410

_LINUX = b"LINUX"
_ARGUMENTS = ("x0", "x1", "x2", "x3", "x4", "x5")

# Vector lengths are counted in quadwords of 16 bytes.  The architecture allows up to 16 of them
# (arch/arm64/include/asm/fpsimd.h, ARCH_SVE_VQ_MAX and SME_VQ_MAX).
_QUADWORD = 16
_MOST_QUADWORDS = 16
_VECTOR_HEADER = 16  # struct user_sve_header and user_za_header


def sve_size(quadwords: int) -> int:
    """Bytes of the SVE and SSVE sets with all registers (asm/ptrace.h, SVE_PT_SIZE).

    They are: the header; 32 vectors, 16 predicates and the first fault register, with one bit for
    each byte of a vector; then FPSR and FPCR.  Both parts end at a quadword.
    """
    vectors = _VECTOR_HEADER + quadwords * (32 * 16 + 17 * 2)
    return -(-vectors // _QUADWORD) * _QUADWORD + _QUADWORD


def za_size(quadwords: int) -> int:
    """Bytes of the ZA set, a square of one vector by one vector (asm/ptrace.h, ZA_PT_SIZE)."""
    return _VECTOR_HEADER + (quadwords * _QUADWORD) ** 2


def _tpidr(sets: RegisterSets) -> int:
    return int.from_bytes(sets[Kind.TLS][:8], "little") if Kind.TLS in sets else 0


# In the order of enum aarch64_regset (arch/arm64/kernel/ptrace.c), which is the order of the notes.
# All of them have a core_note_type.  So the kernel's cores also have the system call, the debug
# registers and, if it is built with CONFIG_CHECKPOINT_RESTORE, the keys (fs/binfmt_elf.c,
# fill_thread_core_info).  A set that the processor lacks gives EINVAL.
AARCH64 = Machine(
    elf_machine=EM_AARCH64,
    word_size=8,
    # struct user_pt_regs, arch/arm64/include/uapi/asm/ptrace.h
    general=(*(f"x{number}" for number in range(31)), "sp", "pc", "pstate"),
    regsets=(
        Regset(Kind.FLOATING_POINT, NT_PRFPREG, b"CORE", 528),  # struct user_fpsimd_state
        Regset(Kind.TLS, NT_ARM_TLS, _LINUX, 16),  # tpidr_el0 and tpidr2_el0
        Regset(Kind.HW_BREAK, NT_ARM_HW_BREAK, _LINUX, 264),  # struct user_hwdebug_state
        Regset(Kind.HW_WATCH, NT_ARM_HW_WATCH, _LINUX, 264),
        Regset(Kind.FPMR, NT_ARM_FPMR, _LINUX, 8),
        Regset(Kind.SYSTEM_CALL, NT_ARM_SYSTEM_CALL, _LINUX, 4),
        Regset(Kind.SVE, NT_ARM_SVE, _LINUX, sve_size(_MOST_QUADWORDS), is_variable=True),
        Regset(Kind.SSVE, NT_ARM_SSVE, _LINUX, sve_size(_MOST_QUADWORDS), is_variable=True),
        Regset(Kind.ZA, NT_ARM_ZA, _LINUX, za_size(_MOST_QUADWORDS), is_variable=True),
        Regset(Kind.ZT, NT_ARM_ZT, _LINUX, 64),
        Regset(Kind.PAC_MASK, NT_ARM_PAC_MASK, _LINUX, 16),  # struct user_pac_mask
        Regset(Kind.PAC_ENABLED_KEYS, NT_ARM_PAC_ENABLED_KEYS, _LINUX, 8),
        Regset(Kind.PACA_KEYS, NT_ARM_PACA_KEYS, _LINUX, 64),  # struct user_pac_address_keys
        Regset(Kind.PACG_KEYS, NT_ARM_PACG_KEYS, _LINUX, 16),  # struct user_pac_generic_keys
        Regset(Kind.TAGGED_ADDR_CTRL, NT_ARM_TAGGED_ADDR_CTRL, _LINUX, 8),
        Regset(Kind.POE, NT_ARM_POE, _LINUX, 8),
        Regset(Kind.GCS, NT_ARM_GCS, _LINUX, 24),  # struct user_gcs
    ),
    # x8 only by convention: it keeps its value after a call.  The kernel itself uses SYSTEM_CALL,
    # which is -1 outside of a call.
    call_number="x8",
    call_result="x0",
    call_arguments=_ARGUMENTS,
    stack_pointer="sp",
    frame_pointer="x29",
    red_zone=0,  # AAPCS64, 6.4.5
    # uapi/asm/ucontext.h and sigcontext.h: ss_flags, ss_size, 128 bytes of signals, a gap, the
    # address of a fault, x0 to x30.
    stack_in_frame=52,
    program_counter="pc",
    # glibc's struct pthread ends at the thread pointer; two words follow it, and then the variables
    # (variant I).
    thread_area=ThreadArea(_tpidr, below=4096, above=4096, dtv=0),
    conventions={AUDIT_ARCH_AARCH64: Convention(AARCH64_CALLS, AARCH64_BPF, _ARGUMENTS)},
    opening=AARCH64_OPENING,
    result_in_user=None,
    rewind=Rewind(
        instruction=bytes.fromhex("010000d4"),  # svc #0
        number_note=NT_ARM_SYSTEM_CALL,
    ),
)

VECTORS = frozenset((Kind.SVE,))
"""The sets of a processor with SVE."""
MATRICES = frozenset((Kind.SSVE, Kind.ZA, Kind.ZT))
"""The sets of a processor with SME."""
