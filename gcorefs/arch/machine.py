"""A machine, for code that records registers and restarts system calls.

A machine is a table: the kernel's user_regset_view of one kind of process (arch/*/kernel/
ptrace.c).  fs/binfmt_elf.c writes one note for each regset and thread.  Regset 0 is inside
PRSTATUS.
"""

import enum
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gcorefs.arch.x86_saved import SavedThread
from gcorefs.arch.xsave import XStates
from gcorefs.arch.xsave_saved import SavedFormat

NT_PRSTATUS = 1
NT_PRFPREG = 2
"""include/uapi/linux/elf.h: the two notes that every machine has."""

_WORDS = {4: "I", 8: "Q"}
"""The letters of unsigned words in struct."""


class RegisterKind(enum.Enum):
    """What a register set holds, mostly in the words of include/uapi/linux/elf.h.  Each machine has
    some of these."""

    GENERAL = enum.auto()
    FLOATING_POINT = enum.auto()
    FXSAVE = enum.auto()
    """x87 and SSE of a 32-bit process, in the format of FXSAVE (Intel SDM vol. 1, 10.5)."""
    XSTATE = enum.auto()
    """The XSAVE area, in the layout that readers know (xsave.py)."""
    KERNEL_XSTATE = enum.auto()
    """The XSAVE area as the kernel gives it, if XSTATE has no place for all of it."""
    IOPERM = enum.auto()
    TLS = enum.auto()
    SHSTK = enum.auto()
    """The shadow stack pointer."""
    HW_BREAK = enum.auto()
    HW_WATCH = enum.auto()
    FPMR = enum.auto()
    SYSTEM_CALL = enum.auto()
    SVE = enum.auto()
    SSVE = enum.auto()
    ZA = enum.auto()
    ZT = enum.auto()
    PAC_MASK = enum.auto()
    PAC_ENABLED_KEYS = enum.auto()
    PACA_KEYS = enum.auto()
    PACG_KEYS = enum.auto()
    TAGGED_ADDR_CTRL = enum.auto()
    POE = enum.auto()
    GCS = enum.auto()


Sets = Sequence[tuple[RegisterKind, bytes]]
"""Register sets beyond the general registers, in any order."""


