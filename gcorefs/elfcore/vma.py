"""The mappings of a process, from /proc/PID/smaps (proc(5); fs/proc/task_mmu.c, show_smap)."""

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from gcorefs.elfcore.elf import PF_R, PF_W, PF_X
from gcorefs.errors import GcorefsError

HUGE_PAGES = b"/anon_hugepage (deleted)"
"""The file of an anonymous mapping of huge pages (fs/hugetlbfs/inode.c, hugetlb_file_setup)."""


def is_special_name(name: bytes) -> bool:
    """True if a mapping without a file, with this name in maps, is one of the kernel's own."""
    return (
        name[:1] == b"[" and name not in (b"[heap]", b"[stack]") and not name.startswith(b"[anon")
    )


class VmFlag(enum.Flag):
    """vm_flags of a mapping, by the names of include/linux/mm.h without VM_.

    A flag that is not here does not matter to a core.
    """

    NONE = 0
    READ = enum.auto()
    WRITE = enum.auto()
    EXEC = enum.auto()
    SHARED = enum.auto()
    """A write reaches all mappings of the file."""
    MAYREAD = enum.auto()
    MAYWRITE = enum.auto()
    MAYEXEC = enum.auto()
    MAYSHARE = enum.auto()
    """Mapped with MAP_SHARED, even if the file was opened only for reading."""
    GROWSDOWN = enum.auto()
    PFNMAP = enum.auto()
    LOCKED = enum.auto()
    IO = enum.auto()
    SEQ_READ = enum.auto()
    RAND_READ = enum.auto()
    DONTCOPY = enum.auto()
    DONTEXPAND = enum.auto()
    ACCOUNT = enum.auto()
    NORESERVE = enum.auto()
    HUGETLB = enum.auto()
    SYNC = enum.auto()
    ARCH_1 = enum.auto()
    WIPEONFORK = enum.auto()
    DONTDUMP = enum.auto()
    SOFTDIRTY = enum.auto()
    MIXEDMAP = enum.auto()
    HUGEPAGE = enum.auto()
    NOHUGEPAGE = enum.auto()
    MERGEABLE = enum.auto()
    UFFD_MISSING = enum.auto()
    UFFD_WP = enum.auto()
    UFFD_MINOR = enum.auto()
    SHADOW_STACK = enum.auto()
    SEALED = enum.auto()
    DROPPABLE = enum.auto()
    GUARDED = enum.auto()
    """The mapping has or had guard pages (VM_MAYBE_GUARD)."""


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


class MapsError(GcorefsError, ValueError):
    """show_smap does not write this text.  We refuse all of it and never guess."""


@dataclass(slots=True, unsafe_hash=True)
class Kind:
    """All properties of a mapping but its addresses, its file offset and its page counts: a
    process of 100,000 mappings has few kinds.  Treat it as immutable.
    """

    flags: int
    """PF_R, PF_W and PF_X, as in p_flags of a program header."""
    dev: str
    inode: int
    name: bytes
    """The path as /proc/PID/maps shows it (\\012 for a newline), or a name like [heap]."""
    vm_flags: VmFlag
    has_file: bool = field(init=False)
    """True if vma->vm_file is set.

    The name does not tell: shared anonymous memory named by PR_SET_VMA_ANON_NAME shows
    [anon_shmem:...], although it has a file with an inode.
    """
    is_special: bool = field(init=False)
    """One of the kernel's own mappings: [vdso], [vvar], [vsyscall], [uprobes] ..."""
    is_plain: bool = field(init=False)
    """Private memory without a file and without a flag of _NOT_PLAIN: only its addresses and its
    written pages matter to the filter."""
    is_shared: bool = field(init=False)
    is_hugetlb: bool = field(init=False)
    is_io: bool = field(init=False)
    is_dontdump: bool = field(init=False)
    is_mergeable: bool = field(init=False)
    has_guards: bool = field(init=False)
    # Every mapping is asked for these flags.  They are attributes because `in` of enum.Flag takes
    # ten times as long.
    hides_sharing: bool = field(init=False)
    """Its private pages may be shared although smaps counts none as shared: hugetlbfs pages, and
    pages that KSM has merged or is about to merge (madvise(2), MADV_MERGEABLE)."""

    def __post_init__(self) -> None:
        self.has_file = self.inode != 0 or self.name[:1] == b"/"
        self.is_special = not self.has_file and is_special_name(self.name)
        self.is_plain = not (self.has_file or self.is_special or self.vm_flags & _NOT_PLAIN)
        self.is_shared = VmFlag.SHARED in self.vm_flags
        self.is_hugetlb = VmFlag.HUGETLB in self.vm_flags
        self.is_io = VmFlag.IO in self.vm_flags
        self.is_dontdump = VmFlag.DONTDUMP in self.vm_flags
        self.is_mergeable = VmFlag.MERGEABLE in self.vm_flags
        self.has_guards = VmFlag.GUARDED in self.vm_flags
        is_private_hugetlb = self.is_hugetlb and VmFlag.MAYSHARE not in self.vm_flags
        self.hides_sharing = self.is_mergeable or is_private_hugetlb


