"""Reads the headers and notes of a core, whether gcorefs, the kernel or another program wrote it.

This module reads no memory.  It reads program headers and notes in bulk with struct: there may
be hundreds of thousands, and pyelftools reads ten thousand in a second.  pyelftools knows the
rest: the machines, and the structures that differ between them.
"""

import io
import struct
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, NoReturn

from elftools.common.exceptions import ELFError
from elftools.common.utils import struct_parse
from elftools.elf.elffile import ELFFile

from gcorefs.arch.machine import NT_PRSTATUS
from gcorefs.elfcore import elf
from gcorefs.elfcore.notes import CORE, FILE_NOTE_LIMIT, NT_AUXV, NT_FILE, NT_PRPSINFO
from gcorefs.elfcore.provenance import GCOREFS, NT_GCOREFS, FactsError, parse
from gcorefs.errors import GcorefsError

_MOST_OFFSET = (1 << 63) - 1  # loff_t
_MOST_LOADS = 1 << 22
"""Program headers.  The kernel writes at most vm.max_map_count of them, by default 65,530."""
_MOST_NOTE_BYTES = 1 << 30
"""Bytes.  20,000 threads with the largest register sets need a quarter of this."""
_MOST_NOTES = 1 << 22
"""The notes of a thread have more than 256 bytes on average, on every machine."""
_MOST_NOTE_SEGMENTS = 1024
"""The kernel makes one."""
_MOST_FACTS = 1 << 25
"""Bytes of the GCOREFS note.  Parsed, JSON takes twenty times as much memory."""

_MOST_FILES = 16 * FILE_NOTE_LIMIT

_AT_SYSINFO_EHDR = 33  # getauxval(3): where [vdso] begins
_AT_EXECFN = 31  # a string on the stack

# include/linux/elfcore.h, struct elf_prstatus: behind struct elf_siginfo, on every machine.
_PR_CURSIG = 12


class CoreError(GcorefsError, ValueError):
    """The file is not a core, is cut off, or contradicts itself.  The text is one line."""


class Load(NamedTuple):
    """One PT_LOAD."""

    vaddr: int
    memsz: int
    filesz: int
    offset: int
    flags: int


@dataclass(frozen=True, slots=True)
class Core:
    """The content of the headers and notes of a core."""

    machine: str
    bits: int
    size: int
    """Bytes of the file."""
    end: int
    """Bytes that the file must have according to its program headers."""
    phnum: int
    loads: Sequence[Load]
    """In address order, without overlaps."""
    pid: int
    """The PID in the process's own pid namespace; 0 if unknown."""
    program: bytes
    arguments: bytes
    threads: int
    signal: int
    """The signal that stopped or killed the first thread; 0 if none did."""
    files: Sequence[tuple[int, int, bytes]]
    """Start, end and path of every mapped file, in address order."""
    names: Mapping[int, str]
    """Names like [stack], by start address."""
    facts: Mapping[str, Any] | None
    """The content of the GCOREFS note (provenance.py); None if the core has none."""

    @property
    def missing(self) -> int:
        """Bytes that are cut off at the end of the file."""
        return max(0, self.end - self.size)


_READ = {
    *((CORE, kind) for kind in (NT_PRSTATUS, NT_PRPSINFO, NT_AUXV, NT_FILE)),
    (GCOREFS, NT_GCOREFS),
}


class _Format:
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


class _Notes:
    """The first note of each kind in _READ, and how many threads the others are of.

    Segments may overlap, so that a short file has many notes.
    """

    def __init__(self, form: _Format) -> None:
        self.threads = 0
        self._form = form
        self._first: dict[int, bytes] = {}
        self._bytes = self._count = self._segments = 0

    def first(self, kind: int) -> bytes | None:
        return self._first.get(kind)

    def expect(self, size: int) -> None:
        """So many more bytes of notes are to be read, in one more segment.  CoreError."""
        self._segments += 1
        if self._segments > _MOST_NOTE_SEGMENTS:
            _refuse(f"it has more than {_MOST_NOTE_SEGMENTS} segments of notes, which no core has")
        self._bytes += size
        if self._bytes > _MOST_NOTE_BYTES:
            _refuse(f"it has {self._bytes} bytes of notes, which no core has")

    def add(self, data: bytes) -> None:
        """The notes of a segment.  A short header or a header of zeros is padding.  CoreError."""
        header = self._form.note
        at = 0
        while at + header.size <= len(data):
            name_size, size, kind = header.unpack_from(data, at)
            if not (name_size or size or kind):
                break
            self._count += 1
            if self._count > _MOST_NOTES:
                _refuse(f"it has more than {_MOST_NOTES} notes, which no core has")
            name = at + header.size
            start = name + (name_size + 3 & ~3)
            if start + size > len(data):
                _refuse("its notes end in the middle of one")
            owner = data[name : name + name_size].rstrip(b"\0")
            if (owner, kind) in _READ:
                self.threads += kind == NT_PRSTATUS
                if kind not in self._first:
                    self._first[kind] = data[start : start + size]
            at = start + (size + 3 & ~3)


