"""The mappings of a process, from /proc/PID/smaps (proc(5); fs/proc/task_mmu.c, show_smap)."""

import re
from collections.abc import Iterable
from functools import lru_cache

from gcorefs.elfcore.backing import ADDRESSES, Kinds, Texts, begun
from gcorefs.elfcore.vma import MapsError, Pages, Vma, VmFlag

# fs/proc/task_mmu.c, show_smap_vma_flags.
_LETTERS = {
    "rd": VmFlag.READ, "wr": VmFlag.WRITE, "ex": VmFlag.EXEC, "sh": VmFlag.SHARED,
    "mr": VmFlag.MAYREAD, "mw": VmFlag.MAYWRITE, "me": VmFlag.MAYEXEC, "ms": VmFlag.MAYSHARE,
    "gd": VmFlag.GROWSDOWN, "pf": VmFlag.PFNMAP, "lo": VmFlag.LOCKED, "io": VmFlag.IO,
    "sr": VmFlag.SEQ_READ, "rr": VmFlag.RAND_READ, "dc": VmFlag.DONTCOPY, "de": VmFlag.DONTEXPAND,
    "ac": VmFlag.ACCOUNT, "nr": VmFlag.NORESERVE, "ht": VmFlag.HUGETLB, "sf": VmFlag.SYNC,
    "ar": VmFlag.ARCH_1, "wf": VmFlag.WIPEONFORK, "dd": VmFlag.DONTDUMP, "sd": VmFlag.SOFTDIRTY,
    "mm": VmFlag.MIXEDMAP, "hg": VmFlag.HUGEPAGE, "nh": VmFlag.NOHUGEPAGE, "mg": VmFlag.MERGEABLE,
    "um": VmFlag.UFFD_MISSING, "uw": VmFlag.UFFD_WP, "ui": VmFlag.UFFD_MINOR,
    "ss": VmFlag.SHADOW_STACK, "sl": VmFlag.SEALED, "dp": VmFlag.DROPPABLE, "gu": VmFlag.GUARDED,
}  # fmt: skip


def vm_flags(letters: Iterable[str]) -> VmFlag:
    """The flags of a VmFlags line."""
    found = VmFlag.NONE
    for each in letters:
        found |= _LETTERS.get(each, VmFlag.NONE)
    return found


def _flags(letters: bytes) -> VmFlag:
    return vm_flags(letters.decode("ascii").split())


_SHARED = rb"Shared_Clean: +\d{1,20} kB\nShared_Dirty: +\d{1,20} kB\n"
_ANONYMOUS = rb"Anonymous: +(\d{1,20}) kB\n"
_SWAP = rb"Swap: +\d{1,20} kB\nSwapPss: +\d{1,20} kB\n"
_FLAGS = rb"VmFlags:([a-z0-9? ]*+)\n"

# One mapping: its line as in maps, then "Key: value" lines.  The keys depend on the kernel version
# (KSM, ProtectionKey).  So the pattern names only the keys that we need; their order is fixed.
_ENTRY = re.compile(
    ADDRESSES + rb"([^\n]*+)\n"
    rb"(?:(?!Shared_Clean:)[A-Z][^\n:]*:[^\n]*\n)*?"
    rb"("
    + _SHARED
    + rb")"
    + rb"(?:(?!Anonymous:)[A-Z][^\n:]*:[^\n]*\n)*?"
    + _ANONYMOUS
    + rb"(?:(?!Swap:)[A-Z][^\n:]*:[^\n]*\n)*?"
    rb"(" + _SWAP + rb")"
    rb"(?:(?!VmFlags:)[A-Z][^\n:]*:[^\n]*\n)*?" + _FLAGS
)

_NONE_YET = re.compile(rb"(?!)")


