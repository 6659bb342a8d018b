"""64-bit processes on x86-64, and the facts about that machine as a host."""

import functools

from gcorefs.arch.cpuid import cpuid
from gcorefs.arch.i386 import NT_386_IOPERM
from gcorefs.arch.machine import (
    NT_PRFPREG,
    Convention,
    Host,
    Machine,
    RegisterSets,
    Regset,
    ThreadArea,
)
from gcorefs.arch.machine import RegisterKind as Kind
from gcorefs.arch.page import PAGE_SIZE
from gcorefs.arch.x86_calls import (
    AUDIT_ARCH_I386,
    AUDIT_ARCH_X86_64,
    I386_BPF,
    I386_CALLS,
    X86_64_BPF,
    X86_64_CALLS,
    X86_64_OPENING,
)
from gcorefs.arch.x86_injected import X86_64_INJECTED
from gcorefs.arch.x86_regsets import sets_of_64_bit
from gcorefs.arch.x86_saved import saved_threads
from gcorefs.arch.xsave import NT_X86_XSTATE, XStates

EM_X86_64 = 62
NT_X86_SHSTK = 0x204

_ARGUMENTS = ("rdi", "rsi", "rdx", "r10", "r8", "r9")
# struct user_regs_struct, arch/x86/include/asm/user_64.h
_GENERAL = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx",
    "rsi", "rdi", "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds",
    "es", "fs", "gs",
)  # fmt: skip


def _fs_base(sets: RegisterSets) -> int:
    if Kind.GENERAL not in sets:
        return 0
    at = 8 * _GENERAL.index("fs_base")
    return int.from_bytes(sets[Kind.GENERAL][at : at + 8], "little")


X86_64 = Machine(
    elf_machine=EM_X86_64,
    word_size=8,
    general=_GENERAL,
    # x86_64_regsets of arch/x86/kernel/ptrace.c.  XSTATE has 11,008 bytes with AMX and may be
    # larger on later processors; PTRACE_GETREGSET says how much it filled.
    regsets=(
        Regset(Kind.FLOATING_POINT, NT_PRFPREG, b"CORE", 512),
        Regset(Kind.IOPERM, NT_386_IOPERM, b"LINUX", 8192),
        Regset(Kind.XSTATE, NT_X86_XSTATE, b"LINUX", 1 << 16),
        Regset(Kind.SHSTK, NT_X86_SHSTK, b"LINUX", 8),
    ),
    call_number="orig_rax",
    call_result="rax",
    call_arguments=_ARGUMENTS,
    stack_pointer="rsp",
    frame_pointer="rbp",
    red_zone=128,  # System V ABI for AMD64, 3.2.2
    stack_in_frame=18,  # uapi/asm/ucontext.h, sigcontext.h: ss_flags, ss_size, r8 to rcx
    program_counter="rip",
    # glibc's struct pthread begins at the thread pointer and has 2,304 bytes (nptl/descr.h);
    # the variables of the program and its libraries lie below it (variant II).
    thread_area=ThreadArea(_fs_base, below=4096, above=2560, dtv=8),
    conventions={
        AUDIT_ARCH_X86_64: Convention(X86_64_CALLS, X86_64_BPF, _ARGUMENTS),
        AUDIT_ARCH_I386: Convention(
            I386_CALLS, I386_BPF, ("rbx", "rcx", "rdx", "rsi", "rdi", "rbp")
        ),
    },
    opening=X86_64_OPENING,
    injected=X86_64_INJECTED,
    result_in_user=80,  # rax in struct user, asm/user_64.h
    xstates=XStates.of_this_processor,
    saved_sets=sets_of_64_bit,
    has_getregs=True,
)  # fmt: skip

_FPREGSET = 512
_WITH_AVX = 832  # all layouts are one so far
_XSTATE_AT_LEAST = 2704  # for the layouts that gdb knows (policy.py, XState)
_XSTATE_AT_MOST = 11008  # with AMX; used if the processor cannot be asked


@functools.cache
def register_bytes() -> int:
    """The most bytes of the floating point and vector registers of a thread.  CPUID says what XSAVE
    needs for the enabled features."""
    try:
        xstate = cpuid(0xD, 0)[1]
        if xstate > _WITH_AVX:
            xstate = max(xstate, _XSTATE_AT_LEAST)
    except OSError:  # the system does not allow us to execute code from a memfd
        xstate = _XSTATE_AT_MOST
    return _FPREGSET + xstate


HOST = Host(
    native=X86_64,
    # With four levels of page tables (asm/page_64.h, TASK_SIZE_MAX).
    address_space_end=(1 << 47) - PAGE_SIZE,
    nowhere=1 << 56,  # with five levels
    page_sizes=frozenset((4096,)),
    # arch/x86/entry/syscalls/syscall_64.tbl
    calls={
        "setgroups": 116,
        "setresuid": 117,
        "setresgid": 119,
        "capset": 126,
        "io_setup": 206,
        "io_destroy": 207,
        "timer_create": 222,
        "timer_settime": 223,
        "get_robust_list": 274,
        "bpf": X86_64_BPF,
        "userfaultfd": 323,
        "memfd_secret": 447,
        "mseal": 462,
    },
    saved_threads=saved_threads,
    register_bytes=register_bytes,
)