def read_core(file: BinaryIO, size: int | None = None) -> Core:
    """Read the headers and notes of a core.

    `size`: bytes of the core, if `file` holds only its beginning.  Raises CoreError, and OSError
    if a read fails.
    """
    first = _read(file, 0, elf.ELF64.ehdr_size)
    if size is None:  # after the read: before it, a file below our mount may show a larger size
        size = file.seek(0, io.SEEK_END)
    header = _header(first)
    form = _Format(header.elfclass, header.little_endian)
    phnum = header["e_phnum"]
    if phnum == elf.PN_XNUM:
        data = _read_whole(file, size, header["e_shoff"], form.sh_info.size)
        (phnum,) = form.sh_info.unpack(data)
    if phnum > _MOST_LOADS:
        _refuse(f"it has {phnum} program headers, which no core has")
    if phnum and header["e_phentsize"] != form.phdr.size:
        _refuse(f"its program headers have {header['e_phentsize']} bytes, not {form.phdr.size}")
    table = _read_whole(file, size, header["e_phoff"], phnum * form.phdr.size)
    loads: list[Load] = []
    notes = _Notes(form)
    for fields in form.phdr.iter_unpack(table):
        if fields[0] == elf.PT_LOAD:
            loads.append(form.load(fields))
        elif fields[0] == elf.PT_NOTE:
            place = form.load(fields)
            notes.expect(place.filesz)
            notes.add(_read_whole(file, size, place.offset, place.filesz))
    loads.sort()
    _check(loads)
    return _core(header, form, size, phnum, loads, notes)


def _core(
    header: ELFFile, form: _Format, size: int, phnum: int, loads: list[Load], notes: _Notes
) -> Core:
    info = notes.first(NT_PRPSINFO)
    ps = None if info is None else _parsed(header.structs.Elf_Prpsinfo, info)
    facts = _facts(notes.first(NT_GCOREFS))
    return Core(
        machine=header.get_machine_arch(),
        bits=header.elfclass,
        size=size,
        end=max((load.offset + load.filesz for load in loads if load.filesz), default=0),
        phnum=phnum,
        loads=loads,
        pid=0 if ps is None else ps["pr_pid"],
        program=b"" if ps is None else ps["pr_fname"].partition(b"\0")[0],
        arguments=b"" if ps is None else ps["pr_psargs"].partition(b"\0")[0].rstrip(),
        threads=notes.threads,
        signal=_signal(notes.first(NT_PRSTATUS), form),
        files=_files(notes.first(NT_FILE), form),
        names=_names(notes.first(NT_AUXV), form, loads)
        if facts is None
        else {int(start, 16): name for start, name in facts["names"].items()},
        facts=facts,
    )


def _refuse(reason: str) -> NoReturn:
    raise CoreError(reason)


def _read(file: BinaryIO, offset: int, length: int) -> bytes:
    """`length` bytes, fewer only at the end.  A read of an unbuffered file may be short."""
    file.seek(offset)
    pieces = []
    while length and (piece := file.read(length)):
        pieces.append(piece)
        length -= len(piece)
    return b"".join(pieces)


def _read_whole(file: BinaryIO, size: int, offset: int, length: int) -> bytes:
    # A length beyond the end of the file is never read: it may be larger than our memory.  And no
    # file ends behind the largest loff_t, whatever `size` says.
    if offset + length <= min(size, _MOST_OFFSET):
        data = _read(file, offset, length)
        if len(data) == length:
            return data
    _refuse(f"it is cut off: its headers end at byte {offset + length}, the file at {size}")


def _header(first: bytes) -> ELFFile:
    try:
        header = ELFFile(io.BytesIO(first))
    except ELFError as error:
        raise CoreError("it is no ELF file") from error
    if header["e_type"] != "ET_CORE":
        _refuse(f"it is no core, but {header['e_type']}")
    return header


def _parsed(structure: Any, data: bytes) -> Any:
    try:
        return struct_parse(structure, io.BytesIO(data), 0)
    except ELFError:
        return None


def _check(loads: Sequence[Load]) -> None:
    border = 0
    for load in loads:
        if load.vaddr < border or load.filesz > load.memsz:
            _refuse(f"its segment at {load.vaddr:#x} cannot be")
        border = load.vaddr + load.memsz
    if border > 1 << 64:
        _refuse("its segments end behind the end of memory")


def _signal(status: bytes | None, form: _Format) -> int:
    if status is None or len(status) < _PR_CURSIG + form.half.size:
        return 0
    (number,) = form.half.unpack_from(status, _PR_CURSIG)
    return int(number)


def _files(note: bytes | None, form: _Format) -> list[tuple[int, int, bytes]]:
    """NT_FILE: count, page size; start, end and file offset of each mapping; then all names."""
    words = [] if note is None else form.words(note[: 2 * form.word.size])
    if note is None or len(words) < 2:
        return []
    if len(note) > _MOST_FILES:
        _refuse(f"its list of files has {len(note)} bytes, which no core's has")
    begin = 2 * form.word.size
    end = begin + 3 * words[0] * form.word.size
    if end > len(note):
        _refuse("its list of files is longer than its note")
    numbers = form.words(note[begin:end])
    names = note[end:].split(b"\0")
    return sorted(zip(numbers[::3], numbers[1::3], names, strict=False))


def _names(auxv: bytes | None, form: _Format, loads: Sequence[Load]) -> dict[int, str]:
    """[stack] and [vdso] from the auxiliary vector, for a core without a GCOREFS note."""
    words = [] if auxv is None else form.words(auxv)
    vector = dict(zip(words[::2], words[1::2], strict=False))
    names = {}
    for kind, name in ((_AT_EXECFN, "[stack]"), (_AT_SYSINFO_EHDR, "[vdso]")):
        address = vector.get(kind, 0)
        index = bisect_right(loads, address, key=lambda load: load.vaddr) - 1
        if index >= 0 and address < loads[index].vaddr + loads[index].memsz:
            names[loads[index].vaddr] = name
    return names


def _facts(desc: bytes | None) -> dict[str, Any] | None:
    if desc is None:
        return None
    if len(desc) > _MOST_FACTS:
        _refuse(f"its GCOREFS note has {len(desc)} bytes, which none has")
    try:
        return parse(desc)
    except FactsError as error:
        raise CoreError(f"its GCOREFS note is not one: {error}") from error