_NOT_PLAIN = (
    VmFlag.SHARED | VmFlag.MAYSHARE | VmFlag.HUGETLB
    | VmFlag.IO | VmFlag.PFNMAP | VmFlag.MIXEDMAP
    | VmFlag.DONTDUMP | VmFlag.GUARDED
    | VmFlag.UFFD_MISSING | VmFlag.UFFD_MINOR | VmFlag.UFFD_WP
)  # fmt: skip


@dataclass(slots=True, unsafe_hash=True)
class Vma:
    """One mapping.  Addresses, file offsets and sizes are in bytes.

    Treat it as immutable.  It is not frozen because that doubles the time to make 100,000.
    """

    start: int
    end: int
    kind: Kind
    offset: int
    """The file offset of `start`."""
    anonymous: int
    """Bytes of anonymous pages: private memory that the process wrote, not pages of the file."""
    swapped: int
    shared: int = 0
    """Bytes of pages that another process maps too, pages of files included, and roughly the
    swapped-out bytes that are shared (Swap less SwapPss).  hugetlbfs pages are not counted
    (fs/proc/task_mmu.c, smaps_account)."""

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def flags(self) -> int:
        return self.kind.flags

    @property
    def dev(self) -> str:
        return self.kind.dev

    @property
    def inode(self) -> int:
        return self.kind.inode

    @property
    def name(self) -> bytes:
        return self.kind.name

    @property
    def vm_flags(self) -> VmFlag:
        return self.kind.vm_flags

    @property
    def has_file(self) -> bool:
        return self.kind.has_file

    @property
    def is_special(self) -> bool:
        return self.kind.is_special


_PERMS = {(r + w + x).encode(): r_ | w_ | x_
            for r, r_ in (("r", PF_R), ("-", 0))
            for w, w_ in (("w", PF_W), ("-", 0))
            for x, x_ in (("x", PF_X), ("-", 0))}  # fmt: skip

_ADDRESSES = rb"([0-9a-f]{1,16})-([0-9a-f]{1,16}) "
_SHARED = rb"Shared_Clean: +\d{1,20} kB\nShared_Dirty: +\d{1,20} kB\n"
_ANONYMOUS = rb"Anonymous: +(\d{1,20}) kB\n"
_SWAP = rb"Swap: +\d{1,20} kB\nSwapPss: +\d{1,20} kB\n"
_FLAGS = rb"VmFlags:([a-z0-9? ]*+)\n"

