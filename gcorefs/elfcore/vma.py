"""What /proc/PID/smaps says of each mapping (proc(5), fs/proc/task_mmu.c: show_smap)."""

import re
from dataclasses import dataclass

from gcorefs.elfcore.elf import PF_R, PF_W, PF_X


class MapsError(ValueError):
    """The text is not one that show_smap writes: refused whole, never guessed at."""


@dataclass(slots=True, unsafe_hash=True)
class Vma:
    """One mapping.  Addresses, offsets and sizes in bytes.

    Nobody changes it.  It is not frozen, for that would double the time to make 100,000.
    """

    start: int
    end: int
    flags: int
    """PF_R, PF_W and PF_X, as the program header wants them."""
    offset: int
    """Of `start` in the mapped file."""
    dev: str
    inode: int
    name: bytes
    """Path as /proc/PID/maps shows it (a newline in it reads \\012), or [heap] and the like."""
    anonymous: int
    """Bytes of private memory that the process has made its own (written, not the file's)."""
    swapped: int
    vm_flags: frozenset[str]
    """The two-letter VmFlags of proc(5): sh dd io ht ..."""

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def has_file(self) -> bool:
        """True where vma->vm_file is set.

        The name does not tell: shared anonymous memory named by PR_SET_VMA_ANON_NAME shows
        [anon_shmem:...] and yet has a file behind it, with an inode.
        """
        return self.inode != 0 or self.name[:1] == b"/"

    @property
    def is_special(self) -> bool:
        """One of the kernel's own mappings: [vdso], [vvar], [vsyscall], [uprobes] ..."""
        return (
            self.name[:1] == b"["  # first: most mappings of a process of 100,000 have no name
            and not self.has_file
            and self.name not in (b"[heap]", b"[stack]")
            and not self.name.startswith(b"[anon")
        )


_PERMS = {r + w + x: r_ | w_ | x_
            for r, r_ in (("r", PF_R), ("-", 0))
            for w, w_ in (("w", PF_W), ("-", 0))
            for x, x_ in (("x", PF_X), ("-", 0))}  # fmt: skip

# One mapping: its line as in maps, then "Key: value" lines.  Keys come and go with kernel
# versions (KSM, ProtectionKey), so only those that we need are named; their order is fixed.
_ENTRY = re.compile(
    rb"([0-9a-f]{1,16})-([0-9a-f]{1,16}) ([r-][w-][x-])[ps] ([0-9a-f]{1,16}) "
    rb"([0-9a-f]+:[0-9a-f]+) (\d{1,20}) *+([^\n]*+)\n"
    rb"(?:(?!Anonymous:)[A-Z][^\n:]*:[^\n]*\n)*?"
    rb"Anonymous: +(\d{1,20}) kB\n"
    rb"(?:(?!Swap:)[A-Z][^\n:]*:[^\n]*\n)*?"
    rb"Swap: +(\d{1,20}) kB\n"
    rb"(?:(?!VmFlags:)[A-Z][^\n:]*:[^\n]*\n)*?"
    rb"VmFlags:([a-z0-9? ]*)\n"
)


def parse_smaps(text: bytes) -> list[Vma]:
    """Every mapping of a process, in address order.

    Raises MapsError on anything that is not whole entries, each above the one before it.
    """
    vmas: list[Vma] = []
    known_flags: dict[bytes, frozenset[str]] = {}
    position = 0
    border = 0
    while position < len(text):
        match = _ENTRY.match(text, position)
        if match is None:
            raise MapsError(f"unexpected text at byte {position} of smaps")
        position = match.end()
        start_, end_, perms, offset, dev, inode, name, anonymous, swapped, words = match.groups()
        start, end = int(start_, 16), int(end_, 16)
        if not border <= start < end or (start | end) & 0xFFF:
            raise MapsError(f"mapping {start:#x}-{end:#x} is out of order")
        border = end
        # A process has few distinct sets of flags and may have 100,000 mappings.
        vm_flags = known_flags.get(words)
        if vm_flags is None:
            vm_flags = known_flags[words] = frozenset(words.decode("ascii").split())
        vmas.append(
            Vma(
                start,
                end,
                _PERMS[perms.decode("ascii")],
                int(offset, 16),
                dev.decode("ascii"),
                int(inode),
                name,
                int(anonymous) * 1024,
                int(swapped) * 1024,
                vm_flags,
            )
        )
    return vmas
