"""The numbers and the bytes of a core that is read, and the error of one that is wrong."""

import struct
from typing import BinaryIO, NamedTuple, NoReturn

from gcorefs.elfcore.elf import MOST_OFFSET
from gcorefs.errors import GcorefsError


class CoreError(GcorefsError, ValueError):
    """The file is not a core, is cut off, or contradicts itself.  The text is one line."""


class Load(NamedTuple):
    """One PT_LOAD."""

    vaddr: int
    memsz: int
    filesz: int
    offset: int
    flags: int


class Format:
    """Byte order and width of the numbers in a file."""

    def __init__(self, bits: int, is_little: bool) -> None:
        order = "<" if is_little else ">"
        self.is_64 = bits == 64
        self.word = struct.Struct(order + ("Q" if self.is_64 else "I"))
        self.half = struct.Struct(order + "h")
        self.note = struct.Struct(order + "III")
        # Elf64_Phdr, and Elf32_Phdr, which has p_flags in another place; sh_info of a section
        # header.
        self.phdr = struct.Struct(order + ("IIQQQQQQ" if self.is_64 else "IIIIIIII"))
        self.sh_info = struct.Struct(order + ("44xI16x" if self.is_64 else "28xI8x"))

    def words(self, data: bytes) -> list[int]:
        """All whole words in `data`."""
        whole = len(data) - len(data) % self.word.size
        return [number for (number,) in self.word.iter_unpack(data[:whole])]

    def load(self, fields: tuple[int, ...]) -> Load:
        if self.is_64:
            _, flags, offset, vaddr, _, filesz, memsz, _ = fields
        else:
            _, offset, vaddr, _, filesz, memsz, flags, _ = fields
        return Load(vaddr, memsz, filesz, offset, flags)


def refuse(reason: str) -> NoReturn:
    raise CoreError(reason)


def read(file: BinaryIO, offset: int, length: int) -> bytes:
    """`length` bytes, fewer only at the end.  A read of an unbuffered file may be short."""
    file.seek(offset)
    pieces = []
    while length and (piece := file.read(length)):
        pieces.append(piece)
        length -= len(piece)
    return b"".join(pieces)


def read_whole(file: BinaryIO, size: int, offset: int, length: int) -> bytes:
    """`length` bytes at `offset`.  CoreError: the file of `size` bytes ends before them."""
    check_end(size, offset, length)
    data = read(file, offset, length)
    if len(data) < length:
        _refuse_cut(size, offset + length)
    return data


def check_end(size: int, offset: int, length: int) -> None:
    """CoreError: a file of `size` bytes ends before these."""
    # A length beyond the end of the file is never read: it may be larger than our memory.  And no
    # file ends behind the largest loff_t, whatever `size` says.
    if offset + length > min(size, MOST_OFFSET):
        _refuse_cut(size, offset + length)


def _refuse_cut(size: int, end: int) -> NoReturn:
    refuse(f"it is cut off: its headers end at byte {end}, the file at {size}")
