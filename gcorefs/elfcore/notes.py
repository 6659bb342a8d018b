"""The notes of a core and their order: the structures of include/uapi/linux/elfcore.h, as
fs/binfmt_elf.c fills them (fs/compat_binfmt_elf.c for a 32-bit process).

Readers rely on the order: everything from one PRSTATUS to the next belongs to one thread,
and the process-wide notes stand in the part of the first thread.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Protocol

from gcorefs.arch.machine import NT_PRSTATUS, Machine, RegisterKind
from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.elf import CLASSES, ELF32, ELF64, ElfClass, pack_note
from gcorefs.elfcore.header_store import Pieces, Shelf, Unmade
from gcorefs.elfcore.provenance import Provenance
from gcorefs.elfcore.register_notes import regset_notes
from gcorefs.elfcore.registers import Registers
from gcorefs.elfcore.vma import Vma

NT_PRPSINFO = 3
NT_AUXV = 6
NT_SIGINFO = 0x53494749
NT_FILE = 0x46494C45
NT_X86_XSAVE_LAYOUT = 0x205

CORE = b"CORE"
LINUX = b"LINUX"

SIGINFO_SIZE = 128

FILE_NOTE_LIMIT = 4 << 20
"""The kernel writes no NT_FILE of this many bytes or more: fs/binfmt_elf.c, MAX_FILE_NOTE_SIZE.
Since Linux 6.10 the sysctl kernel.core_file_note_size_limit sets the limit."""

# struct elf_prstatus without pr_reg and pr_fpvalid: siginfo, cursig, padding, pending and
# blocked signals, pid, ppid, pgrp, sid, and four struct timeval.
_PRSTATUS = {ELF64: struct.Struct("<iiih2xQQiiii8q"), ELF32: struct.Struct("<iiih2xIIiiii8i")}
_PRPSINFO = {
    ELF64: struct.Struct("<bcbb4xQIIiiii16s80s"),
    ELF32: struct.Struct("<bcbbIHHiiii16s80s"),
}
# include/linux/highuid.h, high2lowuid, with the default of /proc/sys/kernel/overflowuid.
_OVERFLOW_ID = 65534


@dataclass(frozen=True, slots=True)
class ProcessIds:
    """In the numbers of the process's own pid namespace, as its memory holds them."""

    ppid: int
    pgrp: int
    sid: int