# One mapping: its line as in maps, then "Key: value" lines.  The keys depend on the kernel version
# (KSM, ProtectionKey).  So the pattern names only the keys that we need; their order is fixed.
_ENTRY = re.compile(
    _ADDRESSES + rb"([^\n]*+)\n"
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

# The rest of the first line, behind the addresses.
_BACKING = re.compile(
    rb"([r-][w-][x-])[ps] ([0-9a-f]{1,16}) ([0-9a-f]+:[0-9a-f]+) (\d{1,20}) *+([^\n]*+)"
)


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
    # The pattern does not check the two lines of a pair: _Pairs checks each new text.
    for first in (shared, swap):
        parts[first : first + 2] = [b"(" + parts[first], parts[first + 1] + b")"]
    parts[anonymous] = _ANONYMOUS
    return re.compile(_ADDRESSES + rb"([^\n]*+)\n" + b"".join(parts) + _FLAGS)


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
        rest = text[end:]
    parser.add(rest)
    return parser.vmas


class _Sizes(dict[bytes, int]):
    """Bytes of a size that smaps gives in kB.  Equal texts share one number."""

    def __missing__(self, text: bytes) -> int:
        size = self[text] = int(text) * 1024
        return size


class _Pairs(dict[bytes, tuple[int, int]]):
    """The sizes in a text of two lines, in bytes."""

    def __init__(self, lines: bytes) -> None:
        self._lines = re.compile(lines)

    def __missing__(self, text: bytes) -> tuple[int, int]:
        if self._lines.fullmatch(text) is None:
            raise MapsError("unexpected text about the pages of a mapping in smaps")
        first, second = map(int, _NUMBER.findall(text))
        pair = self[text] = first * 1024, second * 1024
        return pair


_NUMBER = re.compile(rb"\d+")


class _Kinds(dict[tuple[bytes, bytes], tuple[Kind, int]]):
    """Kind and file offset by the texts behind the addresses and behind VmFlags."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[bytes, ...], Kind] = {}  # without the file offset

    def __missing__(self, texts: tuple[bytes, bytes]) -> tuple[Kind, int]:
        match = _BACKING.fullmatch(texts[0])
        if match is None:
            raise MapsError("unexpected text behind the addresses of a mapping in smaps")
        perms, offset, dev, inode, name = match.groups()
        key = perms, dev, inode, name, texts[1]
        kind = self._kinds.get(key)
        if kind is None:
            flags = vm_flags(texts[1].decode("ascii").split())
            kind = Kind(_PERMS[perms], dev.decode("ascii"), int(inode), name, flags)
            self._kinds[key] = kind
        found = self[texts] = kind, int(offset, 16)
        return found


class _Parser:
    def __init__(self) -> None:
        self.vmas: list[Vma] = []
        self._border = 0
        self._entry = _NONE_YET
        self._kinds = _Kinds()
        self._sizes = _Sizes()
        self._shared = _Pairs(_SHARED)
        self._swap = _Pairs(_SWAP)

    def add(self, text: bytes) -> None:
        """Add the mappings of whole entries."""
        vmas, kinds = self.vmas, self._kinds
        sizes, shared, swap = self._sizes, self._shared, self._swap
        position = 0
        while position < len(text):
            match = self._entry.match(text, position) or self._other_entry(text, position)
            position = match.end()
            start_, end_, backing, shared_, anonymous, swap_, words = match.groups()
            start, end = int(start_, 16), int(end_, 16)
            if not self._border <= start < end or (start | end) & 0xFFF:
                raise MapsError(f"mapping {start:#x}-{end:#x} is out of order")
            self._border = end
            kind, offset = kinds[backing, words]
            clean, dirty = shared[shared_]
            swapped, own = swap[swap_]
            also = clean + dirty + swapped - own
            vmas.append(Vma(start, end, kind, offset, sizes[anonymous], swapped, also))

    def _other_entry(self, text: bytes, position: int) -> re.Match[bytes]:
        """Match an entry whose lines differ from the last: the first, or a mapping of 100 GB."""
        match = _ENTRY.match(text, position)
        if match is None:
            after = f"behind {self._border:#x}" if self.vmas else "at the beginning"
            raise MapsError(f"unexpected text in smaps, {after}")
        self._entry = _entry_with(_lines(match[0]))
        return match
