"""Memory as program headers describe it, and zeros that the file holds only once.

A process may reserve a mapping of terabytes and populate few of its pages.  A run of pages
that was never populated (a hole) reads as zeros, and a program header may point anywhere in the
file.  So all holes point into one area of zeros, and the file is as large as the populated
memory.  Their p_filesz is not 0: a p_filesz of 0 tells readers that the core does not have the
memory, and gdb shows zeros there, lldb and drgn an error.

A hole costs program headers, and lldb ends a read at the end of a segment.  So the smallest
holes stay literal, zeros between other bytes, as long as the sum of these zeros is small.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from gcorefs.elfcore.columns import Column
from gcorefs.elfcore.elf import ElfClass

ZEROS = 1
"""Stands for the area of zeros in place of an address: every address is a multiple of a page."""


def _column() -> Column:
    return array("Q")


@dataclass(slots=True)  # as Vma, not frozen
class Segment:
    """One mapping: `memsz` bytes of memory from `vaddr`, of which the core has `filesz`.

    Its holes are runs of whole pages in the first `filesz` bytes that were never populated.  They
    are in order, and no hole touches the next.
    """

    vaddr: int
    memsz: int
    filesz: int
    flags: int
    hole_starts: Column = field(default_factory=_column)
    hole_ends: Column = field(default_factory=_column)
    is_bss: bool = False
    """It follows a mapping of a program's file, and readers take both for one mapping: py-spy
    searches .data and .bss as one piece of the file (src/coredump.rs)."""

    @property
    def holes(self) -> int:
        """Bytes."""
        return sum(self.hole_ends) - sum(self.hole_starts)

    @property
    def populated(self) -> int:
        return self.filesz - self.holes


@dataclass(slots=True)
class Segments:
    """All mappings, in address order.  100,000 objects would take ten times as long as columns."""

    vaddr: Column
    memsz: Column
    filesz: Column
    flags: bytearray
    divided: Mapping[int, Segment]
    """Those that have holes, by index, in order."""

    @classmethod
    def of(cls, mappings: Sequence[Segment]) -> "Segments":
        return cls(
            array("Q", [mapping.vaddr for mapping in mappings]),
            array("Q", [mapping.memsz for mapping in mappings]),
            array("Q", [mapping.filesz for mapping in mappings]),
            bytearray([mapping.flags for mapping in mappings]),
            {index: each for index, each in enumerate(mappings) if each.hole_starts},
        )


@dataclass(frozen=True, slots=True)
class Loads:
    """The PT_LOADs of a file and the memory behind them."""

    area: int = 0
    """Bytes of the area of zeros, 0 where there is none."""
    shared: int = 0
    """Bytes of memory that the area of zeros stands for."""
    zeros: int = 0
    """Bytes of all holes: `shared` and literal zeros."""
    in_file: int = 0
    """Bytes of memory in the file, literal zeros included."""
    flags: bytearray = field(default_factory=bytearray)
    """PF_R, PF_W and PF_X of each PT_LOAD."""
    vaddr: Column = field(default_factory=_column)
    memsz: Column = field(default_factory=_column)
    filesz: Column = field(default_factory=_column)
    places: Column = field(default_factory=_column)
    """Where the bytes of each PT_LOAD are, counted from the beginning of the memory in the file.
    The area of zeros follows the memory."""
    is_zero: bytearray = field(default_factory=bytearray)
    """1 for a PT_LOAD that lies in the area of zeros."""
    addresses: Column = field(default_factory=_column)
    """The memory that the file holds, in order: an address, or ZEROS for literal zeros."""
    lengths: Column = field(default_factory=_column)
    """The bytes of each of `addresses`."""


def that_fit(form: ElfClass, segments: Segments, header: int) -> Segments:
    """The mappings.  A mapping whose file offset does not fit into p_offset loses its memory.

    This happens to a 32-bit process that has populated nearly all of its address space.
    `header`: bytes in front of the memory, without the program headers.
    """
    holes = sum(len(mapping.hole_starts) for mapping in segments.divided.values())
    room = form.most - header - form.phdr_size * (len(segments.vaddr) + 2 * holes)
    if sum(segments.filesz) <= room:
        return segments
    filesz = array("Q")
    for size in segments.filesz:
        fits = size <= room
        room -= size if fits else 0
        filesz.append(size if fits else 0)
    divided = {index: each for index, each in segments.divided.items() if filesz[index]}
    return replace(segments, filesz=filesz, divided=divided)