_NOBODY = ProcessIds(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Thread:
    """One thread: the content of its notes."""

    tid: int
    registers: Registers
    """General registers that are not known are zeros in the core."""
    signal: int = 0
    """The signal that stopped the thread; 0 if no signal did."""
    pending: int = 0
    """Signals pending for this thread alone: bit n - 1 for signal n."""
    blocked: int = 0
    times: Sequence[int] = (0, 0, 0, 0)
    """utime, stime, cutime and cstime, in microseconds."""


class Threads(Protocol):
    """A list of Thread, or an object that makes each Thread on demand."""

    def __getitem__(self, part: slice, /) -> Sequence[Thread]: ...


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """The content of PRPSINFO.  `state` is the letter of /proc/PID/stat."""

    pid: int
    ids: ProcessIds
    state: str
    nice: int
    flags: int
    uid: int
    gid: int
    comm: bytes
    arguments: bytes
    """The first bytes of the argument area, NULs between the words."""


@dataclass(frozen=True, slots=True)
class ProcessNotes:
    """The input of `pack`: everything that goes into the notes of one process."""

    machine: Machine
    info: ProcessInfo
    threads: Threads
    """Read only after all else is laid out."""
    siginfo: bytes
    """Empty: no signal stopped the process, and there is no note.  lldb 21 waits for ever if a note
    says signal 0."""
    auxv: bytes
    files: Sequence[tuple[Vma, bytes]]
    """Every mapping that has a file, with its path."""
    file_note_limit: int = FILE_NOTE_LIMIT
    xsave_layout: Sequence[tuple[int, int, int]] = field(default=())
    """Feature number, size and offset in the XSTATE note."""
    provenance: Provenance | None = None
    registers: Sequence[Registers] = ()
    """The registers of each thread, if it is expensive to take them from `threads`."""

    def pack(self, shelf: Shelf | None = None) -> Pieces:
        """All notes in the kernel's order (fs/binfmt_elf.c, write_note_info), then our own.  The
        PRSTATUS notes are put on `shelf`."""
        registers = self.registers or [thread.registers for thread in self.threads[:]]
        size = len(pack_prstatus(self.machine, Thread(0, Registers()), _NOBODY))
        statuses: Sequence[Unmade] = (shelf or Shelf()).reserve(
            size, len(registers), self._statuses
        )
        regsets: Sequence[Unmade] = regset_notes(self.machine, registers)
        process = [pack_prpsinfo(self.machine, self.info)]
        if self.siginfo:
            process.append(pack_note(CORE, NT_SIGINFO, self.siginfo.ljust(SIGINFO_SIZE, b"\0")))
        process.append(pack_auxv(self.machine, self.auxv))
        if files := pack_files(self.machine, self.files, self.file_note_limit):
            process.append(files)
        last = []
        if self.xsave_layout:
            last.append(pack_xsave_layout(self.xsave_layout))
        if self.provenance is not None:
            last.append(self.provenance.pack())
        threads = list(chain.from_iterable(zip(statuses, regsets, strict=True)))
        return Pieces([threads[0], *process, *threads[1:], *last])

    def _statuses(self, first: int, last: int) -> bytes:
        return b"".join(
            pack_prstatus(self.machine, thread, self.info.ids)
            for thread in self.threads[first:last]
        )


def pack_prstatus(machine: Machine, thread: Thread, ids: ProcessIds) -> bytes:
    """NT_PRSTATUS: fs/binfmt_elf.c, fill_prstatus."""
    form = CLASSES[machine.word_size]
    times: list[int] = []
    for microseconds in thread.times:
        times += divmod(microseconds, 1_000_000)
    desc = b"".join(
        (
            _PRSTATUS[form].pack(
                thread.signal,  # pr_info.si_signo; si_code and si_errno stay 0
                0,
                0,
                thread.signal,
                thread.pending & form.most,
                thread.blocked & form.most,
                thread.tid,
                ids.ppid,
                ids.pgrp,
                ids.sid,
                *times,
            ),
            thread.registers.general or bytes(machine.general_size),
            # pr_fpvalid: fs/binfmt_elf.c, fill_thread_core_info
            struct.pack(
                f"<i{form.word_size - 4}x", RegisterKind.FLOATING_POINT in thread.registers
            ),
        )
    )
    return pack_note(CORE, NT_PRSTATUS, desc)


def pack_prpsinfo(machine: Machine, info: ProcessInfo) -> bytes:
    """NT_PRPSINFO: fs/binfmt_elf.c, fill_psinfo."""
    form = CLASSES[machine.word_size]
    # The kernel numbers the bits of task->__state.  The letters of /proc begin in the same order;
    # the kernel shows a state after the sixth as a dot.
    number = "RSDTZW".find(info.state)
    desc = _PRPSINFO[form].pack(
        number if number >= 0 else 6,
        info.state.encode() if number >= 0 else b".",
        info.state == "Z",
        info.nice,
        info.flags & form.most,
        _owner(form, info.uid),
        _owner(form, info.gid),
        info.pid,
        info.ids.ppid,
        info.ids.pgrp,
        info.ids.sid,
        info.comm[:15],
        info.arguments[:79].replace(b"\0", b" "),
    )
    return pack_note(CORE, NT_PRPSINFO, desc)


def _owner(form: ElfClass, number: int) -> int:
    """A uid or gid.  A 32-bit core has 16 bits for it; 65534 stands for a larger number."""
    number &= 0xFFFFFFFF
    return number if form is ELF64 or number >> 16 == 0 else _OVERFLOW_ID


def pack_auxv(machine: Machine, vector: bytes) -> bytes:
    """NT_AUXV: pairs of words up to AT_NULL (fs/binfmt_elf.c, fill_auxv_note).

    For a 32-bit process, /proc counts in its own wider words and shows some words behind AT_NULL
    (fs/proc/base.c, auxv_read).
    """
    word = CLASSES[machine.word_size].word
    pair = struct.Struct(f"<2{word}")
    for at in range(0, len(vector) - pair.size + 1, pair.size):
        if pair.unpack_from(vector, at)[0] == 0:
            vector = vector[: at + pair.size]
            break
    return pack_note(CORE, NT_AUXV, vector)


def pack_files(
    machine: Machine, files: Sequence[tuple[Vma, bytes]], limit: int = FILE_NOTE_LIMIT
) -> bytes:
    """NT_FILE: fs/binfmt_elf.c, fill_files_note.  Empty if it has `limit` bytes or more.

    File offsets are in pages.  The kernel allocates 64 bytes for each mapping, with a file or
    without, and a quarter more each time that the names do not fit.  So it gives up earlier than
    we do, at 65,536 mappings at the latest.  Our later limit gives readers more names.
    """
    numbers = [len(files), PAGE_SIZE]
    for vma, _ in files:
        numbers += (vma.start, vma.end, vma.offset // PAGE_SIZE)
    if sum(len(path) for _, path in files) >= limit:
        return b""
    desc = struct.pack(f"<{len(numbers)}{CLASSES[machine.word_size].word}", *numbers)
    desc += b"".join(path + b"\0" for _, path in files)
    return pack_note(CORE, NT_FILE, desc) if len(desc) < limit else b""


def pack_xsave_layout(components: Sequence[tuple[int, int, int]]) -> bytes:
    """NT_X86_XSAVE_LAYOUT: arch/x86/kernel/fpu/xstate.c, dump_xsave_layout_desc."""
    desc = b"".join(
        struct.pack("<IIII", number, size, offset, 0) for number, size, offset in components
    )
    return pack_note(LINUX, NT_X86_XSAVE_LAYOUT, desc)