@dataclass(frozen=True, slots=True)
class Regset:
    """One set beyond the general registers, as in PTRACE_GETREGSET and in the core."""

    kind: RegisterKind
    note: int
    owner: bytes
    size: int
    """The most bytes that it can have."""
    is_variable: bool = False
    """True if its first word says how many bytes it has."""

    is_active: Callable[[bytes], bool] | None = None
    """False for bytes that PTRACE_GETREGSET returns but the kernel leaves out of a core."""

    def cut(self, data: bytes) -> bytes:
        """The set itself, from the bytes that PTRACE_GETREGSET returned.

        For a variable set, the kernel reports the largest possible size, and does not write the
        rest of the buffer (kernel/ptrace.c, ptrace_regset).
        """
        if not self.is_variable:
            return data
        (size,) = struct.unpack_from("<I", data)
        return data[: -(-size // 16) * 16]


class RegisterSets(Protocol):
    """The register sets of one thread, by kind."""

    def __contains__(self, kind: RegisterKind, /) -> bool: ...
    def __getitem__(self, kind: RegisterKind, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class ThreadArea:
    """What libc keeps for a thread, around the address in its thread pointer (ELF Handling For
    Thread-Local Storage, sections 3.4.2, 3.4.6 and 3.4.1 of the variants)."""

    pointer: Callable[[RegisterSets], int]
    """The thread pointer; 0 if it is not known."""
    below: int
    """Bytes below the thread pointer."""
    above: int
    """Bytes from the thread pointer on."""
    dtv: int
    """The offset of the address of the dynamic thread vector, from the thread pointer."""


@dataclass(frozen=True, slots=True)
class Convention:
    """One way to call the kernel, as AUDIT_ARCH_* names it (include/uapi/linux/audit.h)."""

    restarted: Mapping[int, str]
    """Numbers and names of the calls that return a plain EINTR after a stop, and may be made
    again (sources/restart.py says which these are)."""
    bpf: int
    """The number of bpf(2)."""
    arguments: tuple[str, ...]
    """The registers in which the arguments come."""


@dataclass(frozen=True, slots=True)
class Rewind:
    """How a thread is made to call the kernel again, if the kernel decides on the restart before
    the stop (sources/call_again.py)."""

    instruction: bytes
    """The instruction that calls the kernel."""
    number_note: int
    """The register set with the number of the call in which the thread is; -1 outside of a call."""


@dataclass(frozen=True, slots=True)
class Injected:
    """How a stopped thread is made to call the kernel for us (sources/injection.py)."""

    instruction: bytes
    """The instruction that calls the kernel."""
    numbers: Mapping[str, int]
    """Of the calls that are made."""
    with_other_mask: frozenset[int]
    """The numbers of the calls that wait with another signal mask than that of the thread, and put
    it back at their end."""
    flags: str
    """The word that has the flag by which each instruction traps."""
    trap: int
    """That flag."""


@dataclass(frozen=True, slots=True, eq=False)
class Machine:
    """One kind of process."""

    elf_machine: int
    """e_machine of its core (include/uapi/linux/elf-em.h)."""
    word_size: int
    """Bytes of an address and of a general register: 4 or 8."""
    general: tuple[str, ...]
    """Names of the words of elf_gregset_t, in order."""
    regsets: tuple[Regset, ...]
    call_number: str
    """The word with the number of the system call in which a thread sleeps; negative outside of a
    call."""
    call_result: str
    call_arguments: tuple[str, ...]
    stack_pointer: str
    frame_pointer: str
    """The register that holds it if a program is compiled with frame pointers."""
    red_zone: int
    """Bytes below the stack pointer that a function may use without moving it."""
    stack_in_frame: int
    """Words from ss_sp to the stack pointer in the struct ucontext that the kernel puts on the
    stack for the handler of a signal."""
    program_counter: str
    thread_area: ThreadArea
    conventions: Mapping[int, Convention]
    """By AUDIT_ARCH_*, as PTRACE_GET_SYSCALL_INFO reports it for a thread: a 64-bit program may use
    i386's numbers, and its registers do not show that."""
    opening: frozenset[int]
    """The numbers of the calls that open a file."""
    result_in_user: int | None
    """Bytes from the beginning of struct user to the result of a system call, by which
    PTRACE_POKEUSER of a 64-bit tracer writes it.  None: `rewind` has another way."""
    rewind: Rewind | None = None
    xstates: Callable[[bool], XStates] | None = None
    """Makes what takes the XSAVE areas of one process.  The argument is True if they stay in the
    layout of the kernel.  None: there are no such areas."""
    saved_sets: Callable[[SavedThread, SavedFormat], tuple[bytes, Sets]] | None = None
    """The general registers and the other sets of a thread that does not run, as ptrace(2) would
    give them.  UnknownRegisters.  None: what the kernel keeps of such a thread is not known."""
    injected: Injected | None = None
    """None: how that is done is not known."""
    has_getregs: bool = False
    """True if a thread may run code of the other word size.  PTRACE_GETREGSET then has registers of
    that size, but PTRACE_GETREGS and PTRACE_GETFPREGS have registers of this machine."""

    @property
    def most(self) -> int:
        """The greatest address or register."""
        return (1 << 8 * self.word_size) - 1

    @property
    def general_size(self) -> int:
        return self.word_size * len(self.general)

    def offset(self, name: str) -> int:
        """The offset of the word `name` in elf_gregset_t, in bytes."""
        return self.word_size * self.general.index(name)

    def word(self, general: bytes, name: str) -> int:
        """The signed value of one word of the general registers."""
        at = self.offset(name)
        return int.from_bytes(general[at : at + self.word_size], "little", signed=True)

    def with_words(self, general: bytes, values: Mapping[str, int]) -> bytes:
        """General registers with other values of some words."""
        changed = bytearray(general)
        for name, value in values.items():
            at = self.offset(name)
            changed[at : at + self.word_size] = (value & self.most).to_bytes(
                self.word_size, "little"
            )
        return bytes(changed)

    def partial(self, number: int, arguments: Sequence[int], sp: int, pc: int) -> bytes:
        """General registers of a thread of which only the system call is known.

        /proc/TID/syscall shows only these values (fs/proc/base.c, proc_pid_syscall); every other
        word is 0.
        """
        words = dict.fromkeys(self.general, 0)
        words[self.call_number] = number
        words.update(zip(self.call_arguments, arguments, strict=False))
        words[self.stack_pointer] = sp
        words[self.program_counter] = pc
        values = (value & self.most for value in words.values())
        return struct.pack(f"<{len(words)}{_WORDS[self.word_size]}", *values)


@dataclass(frozen=True, slots=True, eq=False)
class Host:
    """The facts about the machine on which gcorefs itself runs."""

    native: Machine
    """Processes of its own word size."""
    address_space_end: int
    """The first address behind the largest process."""
    nowhere: int
    """An address that no process can map and that the kernel does not take for another one."""
    page_sizes: frozenset[int]
    """The page sizes with which gcorefs has run there.  With any other it refuses every process."""
    calls: Mapping[str, int]
    """Numbers of the system calls that gcorefs makes without libc."""
    saved_threads: Callable[[bytes], Iterator[SavedThread]] | None
    """The threads in the rows of BPF.  None: there are no such rows."""
    register_bytes: Callable[[], int]
    """The most bytes that the registers of a thread take, without the general registers."""

    def call(self, name: str) -> int:
        """The number of a system call; -1 if it is not known, which gives ENOSYS."""
        return self.calls.get(name, -1)
