"""Kinds of mappings, by which memory= takes them: memory=heap+stack, memory=stacks+jit.

Every mapping has one kind, so that what one kind takes no other one takes.
"""

import enum

from gcorefs.elfcore import filter as rules
from gcorefs.elfcore.elf import PF_X
from gcorefs.elfcore.filter import Facts
from gcorefs.elfcore.vma import Vma, VmFlag


class MemoryKind(enum.Enum):
    """The values are the words of memory=."""

    STACK = "stack"
    """[stack], and each mapping into which the stack pointer of a thread points."""
    HEAP = "heap"
    """[heap], the memory of brk(2)."""
    ANON = "anon"
    """Other private memory without a file."""
    JIT = "jit"
    """The same, if it may be executed."""
    SHM = "shm"
    """Shared memory without a path: shmget(2), memfd_create(2), MAP_ANONYMOUS."""
    FILE = "file"
    """Mappings of files, without code."""
    TEXT = "text"
    """Mappings of files that may be executed."""
    HUGETLB = "hugetlb"
    """Huge pages (hugetlbfs), private and shared."""
    DAX = "dax"
    """Mappings of files whose accesses bypass the page cache (S_DAX)."""


PLAIN_KINDS = frozenset((MemoryKind.STACK, MemoryKind.HEAP, MemoryKind.ANON, MemoryKind.JIT))
"""Of private memory without a file."""

MASKS = {
    MemoryKind.STACK: rules.ANON_PRIVATE,
    MemoryKind.HEAP: rules.ANON_PRIVATE,
    MemoryKind.ANON: rules.ANON_PRIVATE,
    MemoryKind.JIT: rules.ANON_PRIVATE,
    MemoryKind.SHM: rules.ANON_SHARED,
    MemoryKind.FILE: rules.MAPPED_PRIVATE | rules.MAPPED_SHARED,
    MemoryKind.TEXT: 0,  # a mask has no bit for code alone
    MemoryKind.HUGETLB: rules.HUGETLB_PRIVATE | rules.HUGETLB_SHARED,
    MemoryKind.DAX: rules.DAX_PRIVATE | rules.DAX_SHARED,
}
"""A coredump_filter that takes all of a kind, and more."""


def kind_of(vma: Vma, facts: Facts) -> MemoryKind | None:
    """None for a mapping of the kernel's own.  Asks for a fact only if the answer matters."""
    if vma.is_special:
        return None
    if vma.kind.is_hugetlb:
        return MemoryKind.HUGETLB
    if vma.has_file:
        if vma.flags & PF_X:
            return MemoryKind.TEXT
        if vma.kind.is_shared and facts.is_unlinked(vma):
            return MemoryKind.SHM
        return MemoryKind.DAX if facts.is_dax(vma) else MemoryKind.FILE
    if vma.name == b"[stack]" or VmFlag.GROWSDOWN in vma.vm_flags or facts.has_stack(vma):
        return MemoryKind.STACK
    if vma.name == b"[heap]":
        return MemoryKind.HEAP
    return MemoryKind.JIT if vma.flags & PF_X else MemoryKind.ANON
