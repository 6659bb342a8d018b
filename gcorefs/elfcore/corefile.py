"""Reads the headers and notes of a core, whether gcorefs, the kernel or another program wrote it.

This module reads no memory.  It reads program headers and notes in bulk with struct: there may
be hundreds of thousands, and pyelftools reads ten thousand in a second.  pyelftools knows the
rest: the machines, and the structures that differ between them.
"""

import io
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from elftools.common.exceptions import ELFError
from elftools.common.utils import struct_parse
from elftools.elf.elffile import ELFFile

from gcorefs.arch.machine import NT_PRSTATUS
from gcorefs.elfcore import elf
from gcorefs.elfcore.core_bytes import CoreError, Format, Load, read, read_whole, refuse
from gcorefs.elfcore.note_segments import Notes, Segment
from gcorefs.elfcore.notes import NT_AUXV, NT_FILE, NT_PRPSINFO
from gcorefs.elfcore.provenance import NT_GCOREFS, FactsError, parse

_MOST_LOADS = 1 << 21
"""Program headers.  The kernel writes at most vm.max_map_count of them, by default 65,530; some
distributions have 1,048,576."""

_AT_SYSINFO_EHDR = 33  # getauxval(3): where [vdso] begins
_AT_EXECFN = 31  # a string on the stack

# include/linux/elfcore.h, struct elf_prstatus: behind struct elf_siginfo, on every machine.
_PR_CURSIG = 12


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


def read_core(file: BinaryIO, size: int | None = None) -> Core:
    """Read the headers and notes of a core.

    `size`: bytes of the core, if `file` holds only its beginning.  Raises CoreError, and OSError
    if a read fails.
    """
    first = read(file, 0, elf.ELF64.ehdr_size)
    if size is None:  # after the read: before it, a file below our mount may show a larger size
        size = file.seek(0, io.SEEK_END)
    header = _header(first)
    form = Format(header.elfclass, header.little_endian)
    phnum = header["e_phnum"]
    if phnum == elf.PN_XNUM:
        data = read_whole(file, size, header["e_shoff"], form.sh_info.size)
        (phnum,) = form.sh_info.unpack(data)
    if phnum > _MOST_LOADS:
        refuse(f"it has {phnum} program headers, which no core has")
    if phnum and header["e_phentsize"] != form.phdr.size:
        refuse(f"its program headers have {header['e_phentsize']} bytes, not {form.phdr.size}")
    table = read_whole(file, size, header["e_phoff"], phnum * form.phdr.size)
    loads: list[Load] = []
    notes = Notes(form)
    for fields in form.phdr.iter_unpack(table):
        if fields[0] == elf.PT_LOAD:
            load = form.load(fields)
            if load.memsz or load.filesz:  # without an address it says nothing
                loads.append(load)
        elif fields[0] == elf.PT_NOTE:
            place = form.load(fields)
            notes.expect(place.filesz)
            notes.add(Segment(file, size, place))
    loads.sort()
    _check(loads)
    return _core(header, form, size, phnum, loads, notes)


def _core(
    header: ELFFile, form: Format, size: int, phnum: int, loads: list[Load], notes: Notes
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


def _header(first: bytes) -> ELFFile:
    try:
        header = ELFFile(io.BytesIO(first))
    except ELFError as error:
        raise CoreError("it is no ELF file") from error
    if header["e_type"] != "ET_CORE":
        refuse(f"it is no core, but {header['e_type']}")
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
            refuse(f"its segment at {load.vaddr:#x} cannot be")
        border = load.vaddr + load.memsz
    if border > 1 << 64:
        refuse("its segments end behind the end of memory")


def _signal(status: bytes | None, form: Format) -> int:
    if status is None or len(status) < _PR_CURSIG + form.half.size:
        return 0
    (number,) = form.half.unpack_from(status, _PR_CURSIG)
    return int(number)


def _files(note: bytes | None, form: Format) -> list[tuple[int, int, bytes]]:
    """NT_FILE: count, page size; start, end and file offset of each mapping; then all names."""
    words = [] if note is None else form.words(note[: 2 * form.word.size])
    if note is None or len(words) < 2:
        return []
    begin = 2 * form.word.size
    end = begin + 3 * words[0] * form.word.size
    if end > len(note):
        refuse("its list of files is longer than its note")
    numbers = form.words(note[begin:end])
    names = note[end:].split(b"\0")
    return sorted(zip(numbers[::3], numbers[1::3], names, strict=False))


def _names(auxv: bytes | None, form: Format, loads: Sequence[Load]) -> dict[int, str]:
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
    try:
        return parse(desc)
    except FactsError as error:
        raise CoreError(f"its GCOREFS note is not one: {error}") from error
