"""What the filter has to know of a mapping beyond smaps (elfcore/filter.py, Facts)."""

from gcorefs.elfcore.vma import Vma
from gcorefs.process import procfs, syscalls
from gcorefs.process.absent import MayWait
from gcorefs.process.memory import Memory
from gcorefs.process.pagemap import HUGE, PFNZERO, SWAPPED, Pagemap

_ELF_MAGIC = b"\x7fELF"


class MappingFacts:
    """The facts of mappings, asked through the thread `tid`."""

    def __init__(self, tid: int, memory: Memory, pagemap: Pagemap, may_wait: bool) -> None:
        """`may_wait`: whether files may be asked, whose servers may not answer (patience.py)."""
        self._tid = tid
        self._memory = memory
        self._pagemap = pagemap
        self._may_wait = may_wait
        self._last: tuple[int, syscalls.FileStat | None] = -1, None

    def _file(self, vma: Vma) -> syscalls.FileStat | None:
        """Asked once, where several questions are about it."""
        if self._last[0] != vma.start:
            found = procfs.mapped_file(self._tid, vma.start, vma.end) if self._may_wait else None
            self._last = vma.start, found
        return self._last[1]

    def is_dax(self, vma: Vma) -> bool:
        file = self._file(vma)
        return file is not None and file.is_dax

    def is_unlinked(self, vma: Vma) -> bool:
        if (file := self._file(vma)) is not None:
            return file.links == 0
        return vma.name.endswith(b" (deleted)") or vma.name.startswith(b"[anon_shmem")

    def is_program(self, vma: Vma) -> bool:
        # Asked first, and of executable files too: whoever copies the core wants no page of
        # it that cannot be had.
        try:
            sources = None if self._may_wait else ()
            beginning = self._memory.read_bytes(vma.start, len(_ELF_MAGIC), sources)
        except MayWait:
            self._memory.lose(vma.start)
            return False
        if beginning == _ELF_MAGIC:
            return True
        file = self._file(vma)
        return file is not None and bool(file.mode & 0o111)

    def is_swapped_out(self, vma: Vma) -> bool:
        found = self._pagemap.scan(vma.start, vma.end, all_of=SWAPPED)
        return found is None or bool(found[0])

    def has_huge_zero_page(self, vma: Vma) -> bool:
        found = self._pagemap.scan(vma.start, vma.end, all_of=HUGE | PFNZERO)
        return found is not None and bool(found[0])
