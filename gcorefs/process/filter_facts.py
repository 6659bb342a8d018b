"""Facts about a mapping, beyond smaps, that the kernel's filter uses (elfcore/filter.py, Facts)."""

from collections.abc import Container
from dataclasses import dataclass

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.elf import notes_end
from gcorefs.elfcore.vma import Vma
from gcorefs.kernel.pagemap_scan import HUGE, PFNZERO
from gcorefs.kernel.statx import FileStat
from gcorefs.process.mapped_files import LostFiles, MappedFiles
from gcorefs.process.memory import Memory
from gcorefs.process.page_providers import MayWait, NotBrought
from gcorefs.process.pagemap import Pagemap

_ELF_MAGIC = b"\x7fELF"

_MOST_NOTES = 1 << 20
"""The most bytes of an ELF file's notes in the core: a program may claim any number."""


@dataclass(frozen=True, slots=True)
class MappingFacts:
    """The facts of mappings of one process."""

    memory: Memory
    pagemap: Pagemap
    files: MappedFiles
    lost: LostFiles
    stacks: Container[int]
    """The starts of the mappings into which a stack pointer points."""
    may_wait: bool = True
    """Files are asked also if their servers may not answer (bounded_questions.py)."""

    def _file(self, vma: Vma) -> FileStat | None:
        return self.files[vma] if self.may_wait else None

    def is_dax(self, vma: Vma) -> bool:
        file = self._file(vma)
        return file is not None and file.is_dax

    def is_unlinked(self, vma: Vma) -> bool:
        if (file := self._file(vma)) is not None:
            return file.links == 0
        return _is_marked_deleted(vma) or vma.name.startswith(b"[anon_shmem")

    def has_stack(self, vma: Vma) -> bool:
        return vma.start in self.stacks

    def is_lost(self, vma: Vma) -> bool:
        return vma in self.lost if self.may_wait else _is_marked_deleted(vma)

    def notes_end(self, vma: Vma) -> int:
        if not self.may_wait:
            return 0
        try:
            end = notes_end(self.memory.read_bytes(vma.start, PAGE_SIZE))
        except NotBrought:
            return 0
        return end if end <= _MOST_NOTES else 0

    def is_program(self, vma: Vma) -> bool:
        # This question comes first, and for executable files too: a page that cannot be read is
        # not put into the core.
        try:
            sources = None if self.may_wait else ()
            beginning = self.memory.read_bytes(vma.start, len(_ELF_MAGIC), sources)
        except (MayWait, NotBrought):
            self.memory.lose(vma.start)
            return False
        if beginning == _ELF_MAGIC:
            return True
        if vma.start in self.memory.unreadable_pages:
            return False
        file = self._file(vma)
        return file is not None and bool(file.mode & 0o111)

    def is_swapped_out(self, vma: Vma) -> bool:
        return self.pagemap.has_swapped_pages(vma.start, vma.end)

    def has_huge_zero_page(self, vma: Vma) -> bool:
        found = self.pagemap.scan(vma.start, vma.end, all_of=HUGE | PFNZERO)
        return found is not None and bool(found[0])


def _is_marked_deleted(vma: Vma) -> bool:
    return vma.name.endswith(b" (deleted)")
