"""The notes of a program or a library, which say who built it: PT_NOTE of its file (elf(5)).

A file may hold anything: a function returns less, or nothing, and raises no error.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from gcorefs.elfcore.elf import ELF32, ELF64, MOST_OFFSET

PT_NOTE = 4
NT_GNU_BUILD_ID = 3
_GO = b"Go\0\0"  # cmd/internal/buildid, of each program that the linker of Go made
_NOTE = struct.Struct("<III")
MOST_NOTES = 64 << 10
"""Bytes of all PT_NOTE together, which may overlap; more are not read."""
_MOST = 256
"""Notes of one PT_NOTE: a linker makes some ten."""


class Note(NamedTuple):
    owner: bytes
    """With the zeros at its end."""
    kind: int
    desc: bytes


def note_ranges(beginning: bytes) -> list[tuple[int, int]]:
    """Offset and size of the notes in a file that begins with these bytes."""
    form = {b"\x7fELF\2\1": ELF64, b"\x7fELF\1\1": ELF32}.get(beginning[:6])
    if form is None or len(beginning) < form.ehdr_size:
        return []
    found = []
    left = MOST_NOTES
    for header in form.program_headers(beginning):
        if header.kind == PT_NOTE:
            size = min(header.filesz, left)
            found.append((header.offset, size))
            left -= size
    return [(offset, size) for offset, size in found if size and offset + size <= MOST_OFFSET]


def notes(data: bytes) -> Iterator[Note]:
    """The whole notes in a PT_NOTE.  Each part is padded to four bytes."""
    at = 0
    for _ in range(_MOST):
        if at + _NOTE.size > len(data):
            return
        name, length, kind = _NOTE.unpack_from(data, at)
        start = at + _NOTE.size + -(-name // 4) * 4
        at = start + -(-length // 4) * 4
        if start + length > len(data):
            return
        owner = data[start - -(-name // 4) * 4 :][:name]
        yield Note(owner, kind, data[start : start + length])


def build_id(found: Iterator[Note]) -> bytes:
    """What distinguishes this build from others (ld(1), --build-id); empty if there is none."""
    for note in found:
        if note.owner == b"GNU\0" and note.kind == NT_GNU_BUILD_ID:
            return note.desc
    return b""


def is_of_go(found: Iterator[Note]) -> bool:
    return any(note.owner == _GO for note in found)