@lru_cache(maxsize=8)
def _entry_with(lines: tuple[tuple[bytes, int], ...]) -> re.Pattern[bytes]:
    """A pattern for entries with lines of these keys and lengths before VmFlags.  It matches as
    _ENTRY does, in a sixth of the time.

    A number has eight columns (fs/proc/task_mmu.c, SEQ_PUT_DEC).  So the pattern checks only the
    first letter and the length of a line that we do not need.
    """
    parts = [rb"%c(?s:.{%d})\n" % (key[0], length - 2) for key, length in lines]
    keys = [key for key, _ in lines]
    shared = keys.index(b"Shared_Clean")
    anonymous = keys.index(b"Anonymous", shared)
    swap = keys.index(b"Swap", anonymous)
    # The pattern does not check the two lines of a pair: _Known checks each new text.
    for first in (shared, swap):
        parts[first : first + 2] = [b"(" + parts[first], parts[first + 1] + b")"]
    parts[anonymous] = _ANONYMOUS
    return re.compile(ADDRESSES + rb"([^\n]*+)\n" + b"".join(parts) + _FLAGS)


def _lines(entry: bytes) -> tuple[tuple[bytes, int], ...]:
    """Key and length of each line between the line of the addresses and VmFlags."""
    _, *lines, _, _ = entry.split(b"\n")
    return tuple((line[: line.index(b":")], len(line) + 1) for line in lines)


def parse_smaps(text: bytes) -> list[Vma]:
    """Every mapping of a process, in address order.

    Raises MapsError if the text is not whole entries in ascending order.
    """
    return parse_pieces((text,))


def parse_pieces(pieces: Iterable[bytes]) -> list[Vma]:
    """Like parse_smaps, for a text that is cut into pieces at any place."""
    parser = _Parser()
    rest = b""
    for piece in pieces:
        text = rest + piece
        # No other line begins with VmFlags.  The search from the end is short.
        last = text.rfind(b"\nVmFlags:") + 1
        end = text.find(b"\n", last) + 1 if last else 0
        parser.add(text[:end])
        rest = begun(text[end:])
    parser.add(rest)
    return parser.vmas


class _Known(dict[tuple[bytes, bytes, bytes], Pages]):
    """Pages by what smaps says of them: two lines about shared pages, the number of kB that are
    anonymous, two lines about swapped pages."""

    def __missing__(self, texts: tuple[bytes, bytes, bytes]) -> Pages:
        shared, anonymous, swap = texts
        clean, dirty = _pair(_SHARED_LINES, shared)
        swapped, own = _pair(_SWAP_LINES, swap)
        pages = Pages(int(anonymous) * 1024, swapped, clean + dirty + swapped - own)
        self[texts] = pages
        return pages


def _pair(lines: re.Pattern[bytes], text: bytes) -> tuple[int, int]:
    """The sizes in a text of two lines, in bytes."""
    if lines.fullmatch(text) is None:
        raise MapsError("unexpected text about the pages of a mapping in smaps")
    first, second = map(int, _NUMBER.findall(text))
    return first * 1024, second * 1024


_SHARED_LINES, _SWAP_LINES = re.compile(_SHARED), re.compile(_SWAP)
_NUMBER = re.compile(rb"\d+")


class _Parser:
    def __init__(self) -> None:
        self.vmas: list[Vma] = []
        self._border = 0
        self._entry = _NONE_YET
        self._kinds = Kinds(_flags)
        self._texts = Texts()
        self._pages = _Known()

    def add(self, text: bytes) -> None:
        """Add the mappings of whole entries."""
        vmas, kinds, pages, cut = self.vmas, self._kinds, self._pages, self._texts.cut
        position = 0
        while position < len(text):
            match = self._entry.match(text, position) or self._other_entry(text, position)
            position = match.end()
            start_, end_, backing, shared, anonymous, swap, words = match.groups()
            start, end = int(start_, 16), int(end_, 16)
            if not self._border <= start < end or (start | end) & 0xFFF:
                raise MapsError(f"mapping {start:#x}-{end:#x} is out of order")
            self._border = end
            kind, offset = kinds[cut(backing), words]
            vmas.append(Vma(start, end, kind, offset, pages[shared, anonymous, swap]))

    def _other_entry(self, text: bytes, position: int) -> re.Match[bytes]:
        """Match an entry whose lines differ from the last: the first, or a mapping of 100 GB."""
        match = _ENTRY.match(text, position)
        if match is None:
            after = f"behind {self._border:#x}" if self.vmas else "at the beginning"
            raise MapsError(f"unexpected text in smaps, {after}")
        self._entry = _entry_with(_lines(match[0]))
        return match
