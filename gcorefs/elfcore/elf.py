"""ELF64 headers as bytes: the few structures that a core is made of.

Source: the System V ABI (gabi, "Object Files") and include/uapi/linux/elf.h.  All
little-endian: the machines that we know are.
"""

import struct
from array import array
from collections.abc import Iterable

ET_CORE = 4
EM_X86_64 = 62
EM_AARCH64 = 183

PT_LOAD = 1
PT_NOTE = 4

PF_X = 1
PF_W = 2
PF_R = 4

SHT_NULL = 0
SHT_NOTE = 7

# From this many program headers on, e_phnum holds PN_XNUM and the count stands in sh_info of
# section 0 (gabi, "ELF Header", e_phnum; fs/binfmt_elf.c, elf_core_dump).
PN_XNUM = 0xFFFF

EHDR_SIZE = 64
PHDR_SIZE = 56
SHDR_SIZE = 64

PAGE_SIZE = 4096

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_NHDR = struct.Struct("<III")

# EI_MAG, ELFCLASS64, ELFDATA2LSB, EV_CURRENT, ELFOSABI_NONE, padding.
_IDENT = b"\x7fELF" + bytes((2, 1, 1, 0)) + bytes(8)


def pack_ehdr(machine: int, phnum: int, shoff: int, shnum: int) -> bytes:
    """The file header of a core with `phnum` program headers right behind it.

    `shoff` is the file offset of the section headers, 0 where there are none.
    """
    return _EHDR.pack(
        _IDENT,
        ET_CORE,
        machine,
        1,  # e_version: EV_CURRENT
        0,  # e_entry
        EHDR_SIZE,
        shoff,
        0,  # e_flags: 0 on every machine that we know
        EHDR_SIZE,
        PHDR_SIZE,
        min(phnum, PN_XNUM),
        SHDR_SIZE if shnum else 0,
        shnum,
        0,  # e_shstrndx: SHN_UNDEF, the sections have no names
    )


def pack_phdr(
    kind: int, flags: int, offset: int, vaddr: int, filesz: int, memsz: int, align: int
) -> bytes:
    """One program header.  p_paddr is 0, as in the kernel's own cores."""
    return _PHDR.pack(kind, flags, offset, vaddr, 0, filesz, memsz, align)


def pack_loads(
    flags: Iterable[int],
    offsets: Iterable[int],
    vaddrs: Iterable[int],
    filesizes: Iterable[int],
    memsizes: Iterable[int],
) -> bytes:
    """The program headers of many PT_LOADs, from one column for each field."""
    # Elf64_Phdr is seven words, of which p_type and p_flags share the first.
    kinds = array("Q", [PT_LOAD | each << 32 for each in flags])
    words = array("Q", bytes(PHDR_SIZE * len(kinds)))
    words[0::7] = kinds
    words[1::7] = array("Q", offsets)
    words[2::7] = array("Q", vaddrs)
    words[4::7] = array("Q", filesizes)
    words[5::7] = array("Q", memsizes)
    words[6::7] = array("Q", [PAGE_SIZE]) * len(kinds)
    return words.tobytes()


def pack_extended_numbering(phnum: int, notes_offset: int, notes_size: int) -> bytes:
    """The section headers of a core whose program headers e_phnum cannot count.

    Section 0 carries the count in sh_info.  A second one covers the notes: elfutils reads
    notes through the sections of a file wherever it has any.
    """
    null = _SHDR.pack(0, SHT_NULL, 0, 0, 0, 2, 0, phnum, 0, 0)
    notes = _SHDR.pack(0, SHT_NOTE, 0, 0, notes_offset, notes_size, 0, 0, 4, 0)
    return null + notes


def pack_note(owner: bytes, kind: int, desc: bytes) -> bytes:
    """One note: header, owner with its NUL, descriptor, each padded to four bytes."""
    name = owner + b"\0"
    return b"".join(
        (_NHDR.pack(len(name), len(desc), kind), _padded(name), _padded(desc)),
    )


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def page_up(offset: int) -> int:
    """The next page border at or above `offset` (bytes)."""
    return (offset + PAGE_SIZE - 1) & -PAGE_SIZE
