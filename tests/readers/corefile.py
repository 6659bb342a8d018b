"""A core as pyelftools reads it, with its notes unpacked by the kernel's structures.

This uses nothing of gcorefs: the expected values of a test must not come from the code under test.
Structures: struct elf_prstatus and elf_prpsinfo of include/linux/elfcore.h, and struct
user_regs_struct of arch/x86/include/asm/user_64.h; for a 32-bit process the same structures of
include/linux/elfcore-compat.h and arch/x86/include/asm/user32.h; struct user_pt_regs of
arch/arm64/include/uapi/asm/ptrace.h.
"""

import json
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile
from elftools.elf.segments import NoteSegment

from tests.pure.processors import moved_back

# pyelftools 0.33 has no names for these (include/uapi/linux/elf.h).
X86_XFP = 0x46E62B7F
X86_TLS = 0x200
X86_XSTATE = 0x202
X86_XSAVE_LAYOUT = 0x205
ARM_TLS = 0x401

# The names of the words of each structure, in order, by the number of bits of a word on x86.
_GREGS: dict[int | str, str] = {
    64: """r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp
    ss fs_base gs_base ds es fs gs""",
    32: "ebx ecx edx esi edi ebp eax ds es fs gs orig_eax eip cs eflags esp ss",
    "EM_AARCH64": " ".join(f"x{number}" for number in range(31)) + " sp pc pstate",
}
_PRSTATUS: dict[int | str, struct.Struct] = {
    64: struct.Struct("<iiih2xQQiiii8q27Qi4x"),
    32: struct.Struct("<iiih2xIIiiii8i17Ii"),
    "EM_AARCH64": struct.Struct("<iiih2xQQiiii8q34Qi4x"),
}
_PRSTATUS_FIELDS = """si_signo si_code si_errno cursig sigpend sighold pid ppid pgrp sid
utime utime_us stime stime_us cutime cutime_us cstime cstime_us {} fpvalid"""
_PRPSINFO = {
    64: struct.Struct("<bcbb4xQIIiiii16s80s"),
    32: struct.Struct("<bcbbIHHiiii16s80s"),
}
_PRPSINFO_FIELDS = "state sname zomb nice flag uid gid pid ppid pgrp sid fname psargs"
_PHDR_FIELDS = ("vaddr", "memsz", "filesz", "flags", "align", "offset")


@dataclass(frozen=True)
class Note:
    owner: str
    kind: str | int
    desc: bytes


@dataclass(frozen=True)
class Segment:
    vaddr: int
    memsz: int
    filesz: int
    flags: int
    align: int
    offset: int

    @property
    def end(self) -> int:
        return self.vaddr + self.memsz


@dataclass(frozen=True)
class Thread:
    status: Mapping[str, int]
    """Every field of PRSTATUS, including the registers."""
    regsets: dict[str | int, bytes] = field(default_factory=dict)


class Core:
    """A whole core; memory is read only on demand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Keep it open: below a mount, another open is another stop and another file.
        self._fd = os.open(path, os.O_RDONLY)
        with open(self._fd, "rb", closefd=False) as file:
            elf = ELFFile(file)
            self.header = dict(elf.header)
            self.bits: int = elf.elfclass
            self.ident = file.seek(0) or file.read(16)
            segments = list(elf.iter_segments())
            self.note_segments = [s for s in segments if isinstance(s, NoteSegment)]
            notes = [
                Note(note["n_name"], note["n_type"], note["n_descdata"])
                for segment in self.note_segments
                for note in segment.iter_notes()
            ]
        self.all_notes = notes
        self.own_notes = [note for note in notes if note.owner == "GCOREFS"]
        """Notes that no other dumper writes."""
        self.notes = [note for note in notes if note.owner != "GCOREFS"]
        self.order = [segment["p_type"] for segment in segments]
        self.loads = [
            Segment(*(s[f"p_{name}"] for name in _PHDR_FIELDS))
            for s in segments
            if s["p_type"] == "PT_LOAD"
        ]

    def note(self, kind: str | int) -> bytes:
        """The descriptor of the only note of this kind."""
        (found,) = (note.desc for note in self.notes if note.kind == kind)
        return found

    @property
    def info(self) -> dict[str, int | bytes]:
        fields = _PRPSINFO[self.bits].unpack(self.note("NT_PRPSINFO"))
        return dict(zip(_PRPSINFO_FIELDS.split(), fields, strict=True))

    @property
    def threads(self) -> dict[int, Thread]:
        """By thread id, in the order of the file."""
        threads: dict[int, Thread] = {}
        machine = self.header["e_machine"]
        kind = machine if machine in _GREGS else self.bits
        names = _PRSTATUS_FIELDS.format(_GREGS[kind]).split()
        for note in self.notes:
            if note.kind == "NT_PRSTATUS":
                fields = _PRSTATUS[kind].unpack(note.desc)
                thread = Thread(dict(zip(names, fields, strict=True)))
                threads[thread.status["pid"]] = thread
            elif note.kind in ("NT_FPREGSET", X86_XFP, X86_XSTATE, X86_TLS, ARM_TLS):
                thread.regsets[note.kind] = note.desc
        return threads

    @property
    def xsave_layout(self) -> dict[int, tuple[int, int]]:
        """Offset and size of each extended feature (struct x86_xfeat_component, asm/elf.h)."""
        rows = struct.iter_unpack("<IIII", self.note(X86_XSAVE_LAYOUT))
        return {number: (offset, size) for number, size, offset, _ in rows}

    @property
    def facts(self) -> dict[str, Any]:
        """The facts in its last note, by gcorefs."""
        found: dict[str, Any] = json.loads(self.own_notes[-1].desc)
        return found

    def as_the_kernel_has_it(self, xstate: bytes) -> bytes:
        """The kernel's NT_X86_XSTATE of a thread without a separate note for it."""
        return moved_back(self.facts["xstate"], self.xsave_layout, xstate)

    def segment(self, address: int) -> Segment:
        (found,) = (s for s in self.loads if s.vaddr <= address < s.end)
        return found

    def read(self, start: int, end: int) -> bytes:
        """Memory that must be in the file; it may span several segments."""
        return b"".join(_pieces(self._fd, self, start, end))

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)


def _pieces(fd: int, core: Core, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        segment = core.segment(start)
        stop = min(end, segment.end)
        assert stop <= segment.vaddr + segment.filesz, f"{start:#x} is not in the file"
        yield os.pread(fd, stop - start, segment.offset + start - segment.vaddr)
        start = stop
