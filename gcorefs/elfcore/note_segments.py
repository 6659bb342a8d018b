"""Reads the notes of a core: the first one of each kind that is wanted, and how many threads have
one."""

from typing import BinaryIO, NamedTuple

from gcorefs.arch.machine import NT_PRSTATUS
from gcorefs.elfcore.core_bytes import Format, Load, check_end, read_whole, refuse
from gcorefs.elfcore.notes import CORE, FILE_NOTE_LIMIT, NT_AUXV, NT_FILE, NT_PRPSINFO
from gcorefs.elfcore.provenance import GCOREFS, NT_GCOREFS

_MOST_NOTE_BYTES = 1 << 30
"""Bytes.  20,000 threads with the largest register sets need a quarter of this."""
_MOST_NOTES = 1 << 22
"""The notes of a thread have more than 256 bytes on average, on every machine."""
_MOST_NOTE_SEGMENTS = 1024
"""The kernel makes one."""
_PIECE = 1 << 20
"""Bytes of notes that are read at once."""
_LONGEST_NAME = 64
"""Bytes.  No owner of notes in _READ has more, with its padding."""


class _Kept(NamedTuple):
    """A kind of notes whose first one is kept in memory."""

    words: str
    most: int
    """Bytes."""


_READ = {
    (CORE, NT_PRSTATUS): _Kept("note of a thread", 1 << 16),
    (CORE, NT_PRPSINFO): _Kept("note of the process", 1 << 16),
    (CORE, NT_AUXV): _Kept("auxiliary vector", 1 << 16),
    # kernel.core_file_note_size_limit may be four times the usual limit (fs/coredump.c).
    (CORE, NT_FILE): _Kept("list of files", 16 * FILE_NOTE_LIMIT),
    # Parsed, JSON takes twenty times as much memory.
    (GCOREFS, NT_GCOREFS): _Kept("GCOREFS note", 1 << 25),
}


_KINDS = {kind for _, kind in _READ}


class Notes:
    """The first note of each kind in _READ, and how many threads the others are of.

    Segments may overlap, so that a short file has many notes.
    """

    def __init__(self, form: Format) -> None:
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
            refuse(f"it has more than {_MOST_NOTE_SEGMENTS} segments of notes, which no core has")
        self._bytes += size
        if self._bytes > _MOST_NOTE_BYTES:
            refuse(f"it has {self._bytes} bytes of notes, which no core has")

    def add(self, segment: "Segment") -> None:
        """The notes of a segment.  A short header or a header of zeros is padding.  CoreError."""
        unpack_from, header_size = self._form.note.unpack_from, self._form.note.size
        piece, begin, end = b"", 0, 0  # what is read of the segment
        at = 0
        while at + header_size <= segment.size:
            if at + header_size + _LONGEST_NAME > end and end < segment.size:
                piece, begin = segment.read(at, min(_PIECE, segment.size - at)), at
                end = begin + len(piece)
            name_size, size, kind = unpack_from(piece, at - begin)
            if not (name_size or size or kind):
                break
            self._count += 1
            if self._count > _MOST_NOTES:
                refuse(f"it has more than {_MOST_NOTES} notes, which no core has")
            name = at + header_size
            start = name + (name_size + 3 & ~3)
            if start + size > segment.size:
                refuse("its notes end in the middle of one")
            if kind in _KINDS:
                owner = piece[name - begin : name - begin + min(name_size, _LONGEST_NAME)].rstrip(
                    b"\0"
                )
                self._add(owner, kind, size, segment, start)
            at = start + (size + 3 & ~3)

    def _add(self, owner: bytes, kind: int, size: int, segment: "Segment", start: int) -> None:
        kept = _READ.get((owner, kind))
        if kept is None:
            return
        self.threads += kind == NT_PRSTATUS
        if size > kept.most:
            refuse(f"its {kept.words} has {size} bytes, which no core's has")
        if kind not in self._first:
            self._first[kind] = segment.read(start, size)


class Segment:
    """A segment of notes.  It may be much larger than what is kept of it, so it is read in pieces.

    All of a piece is read although most of it is skipped, because a read of a few bytes costs as
    much as one of a MiB where the file is below a mount.
    """

    def __init__(self, file: BinaryIO, file_size: int, place: Load) -> None:
        """CoreError: the file ends before it."""
        check_end(file_size, place.offset, place.filesz)
        self.size = place.filesz
        self._file = file
        self._file_size = file_size
        self._offset = place.offset

    def read(self, at: int, length: int) -> bytes:
        """`length` bytes that lie in the segment.  CoreError: the file ends before them."""
        return read_whole(self._file, self._file_size, self._offset + at, length)
