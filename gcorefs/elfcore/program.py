"""What a program in memory says of itself: its program headers and its dynamic section.

Source: the System V ABI (gabi, "Program Loading and Dynamic Linking"), include/uapi/linux/elf.h
and auxvec.h, and elf.h of glibc.  All of it is memory of the process, which may hold anything:
a function returns less, or nothing, and raises no error.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.elf import ELF32, ELF64, ElfClass, ProgramHeader

PT_LOAD = 1
PT_DYNAMIC = 2
PT_PHDR = 6
PT_TLS = 7
PT_GNU_EH_FRAME = 0x6474E550

DT_STRTAB = 5
DT_STRSZ = 10
DT_DEBUG = 21

AT_PHDR = 3
AT_PHNUM = 5
AT_BASE = 7

MOST_HEADERS = 256
"""The most program headers that are read of a program."""
MOST_DYNAMIC = 512
"""The most entries that are read of a dynamic section."""


def pairs(data: bytes, form: ElfClass) -> Iterator[tuple[int, int]]:
    """The pairs of words of an auxiliary vector or a dynamic section, up to the one that ends it:
    AT_NULL and DT_NULL are both 0."""
    pair = struct.Struct(f"<2{form.word}")
    for kind, value in pair.iter_unpack(data[: len(data) // pair.size * pair.size]):
        if not kind:
            return
        yield kind, value


def values(data: bytes, form: ElfClass) -> dict[int, int]:
    """The same by kind.  Of several of one kind the first counts."""
    found: dict[int, int] = {}
    for kind, value in pairs(data, form):
        found.setdefault(kind, value)
    return found


@dataclass(frozen=True, slots=True)
class Module:
    """A program or a library, as its program headers describe it."""

    bias: int
    """What is added to each p_vaddr."""
    headers: Sequence[ProgramHeader]

    def ranges(self, kind: int) -> list[tuple[int, int]]:
        """Start and end in memory of each header of this kind."""
        found = []
        for header in self.headers:
            if header.kind == kind and header.memsz:
                start = self.bias + header.vaddr
                found.append((start, start + header.memsz))
        return found

    def load_around(self, address: int) -> tuple[int, int]:
        """The PT_LOAD around an address; nothing (0, 0) if there is none."""
        for start, end in self.ranges(PT_LOAD):
            if start <= address < end:
                return start, end
        return 0, 0


def module_at(start: int, beginning: bytes) -> Module | None:
    """The module whose ELF header lies at `start`.  `beginning`: its first page.

    None if there is no ELF header, or if the program headers do not lie in that page.
    """
    form = {b"\x7fELF\2\1": ELF64, b"\x7fELF\1\1": ELF32}.get(beginning[:6])
    if form is None or len(beginning) < form.ehdr_size:
        return None
    headers = form.program_headers(beginning)
    first = next((header for header in headers if header.kind == PT_LOAD), None)
    if first is None:
        return None
    return Module(start - first.vaddr // PAGE_SIZE * PAGE_SIZE, headers)


def module_of(table_at: int, table: bytes, form: ElfClass) -> Module | None:
    """The program whose program headers lie at `table_at`.  None if they do not say so (no
    PT_PHDR)."""
    headers = form.unpack_phdrs(table)
    own = next((header.vaddr for header in headers if header.kind == PT_PHDR), None)
    return None if own is None else Module(table_at - own, headers)
