"""Code that no file holds any more, as far as it takes part in the stacks: that of programs and
libraries that were replaced, and what a process has compiled itself (a JIT).

A reader that does not find the file of a library unwinds by its .eh_frame and names functions by
its dynamic symbols, both from the core.  Without either it looks at the instructions around each
return address (gdb: amd64-tdep.c).
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore import program
from gcorefs.elfcore.elf import PF_X
from gcorefs.elfcore.selection import Range
from gcorefs.elfcore.vma import Vma
from gcorefs.process.dynamic_linker import dynamic_section
from gcorefs.process.peek import Peek

LARGEST = 8 << 20
"""The most bytes of tables that are taken of one module."""


def is_code(vma: Vma) -> bool:
    return bool(vma.flags & PF_X) and not (vma.kind.is_shared or vma.is_special)


def unwind_tables(header: Vma, peek: Peek) -> Iterator[Range]:
    """Of a module whose ELF header is at the beginning of `header`: .eh_frame_hdr, .eh_frame, the
    dynamic section and what it names."""
    module = program.module_at(header.start, peek.read(header.start, PAGE_SIZE))
    if module is None:
        return
    for start, _ in module.ranges(program.PT_GNU_EH_FRAME):
        # .eh_frame follows, in the same PT_LOAD (binutils: ld's default script).
        _, end = module.load_around(start)
        yield start, min(end, start + LARGEST)
    for start, end in module.ranges(program.PT_DYNAMIC):
        yield start, end
        found = program.values(dynamic_section(start, peek), peek.form)
        strings = found.get(program.DT_STRTAB, 0)
        if strings < module.bias:  # the dynamic linker has not relocated it
            strings += module.bias
        # From the ELF header on: the hash tables and the symbols, then the strings.
        last = strings + found.get(program.DT_STRSZ, 0)
        yield header.start, min(max(last, header.start), header.start + LARGEST)


class CodeOnStacks:
    """The pages of code that addresses point into."""

    def __init__(self, code: Sequence[Vma]) -> None:
        """`code`: the mappings of it that no file holds, in order."""
        self._starts = [vma.start for vma in code]
        self._ends = [vma.end for vma in code]

    def __bool__(self) -> bool:
        return bool(self._starts)

    def pages(self, addresses: Iterable[int]) -> set[int]:
        low, high = self._starts[0], self._ends[-1]
        found = {address // PAGE_SIZE for address in addresses if low <= address < high}
        return {page * PAGE_SIZE for page in found if self._has(page * PAGE_SIZE)}

    def _has(self, address: int) -> bool:
        index = bisect_right(self._starts, address) - 1
        return index >= 0 and address < self._ends[index]


def lost_code(vmas: Sequence[Vma], is_lost: Callable[[Vma], bool]) -> CodeOnStacks:
    return CodeOnStacks(
        [vma for vma in vmas if is_code(vma) and (not vma.has_file or is_lost(vma))]
    )
