"""The mappings of a process from two sources that each know a part: /proc/PID/maps, and a row of
BPF for each mapping (sources/bpf/mappings.bpf.c).

Neither walks a page table.  maps has the files and the names; a row has vm_flags, and whether the
kernel has prepared the mapping for pages that the process writes (vma->anon_vma).
"""

from array import array
from collections.abc import Sequence
from itertools import repeat

from gcorefs.elfcore.backing import USUAL, Kinds, Texts, begun
from gcorefs.elfcore.columns import Column
from gcorefs.elfcore.elf import PF_R, PF_W, PF_X
from gcorefs.elfcore.vm_bits import VmBits
from gcorefs.elfcore.vma import Kind, MapsError, Pages, Vma, VmFlag

_WORDS = 4  # struct row: start, end, vm_flags, anon_vma
_NO_ANON_VMA, _OWN_ANON_VMA, _SHARED_ANON_VMA = range(3)
ROW_SIZE = 8 * _WORDS
_OF_THE_KERNEL = 1 << 63
"""No mapping of a process begins at this address or behind it.  But maps may end with [vsyscall], a
page of the kernel (arch/x86/entry/vsyscall/vsyscall_64.c)."""
_MOST = 0.75
_LETTERS = ((PF_R, VmFlag.READ), (PF_W, VmFlag.WRITE), (PF_X, VmFlag.EXEC))

_PAGES = {
    _NO_ANON_VMA: Pages(0, 0, 0, has_anon_vma=False),
    _OWN_ANON_VMA: Pages(None, None, 0, has_anon_vma=True),
    _SHARED_ANON_VMA: Pages(None, None, None, has_anon_vma=True),
}
"""By anon_vma: what is known without a count."""


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
    """Reads a text of /proc/PID/maps that comes in pieces, cut at any place, with the rows of the
    same mappings."""

    def __init__(self, bits: VmBits) -> None:
        self._vmas: list[Vma] = []
        self._kinds = Kinds(bits.flags)
        self._cut = Texts().cut
        self._rest = b""

    def add(self, piece: bytes, rows: Column) -> None:
        """`rows`: those of the lines that end in the piece.  Rows that are too many do not matter.

        OtherMappings; UnknownBits: what a bit of vm_flags means is not known; MapsError: the kernel
        does not write such a text.  The addresses are checked in that they are those of the rows.
        """
        *lines, rest = (self._rest + piece).split(b"\n")
        self._rest = begun(rest)
        if not lines:
            return
        parts = [line.partition(b" ") for line in lines]
        borders = _borders([addresses for addresses, _, _ in parts])
        texts = [backing for _, _, backing in parts]
        if max(map(len, texts)) > USUAL:
            texts = [*map(self._cut, texts)]
        gate = []
        if borders[-2] >= _OF_THE_KERNEL:
            gate = [_gate(borders[-2], borders[-1], texts.pop())]
            del borders[-2:]
        starts, ends = borders[::2], borders[1::2]
        rows = rows[: _WORDS * len(starts)]
        if (starts, ends) != (rows[::_WORDS], rows[1::_WORDS]):
            raise OtherMappings("maps and BPF show different mappings")
        kinds = map(self._kinds.__getitem__, zip(texts, rows[2::_WORDS], strict=True))
        pages = map(_PAGES.__getitem__, rows[3::_WORDS])
        self._vmas += [
            Vma(start, end, kind, offset, own)
            for start, end, (kind, offset), own in zip(starts, ends, kinds, pages, strict=True)
        ]
        self._vmas += gate

    def vmas(self) -> list[Vma]:
        """Every mapping, in address order, when all pieces are there.  MapsError."""
        if self._rest:
            raise MapsError("half a line in maps")
        return self._vmas


def _borders(addresses: Sequence[bytes]) -> Column:
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
    return Vma(start, end, kind, offset, _PAGES[_NO_ANON_VMA])


def _no_flags(_: int) -> VmFlag:
    return VmFlag.NONE
