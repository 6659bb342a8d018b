"""The mappings of a process from two sources that each know a part: /proc/PID/maps, and a row of
BPF for each mapping (sources/bpf/mappings.bpf.c).

Neither walks a page table.  maps has the files and the names; a row has vm_flags, and whether the
kernel has prepared the mapping for pages that the process writes (vma->anon_vma).
"""

from array import array
from collections.abc import Iterable, Sequence
from itertools import repeat

from gcorefs.elfcore.backing import USUAL, Kinds, Texts, begun
from gcorefs.elfcore.elf import PF_R, PF_W, PF_X
from gcorefs.elfcore.vm_bits import VmBits
from gcorefs.elfcore.vma import Kind, MapsError, Vma, VmFlag

_WORDS = 4  # struct row: start, end, vm_flags, anon_vma
_NO_ANON_VMA, _OWN_ANON_VMA, _SHARED_ANON_VMA = range(3)
ROW_SIZE = 8 * _WORDS
_VSYSCALL = b" [vsyscall]"
"""The page that every process shows last, and that belongs to none
(arch/x86/entry/vsyscall/vsyscall_64.c)."""
_MOST = 0.75
_LETTERS = ((PF_R, VmFlag.READ), (PF_W, VmFlag.WRITE), (PF_X, VmFlag.EXEC))

# By anon_vma: bytes of anonymous, swapped and shared pages, where that is known without a count,
# and whether there is an anon_vma.
_Counts = tuple[int | None, int | None, int | None, bool]
_COUNTS: dict[int, _Counts] = {
    _NO_ANON_VMA: (0, 0, 0, False),
    _OWN_ANON_VMA: (None, None, 0, True),
    _SHARED_ANON_VMA: (None, None, None, True),
}


class OtherMappings(MapsError):
    """The texts and the rows are not about the same mappings: the process runs, or they are of two
    processes."""


def rows_of(data: bytes) -> "array[int]":
    """The words of the rows that BPF has written.  MapsError."""
    if len(data) % ROW_SIZE:
        raise MapsError("half a row about a mapping")
    words = array("Q")
    words.frombytes(data)
    return words


def words_of(rows: "array[int]", vmas: Sequence[Vma]) -> list[tuple[int, VmFlag]]:
    """vm_flags of mappings of which all flags are known.  A few may have changed meanwhile.

    OtherMappings: most are not in the rows.
    """
    starts, ends, words = (rows[index::_WORDS] for index in range(3))
    found = dict(zip(zip(starts, ends, strict=True), words, strict=True))
    known = [((vma.start, vma.end), vma.vm_flags) for vma in vmas]
    pairs = [(found[ends], flags) for ends, flags in known if ends in found]
    if len(pairs) < len(vmas) * _MOST:
        raise OtherMappings("BPF shows the mappings of another process")
    return pairs


class Maps:
    """Reads a text of /proc/PID/maps that comes in pieces, cut at any place."""

    def __init__(self) -> None:
        self._borders = array("Q")  # start and end of each mapping
        self._texts: list[bytes] = []  # what stands behind the addresses
        self._cut = Texts().cut
        self._rest = b""

    def add(self, piece: bytes) -> None:
        """MapsError: the kernel does not write such a text."""
        *lines, rest = (self._rest + piece).split(b"\n")
        self._rest = begun(rest)
        if not lines:
            return
        parts = [line.partition(b" ") for line in lines]
        self._borders.extend(_borders([addresses for addresses, _, _ in parts]))
        texts = [backing for _, _, backing in parts]
        if max(map(len, texts)) > USUAL:
            texts = [*map(self._cut, texts)]
        self._texts += texts

    def with_rows(self, rows: "array[int]", bits: VmBits) -> list[Vma]:
        """Every mapping, in address order, when all pieces are there.  Rows that are too many do
        not matter.

        OtherMappings; UnknownBits: what a bit of vm_flags means is not known; MapsError.  The
        addresses are checked in that they are those of the rows.
        """
        borders, texts = self._borders, self._texts
        if self._rest:
            raise MapsError("half a line in maps")
        gate = []
        if texts and texts[-1].endswith(_VSYSCALL):
            gate = [_gate(borders[-2], borders[-1], texts.pop())]
            del borders[-2:]
        starts, ends = borders[::2], borders[1::2]
        rows = rows[: _WORDS * len(starts)]
        if (starts, ends) != (rows[::_WORDS], rows[1::_WORDS]):
            raise OtherMappings("maps and BPF show different mappings")
        columns = [rows[index::_WORDS].tolist() for index in range(_WORDS)]
        kinds = map(Kinds(bits.flags).__getitem__, zip(texts, columns[2], strict=True))
        counts = map(_COUNTS.__getitem__, columns[3])
        vmas = [
            Vma(start, end, kind, offset, anonymous, swapped, shared, has_anon_vma)
            for start, end, (kind, offset), (anonymous, swapped, shared, has_anon_vma) in zip(
                columns[0], columns[1], kinds, counts, strict=True
            )
        ]
        return vmas + gate


def _borders(addresses: Sequence[bytes]) -> Iterable[int]:
    """The numbers in texts like b"7f5c0-7f5c8".  MapsError."""
    text = b"-".join(addresses)
    count = 2 * len(addresses)
    try:
        # Nearly always each has 12 digits, and all are read at once.
        if len(text) == 13 * count - 1 and text[12::13] == b"-" * (count - 1):
            digits = b"0000" + text.replace(b"-", b"0000")
            numbers = array("Q", bytes.fromhex(digits.decode("ascii")))
            numbers.byteswap()  # all our machines are little-endian
        else:
            numbers = array("Q", map(int, text.split(b"-"), repeat(16)))
    except (ValueError, OverflowError) as error:
        raise MapsError("unexpected addresses in maps") from error
    if len(numbers) != count:
        raise MapsError("unexpected text in maps")
    return numbers


def _gate(start: int, end: int, text: bytes) -> Vma:
    """It has the flags of its permissions, and no others."""
    kind, offset = Kinds(_no_flags)[text, 0]
    found = VmFlag.NONE
    for bit, flag in _LETTERS:
        found |= flag if kind.flags & bit else VmFlag.NONE
    kind = Kind(kind.flags, kind.dev, kind.inode, kind.name, found)
    return Vma(start, end, kind, offset, *_COUNTS[_NO_ANON_VMA])


def _no_flags(_: int) -> VmFlag:
    return VmFlag.NONE
