"""32-bit processes on x86-64."""

import struct

from gcorefs.arch.machine import (
    NT_PRFPREG,
    Convention,
    Machine,
    RegisterSets,
    Regset,
    ThreadArea,
)
from gcorefs.arch.machine import RegisterKind as Kind
from gcorefs.arch.x86_calls import (
    AUDIT_ARCH_I386,
    AUDIT_ARCH_X86_64,
    I386_BPF,
    I386_CALLS,
    I386_OPENING,
    X86_64_BPF,
    X86_64_CALLS,
)
from gcorefs.arch.x86_injected import I386_INJECTED
from gcorefs.arch.x86_regsets import GENERAL_32, sets_of_32_bit
from gcorefs.arch.xsave import NT_X86_XSTATE, XStates

EM_386 = 3
NT_PRXFPREG = 0x46E62B7F
NT_386_TLS = 0x200
NT_386_IOPERM = 0x201

_ARGUMENTS = ("ebx", "ecx", "edx", "esi", "edi", "ebp")


def _is_tls_used(entries: bytes) -> bool:
    """False if the thread has set none of its own descriptors (tls.c, regset_tls_active).

    Each descriptor is a struct user_desc: number, base, limit and flags.  A descriptor that is not
    set is "read only" and "not present" (fill_user_desc).
    """
    unset = (0, 0, 0x28)
    return any(entry[1:] != unset for entry in struct.iter_unpack("<4I", entries))


def _gs_base(sets: RegisterSets) -> int:
    """The base of the descriptor that gs selects (set_thread_area(2))."""
    if Kind.GENERAL not in sets or Kind.TLS not in sets:
        return 0
    at = 4 * GENERAL_32.index("gs")
    selected = int.from_bytes(sets[Kind.GENERAL][at : at + 4], "little") >> 3
    entries = struct.iter_unpack("<4I", sets[Kind.TLS])
    return next((base for number, base, *_ in entries if number == selected), 0)


I386 = Machine(
    elf_machine=EM_386,
    word_size=4,
    general=GENERAL_32,
    # x86_32_regsets of arch/x86/kernel/ptrace.c.
    regsets=(
        Regset(Kind.FLOATING_POINT, NT_PRFPREG, b"CORE", 108),
        Regset(Kind.FXSAVE, NT_PRXFPREG, b"LINUX", 512),
        Regset(Kind.XSTATE, NT_X86_XSTATE, b"LINUX", 1 << 16),
        Regset(Kind.TLS, NT_386_TLS, b"LINUX", 48, is_active=_is_tls_used),
        Regset(Kind.IOPERM, NT_386_IOPERM, b"LINUX", 8192),
    ),
    call_number="orig_eax",
    call_result="eax",
    call_arguments=_ARGUMENTS,
    stack_pointer="esp",
    frame_pointer="ebp",
    red_zone=0,
    stack_in_frame=10,  # uapi/asm/sigcontext.h: ss_flags, ss_size, gs to ds, edi, esi, ebp
    program_counter="eip",
    thread_area=ThreadArea(_gs_base, below=4096, above=2560, dtv=4),
    conventions={
        AUDIT_ARCH_I386: Convention(I386_CALLS, I386_BPF, _ARGUMENTS),
        AUDIT_ARCH_X86_64: Convention(X86_64_CALLS, X86_64_BPF, _ARGUMENTS),
    },
    opening=I386_OPENING,
    injected=I386_INJECTED,
    # rax in struct user (asm/user_64.h): a 64-bit tracer writes a 32-bit thread's result there.
    result_in_user=80,
    xstates=XStates.of_this_processor,
    saved_sets=sets_of_32_bit,
)  # fmt: skip
