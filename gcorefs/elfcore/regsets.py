"""Which registers a machine records, in which order and under which note.

A machine is a table: the kernel's user_regset_view of one kind of process (arch/*/kernel/
ptrace.c), of which fs/binfmt_elf.c writes one note per regset and thread.  Regset 0 is inside
PRSTATUS.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gcorefs.elfcore import elf
from gcorefs.elfcore.elf import ELF32, ELF64, ElfClass

NT_PRSTATUS = 1
NT_PRFPREG = 2
NT_PRXFPREG = 0x46E62B7F
NT_386_TLS = 0x200
NT_386_IOPERM = 0x201
NT_X86_XSTATE = 0x202
NT_X86_SHSTK = 0x204


@dataclass(frozen=True, slots=True)
class Regset:
    """One set beyond the general registers, as PTRACE_GETREGSET and the core know it."""

    note: int
    owner: bytes
    size: int
    """The most bytes that it can have."""
    is_variable: bool = False
    """Its first word says how many bytes it has."""

    is_active: Callable[[bytes], bool] | None = None
    """False of bytes that the kernel leaves out of a core, though PTRACE_GETREGSET has them."""

    def cut(self, data: bytes) -> bytes:
        """The set itself, out of what PTRACE_GETREGSET says that it gave.

        Of a variable one the kernel tells the most that it could have been, and leaves the
        rest of the buffer as it was (kernel/ptrace.c, ptrace_regset).
        """
        if not self.is_variable:
            return data
        (size,) = struct.unpack_from("<I", data)
        return data[: -(-size // 16) * 16]


@dataclass(frozen=True, slots=True)
class Machine:
    elf_machine: int
    elf_class: ElfClass
    general: tuple[str, ...]
    """Names of the words of elf_gregset_t, in order."""
    regsets: tuple[Regset, ...]
    call_number: str
    """The word that holds the system call in which a thread sleeps, negative outside one."""
    call_result: str
    call_arguments: tuple[str, ...]
    stack_pointer: str
    program_counter: str

    @property
    def general_size(self) -> int:
        return self.elf_class.word_size * len(self.general)

    def offset(self, name: str) -> int:
        """Of the word `name` in elf_gregset_t, in bytes."""
        return self.elf_class.word_size * self.general.index(name)

    def word(self, general: bytes, name: str) -> int:
        """The signed value of one word of the general registers."""
        at = self.offset(name)
        return int.from_bytes(general[at : at + self.elf_class.word_size], "little", signed=True)

    def partial(self, number: int, arguments: Sequence[int], sp: int, pc: int) -> bytes:
        """General registers of a thread of which only its system call is known.

        These are what /proc/TID/syscall tells (fs/proc/base.c, proc_pid_syscall); every other
        word is 0.
        """
        words = dict.fromkeys(self.general, 0)
        words[self.call_number] = number
        words.update(zip(self.call_arguments, arguments, strict=False))
        words[self.stack_pointer] = sp
        words[self.program_counter] = pc
        values = (value & self.elf_class.most for value in words.values())
        return struct.pack(f"<{len(words)}{self.elf_class.word}", *values)


def _is_tls_used(entries: bytes) -> bool:
    """False where none of the thread's own descriptors is set (tls.c, regset_tls_active).

    Each is a struct user_desc: number, base, limit and flags.  One that is not set is "read
    only" and "not present" (fill_user_desc).
    """
    unset = (0, 0, 0x28)
    return any(entry[1:] != unset for entry in struct.iter_unpack("<4I", entries))


X86_64 = Machine(
    elf_machine=elf.EM_X86_64,
    elf_class=ELF64,
    # struct user_regs_struct, arch/x86/include/asm/user_64.h
    general=(
        "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx",
        "rdx", "rsi", "rdi", "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base",
        "gs_base", "ds", "es", "fs", "gs",
    ),
    # x86_64_regsets of arch/x86/kernel/ptrace.c.  XSTATE is 11,008 bytes with AMX and may
    # grow with the processor; PTRACE_GETREGSET says how much it filled.
    regsets=(
        Regset(NT_PRFPREG, b"CORE", 512),
        Regset(NT_386_IOPERM, b"LINUX", 8192),
        Regset(NT_X86_XSTATE, b"LINUX", 1 << 16),
        Regset(NT_X86_SHSTK, b"LINUX", 8),
    ),
    call_number="orig_rax",
    call_result="rax",
    call_arguments=("rdi", "rsi", "rdx", "r10", "r8", "r9"),
    stack_pointer="rsp",
    program_counter="rip",
)  # fmt: skip

I386 = Machine(
    elf_machine=elf.EM_386,
    elf_class=ELF32,
    # struct user_regs_struct32, arch/x86/include/asm/user32.h
    general=(
        "ebx", "ecx", "edx", "esi", "edi", "ebp", "eax", "ds", "es", "fs", "gs", "orig_eax",
        "eip", "cs", "eflags", "esp", "ss",
    ),
    # x86_32_regsets of arch/x86/kernel/ptrace.c.
    regsets=(
        Regset(NT_PRFPREG, b"CORE", 108),
        Regset(NT_PRXFPREG, b"LINUX", 512),
        Regset(NT_X86_XSTATE, b"LINUX", 1 << 16),
        Regset(NT_386_TLS, b"LINUX", 48, is_active=_is_tls_used),
        Regset(NT_386_IOPERM, b"LINUX", 8192),
    ),
    call_number="orig_eax",
    call_result="eax",
    call_arguments=("ebx", "ecx", "edx", "esi", "edi", "ebp"),
    stack_pointer="esp",
    program_counter="eip",
)  # fmt: skip

MACHINES = {("x86_64", False): X86_64, ("x86_64", True): I386}
"""By the name that uname(2) gives, and whether the process is a 32-bit one."""
