"""ELF headers as bytes: the few structures in a core.

Source: the System V ABI (gabi, "Object Files") and include/uapi/linux/elf.h.  All numbers are
little-endian, as on all machines that we support.
"""

import functools
import struct
from array import array
from collections.abc import Iterator
from typing import Literal, NamedTuple

from gcorefs.arch.page import PAGE_SIZE

ET_EXEC = 2
ET_DYN = 3
ET_CORE = 4

PT_LOAD = 1
PT_NOTE = 4

PF_X = 1
PF_W = 2
PF_R = 4

SHT_NULL = 0
SHT_NOTE = 7

# With this many program headers or more, e_phnum holds PN_XNUM, and sh_info of section 0 holds the
# count (gabi, "ELF Header", e_phnum; fs/binfmt_elf.c, elf_core_dump).
PN_XNUM = 0xFFFF

MOST_OFFSET = (1 << 63) - 1
"""Of a byte in a file (loff_t)."""

_NHDR = struct.Struct("<III")


class ProgramHeader(NamedTuple):
    """The fields of an Elf64_Phdr (elf(5)) without p_paddr, which is 0."""

    kind: int
    flags: int
    offset: int
    vaddr: int
    filesz: int
    memsz: int
    align: int


class ElfClass:
    """The structures of ELFCLASS64 or ELFCLASS32.  The classes differ in the width of a word."""

    def __init__(self, number: int, word: Literal["Q", "I"], phdr: str) -> None:
        self.word: Literal["Q", "I"] = word
        """The struct module's letter for an unsigned word."""
        self.word_size = struct.calcsize(f"<{word}")
        self.most = (1 << 8 * self.word_size) - 1
        """The largest value of a word."""
        # EI_MAG, EI_CLASS, ELFDATA2LSB, EV_CURRENT, ELFOSABI_NONE, padding.
        self._ident = b"\x7fELF" + bytes((number, 1, 1, 0)) + bytes(8)
        self._ehdr = struct.Struct(f"<16sHHI3{word}I6H")
        self._phdr = struct.Struct(phdr)
        self._shdr = struct.Struct(f"<II4{word}II2{word}")
        self.ehdr_size = self._ehdr.size
        self.phdr_size = self._phdr.size
        self.shdr_size = self._shdr.size

    def pack_ehdr(self, machine: int, phnum: int, shoff: int, shnum: int) -> bytes:
        """The file header of a core with `phnum` program headers right behind it.

        `shoff` is the file offset of the section headers, or 0 if there are none.
        """
        return self._ehdr.pack(
            self._ident,
            ET_CORE,
            machine,
            1,  # e_version: EV_CURRENT
            0,  # e_entry
            self.ehdr_size,
            shoff,
            0,  # e_flags: 0 on every machine that we support
            self.ehdr_size,
            self.phdr_size,
            min(phnum, PN_XNUM),
            self.shdr_size if shnum else 0,
            shnum,
            0,  # e_shstrndx: SHN_UNDEF, the sections have no names
        )

    def pack_phdr(self, header: "ProgramHeader") -> bytes:
        """One program header.  p_paddr is 0, as in the kernel's own cores."""
        kind, flags, *place, align = header
        offset, vaddr, filesz, memsz = place
        if self is ELF32:  # Elf32_Phdr has p_flags in another place
            return self._phdr.pack(kind, offset, vaddr, 0, filesz, memsz, flags, align)
        return self._phdr.pack(kind, flags, offset, vaddr, 0, filesz, memsz, align)

    def pack_loads(
        self,
        flags: bytearray,
        offsets: "array[int]",
        vaddrs: "array[int]",
        filesizes: "array[int]",
        memsizes: "array[int]",
    ) -> bytearray:
        """The program headers of many PT_LOADs, from one column for each field."""
        count = len(flags)
        width = self.phdr_size // self.word_size
        table = bytearray(self.phdr_size * count)
        octets = memoryview(table)
        words = octets.cast(self.word)
        # All words but p_type, p_paddr, which is 0, and p_flags.
        align = array("Q", (PAGE_SIZE,)) * count
        columns = {1: offsets, 2: vaddrs, 4: filesizes, 5: memsizes, width - 1: align}
        for number, column in columns.items():
            own = column if self is ELF64 else array(self.word, column)
            words[number::width] = memoryview(own)
        octets[0 :: self.phdr_size] = bytes((PT_LOAD,)) * count
        # Elf64_Phdr has p_flags behind p_type, Elf32_Phdr behind p_memsz.
        octets[(24 if self is ELF32 else 4) :: self.phdr_size] = flags
        return table

    def note_ends(self, beginning: bytes) -> Iterator[int]:
        """The file offset of the end of each PT_NOTE of a program that begins with these bytes."""
        for header in self.program_headers(beginning):
            if header.kind == PT_NOTE:
                yield header.offset + header.filesz

    def program_headers(self, beginning: bytes) -> list["ProgramHeader"]:
        """The program headers of a program that begins with these bytes; those that lie in them."""
        _, kind, _, _, _, phoff, _, _, _, phentsize, phnum, *_ = self._ehdr.unpack_from(beginning)
        if kind not in (ET_EXEC, ET_DYN) or phentsize != self.phdr_size:
            return []
        return self.unpack_phdrs(beginning[phoff : phoff + phnum * phentsize])

    def unpack_phdrs(self, table: bytes) -> list["ProgramHeader"]:
        """The whole program headers in a table."""
        found = []
        for fields in self._phdr.iter_unpack(
            table[: len(table) // self.phdr_size * self.phdr_size]
        ):
            if self is ELF32:
                kind, offset, vaddr, _, filesz, memsz, flags, align = fields
            else:
                kind, flags, offset, vaddr, _, filesz, memsz, align = fields
            found.append(ProgramHeader(kind, flags, offset, vaddr, filesz, memsz, align))
        return found

    def pack_extended_numbering(self, phnum: int, notes_offset: int, notes_size: int) -> bytes:
        """The section headers of a core with too many program headers for e_phnum.

        Section 0 holds the count in sh_info.  Section 1 covers the notes: if a file has sections,
        elfutils reads its notes through them.
        """
        null = self._shdr.pack(0, SHT_NULL, 0, 0, 0, 2, 0, phnum, 0, 0)
        notes = self._shdr.pack(0, SHT_NOTE, 0, 0, notes_offset, notes_size, 0, 0, 4, 0)
        return null + notes


ELF64 = ElfClass(2, "Q", "<IIQQQQQQ")
ELF32 = ElfClass(1, "I", "<IIIIIIII")
CLASSES = {8: ELF64, 4: ELF32}
"""By the word size of a machine."""


def pack_note(owner: bytes, kind: int, desc: bytes) -> bytes:
    """One note: header, owner with its NUL, descriptor.  Each is padded to four bytes."""
    return note_header(owner, kind, len(desc)) + _padded(desc)


@functools.lru_cache
def note_header(owner: bytes, kind: int, size: int) -> bytes:
    """What stands before a descriptor of `size` bytes."""
    name = owner + b"\0"
    return _NHDR.pack(len(name), size, kind) + _padded(name)


def notes_end(beginning: bytes) -> int:
    """The file offset of the end of the last PT_NOTE of a program or library.

    `beginning`: its first page.  0 if the page is not of an ELF file, or if the program headers
    lie behind it.
    """
    form = {b"\x7fELF\2\1": ELF64, b"\x7fELF\1\1": ELF32}.get(beginning[:6])
    if form is None or len(beginning) < form.ehdr_size:
        return 0
    return max(form.note_ends(beginning), default=0)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4) if len(data) % 4 else data


def page_up(offset: int) -> int:
    """`offset`, in bytes, rounded up to a multiple of the page size."""
    return (offset + PAGE_SIZE - 1) & -PAGE_SIZE
