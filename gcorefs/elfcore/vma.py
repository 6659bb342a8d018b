"""A mapping of a process, and what the kernel says of it.  smaps.py reads the text."""

import enum
from dataclasses import dataclass, field

from gcorefs.errors import GcorefsError

HUGE_PAGES = b"/anon_hugepage (deleted)"
"""The file of an anonymous mapping of huge pages (fs/hugetlbfs/inode.c, hugetlb_file_setup)."""


VDSO = b"[vdso]"


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


class MapsError(GcorefsError, ValueError):
    """The kernel does not write this text about mappings.  We refuse all of it and never guess."""


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
    is_private_file: bool = field(init=False)
    """Its bytes come from pages of a file, and a write reaches nobody else.  False for memory of a
    device, and for a shared mapping that can only be read (VM_MAYSHARE without VM_SHARED)."""
    is_supplied: bool = field(init=False)
    """A handler of userfaultfd(2) supplies missing pages."""
    is_watched: bool = field(init=False)
    """The same, or it hears of writes."""
    # Every mapping is asked for these flags.  They are attributes because `in` and `&` of enum.Flag
    # take ten times as long.
    hides_sharing: bool = field(init=False)
    """Its private pages may be shared although smaps counts none as shared: hugetlbfs pages, and
    pages that KSM has merged or is about to merge (madvise(2), MADV_MERGEABLE)."""

    def __post_init__(self) -> None:
        self.has_file = self.inode != 0 or self.name[:1] == b"/"
        self.is_special = not self.has_file and is_special_name(self.name)
        bits = self.vm_flags.value  # a process may have as many kinds as files
        self.is_plain = not (self.has_file or self.is_special or bits & _NOT_PLAIN)
        self.is_private_file = self.has_file and not bits & _NOT_PRIVATE_FILE
        self.is_supplied = bool(bits & _SUPPLIED)
        self.is_watched = bool(bits & _WATCHED)
        self.is_shared = bool(bits & _SHARED)
        self.is_hugetlb = bool(bits & _HUGETLB)
        self.is_io = bool(bits & _IO)
        self.is_dontdump = bool(bits & _DONTDUMP)
        self.is_mergeable = bool(bits & _MERGEABLE)
        self.has_guards = bool(bits & _GUARDED)
        is_private_hugetlb = self.is_hugetlb and not bits & _MAYSHARE
        self.hides_sharing = self.is_mergeable or is_private_hugetlb


_SHARED, _MAYSHARE, _HUGETLB = (
    VmFlag.SHARED.value, VmFlag.MAYSHARE.value, VmFlag.HUGETLB.value
)  # fmt: skip
_IO, _DONTDUMP, _MERGEABLE, _GUARDED = (
    VmFlag.IO.value, VmFlag.DONTDUMP.value, VmFlag.MERGEABLE.value, VmFlag.GUARDED.value
)  # fmt: skip
_SUPPLIED = (VmFlag.UFFD_MISSING | VmFlag.UFFD_MINOR).value
_WATCHED = _SUPPLIED | VmFlag.UFFD_WP.value
_NOT_PRIVATE_FILE = (
    VmFlag.SHARED | VmFlag.MAYSHARE | VmFlag.HUGETLB
    | VmFlag.IO | VmFlag.PFNMAP | VmFlag.MIXEDMAP
).value  # fmt: skip
_NOT_PLAIN = _NOT_PRIVATE_FILE | _DONTDUMP | _GUARDED | _WATCHED


@dataclass(slots=True, unsafe_hash=True)
class Pages:
    """What is known of the pages of a mapping, in bytes.  Many mappings share one of these.  Treat
    it as immutable."""

    anonymous: int | None
    """Anonymous pages: private memory that the process wrote, not pages of the file.

    None here and below: nobody has counted.  smaps counts, and walks all page tables for that.
    """
    swapped: int | None
    shared: int | None = 0
    """Pages that another process maps too, pages of files included, and roughly the swapped-out
    bytes that are shared (Swap less SwapPss).  hugetlbfs pages are not counted
    (fs/proc/task_mmu.c, smaps_account)."""
    has_anon_vma: bool | None = None
    """vma->anon_vma is set: for the kernel, the process has written to it.  None: not known."""
    populated: int = field(init=False)
    """So much is populated; more may be if nobody has counted."""
    is_written: bool = field(init=False)
    """The process has written to it, as far as its source shows.  hugetlbfs pages are counted
    nowhere."""

    may_be_copied: bool = field(init=False)
    """Another process may map some of its private pages."""

    def __post_init__(self) -> None:
        self.populated = (self.anonymous or 0) + (self.swapped or 0)
        self.is_written = self.has_anon_vma or bool(self.has_anon_vma is None and self.populated)
        has_private = self.anonymous != 0 or self.swapped != 0
        self.may_be_copied = self.shared != 0 and has_private


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
    pages: Pages

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def is_written(self) -> bool:
        return self.pages.is_written

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
