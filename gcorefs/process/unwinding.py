"""What a debugger needs for a backtrace of every thread (memory=stacks), as ranges of addresses.

The live part of the stacks (stacks.py), what libc and the dynamic linker keep for debuggers
(dynamic_linker.py), data that differ from the program's file (written_data.py), and code that no
file holds (lost_code.py).  ELF headers and [vdso] come with
the rule itself (memory_rules.py); all else is in the files of the program.
"""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from gcorefs.arch.machine import Machine
from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.elf import CLASSES, page_up
from gcorefs.elfcore.selection import (
    MOST_OF_DATA,
    MOST_OF_LINKER,
    MOST_OF_LOST_CODE,
    Range,
    whole_pages,
)
from gcorefs.elfcore.vma import Vma
from gcorefs.process.dynamic_linker import libc_ranges, linker_ranges, loaded_program
from gcorefs.process.lost_code import CodeOnStacks, lost_code, unwind_tables
from gcorefs.process.mapped_files import FileKey, file_key
from gcorefs.process.memory import Memory
from gcorefs.process.peek import Peek
from gcorefs.process.referenced import referenced_ranges, words_on_stacks
from gcorefs.process.stacks import StackFinder, Stacks, ThreadOnStack, thread_areas
from gcorefs.process.written_data import written_data


@dataclass(frozen=True, slots=True)
class Unwinding:
    """The facts about a process by which its stacks are found."""

    machine: Machine
    leader: int
    threads: Sequence[ThreadOnStack]
    auxv: bytes
    vmas: Sequence[Vma]
    lost_files: Container[FileKey]
    """The files that no path leads to any more (mapped_files.py)."""

    def is_lost(self, vma: Vma) -> bool:
        return file_key(vma) in self.lost_files


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is taken, in bytes."""

    of_a_thread: int
    """The most of the stacks of one thread."""
    referenced: int
    """At each address in a register or on a stack; 0: none of it."""


def unwinding_ranges(found: Unwinding, memory: Memory, limits: Limits) -> Stacks:
    """EIO: the process was let go."""
    peek = Peek(memory, found.vmas, CLASSES[found.machine.word_size])
    known = [thread for thread in found.threads if thread.stack_pointer]
    stacks = StackFinder(found.machine, peek, found.leader, limits.of_a_thread).find(known)
    code = _code(lost_code(found.vmas, found.is_lost), peek, known, stacks.ranges)
    ranges = [
        *stacks.ranges,
        *thread_areas(found.machine, peek, known),
        *_bounded(_of_linker(found, peek), MOST_OF_LINKER),
        *_bounded(written_data(found.vmas, memory.ways.pagemap), MOST_OF_DATA),
        *_bounded(chain(_of_lost_files(found, peek), code), MOST_OF_LOST_CODE),
    ]
    if limits.referenced:
        ranges += referenced_ranges(peek, known, stacks.ranges, limits.referenced)
    return Stacks(whole_pages(ranges), stacks.cut)


def _of_linker(found: Unwinding, peek: Peek) -> Iterator[Range]:
    loaded = loaded_program(found.auxv, peek)
    yield from linker_ranges(loaded, peek)
    yield from libc_ranges(found.vmas, loaded, peek)


def _of_lost_files(found: Unwinding, peek: Peek) -> Iterator[Range]:
    for vma in found.vmas:
        if vma.has_file and vma.offset == 0 and not vma.kind.is_shared and found.is_lost(vma):
            yield from unwind_tables(vma, peek)


def _code(
    code: CodeOnStacks, peek: Peek, threads: Sequence[ThreadOnStack], stacks: Sequence[Range]
) -> Iterator[Range]:
    """The pages of code into which a register, or a word on a stack, points."""
    if not code:
        return
    pages = code.pages(register for thread in threads for register in thread.registers)
    for words in words_on_stacks(peek, stacks):
        if len(pages) * PAGE_SIZE > MOST_OF_LOST_CODE:
            break
        pages |= code.pages(words)
    for page in sorted(pages):
        yield page, page + PAGE_SIZE


def _bounded(ranges: Iterator[Range], left: int) -> Iterator[Range]:
    """The ranges of whose pages `left` bytes have room."""
    taken: set[int] = set()
    most = left
    for start, end in ranges:
        if left < PAGE_SIZE:  # what else there is would be looked for in vain
            return
        if end - start > most:  # a process may claim any size; there is no list of such a range
            continue
        pages = {*range(start // PAGE_SIZE, page_up(end) // PAGE_SIZE)} - taken
        if len(pages) * PAGE_SIZE <= left:
            left -= len(pages) * PAGE_SIZE
            taken |= pages
            yield start, end
