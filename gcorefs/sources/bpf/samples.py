"""Mappings of our own, each with another flag, from which the bits of vm_flags are learned
(elfcore/vm_bits.py).

A flag that this kernel, or a limit of ours, does not let us have stays unknown.  Then smaps is read
for a process that has it.
"""

import contextlib
import mmap
import os
from collections.abc import Iterator

from gcorefs.arch.page import HUGE_PAGE_SIZE, PAGE_SIZE
from gcorefs.kernel import bpf, own_memory
from gcorefs.kernel.own_memory import UFFD_FEATURE_MINOR_SHMEM, UFFD_MINOR, UFFD_MISSING, UFFD_WP
from gcorefs.kernel.seccomp import has_seccomp

_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_SHARED = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
_PROT_NONE = 0
# include/uapi/linux/mman.h, include/uapi/asm-generic/mman.h, mman-common.h
_MAP_DROPPABLE = 0x8 | mmap.MAP_ANONYMOUS
_MAP_NORESERVE = 0x4000
_MAP_HUGETLB = 0x40000
_MADV_WIPEONFORK = 18
_MADV_GUARD_INSTALL = 102
_ADVICE = (
    mmap.MADV_SEQUENTIAL, mmap.MADV_RANDOM, mmap.MADV_DONTFORK, _MADV_WIPEONFORK,
    mmap.MADV_DONTDUMP, mmap.MADV_HUGEPAGE, mmap.MADV_NOHUGEPAGE, mmap.MADV_MERGEABLE,
    _MADV_GUARD_INSTALL,
)  # fmt: skip
# A kernel may lack some of them: MAP_DROPPABLE is new in 6.11, and is EINVAL before.
_KINDS = (
    # No mapping of huge pages takes one: it reserves none, and nobody touches it.
    (PAGE_SIZE, _PRIVATE, _PROT_NONE),
    (PAGE_SIZE, _PRIVATE | _MAP_NORESERVE, _READ_WRITE),
    (PAGE_SIZE, _SHARED, _READ_WRITE),
    (PAGE_SIZE, _MAP_DROPPABLE, _READ_WRITE),
    (HUGE_PAGE_SIZE, _PRIVATE | _MAP_HUGETLB | _MAP_NORESERVE, _READ_WRITE),
)
_SUPPLIED = (
    (_PRIVATE, UFFD_MISSING, 0),
    (_PRIVATE, UFFD_WP, 0),
    (_SHARED, UFFD_MINOR, UFFD_FEATURE_MINOR_SHMEM),
)
_ALL_ARE_OLD = b"4"


@contextlib.contextmanager
def samples() -> Iterator[None]:
    """The mappings exist in the block.  EMFILE, ENOMEM."""
    _clear_soft_dirty()
    with contextlib.ExitStack() as stack:
        for length, flags, access in _KINDS:
            with contextlib.suppress(OSError):
                _mapped(stack, length, flags, access)
        for advice in _ADVICE:
            with contextlib.suppress(OSError):
                _mapped(stack).madvise(advice)
        with contextlib.suppress(OSError):
            own_memory.lock(memoryview(_mapped(stack)))
        # Single pages that a driver has inserted (kernel/bpf/arraymap.c, array_map_mmap).
        with contextlib.suppress(OSError):
            array = bpf.new_array(PAGE_SIZE)
            stack.callback(os.close, array)
            stack.enter_context(mmap.mmap(array, PAGE_SIZE, mmap.MAP_SHARED, _READ_WRITE))
        for key in _keys():
            with contextlib.suppress(OSError):
                own_memory.protect(memoryview(_mapped(stack)), key)
        # A filter may kill whoever makes a call that it does not allow.
        if not has_seccomp(os.getpid()):
            _map_rarer(stack)
        # A shared mapping that nobody may ever write to.
        with open(__file__, "rb") as file:
            stack.enter_context(mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ))
        yield


def _map_rarer(stack: contextlib.ExitStack) -> None:
    """By calls that filters do not allow, or do not know."""
    with contextlib.suppress(OSError):
        own_memory.seal(memoryview(_mapped(stack)))
    for flags, mode, features in _SUPPLIED:
        memory = _mapped(stack, flags=flags)
        with contextlib.suppress(OSError):
            stack.callback(os.close, own_memory.supply(memoryview(memory), mode, features))


def _keys() -> list[int]:
    """Protection keys of one bit each.  They are part of vm_flags."""
    keys: list[int] = []
    with contextlib.suppress(OSError):
        while True:
            keys.append(own_memory.new_key())
    return [key for key in keys if key & (key - 1) == 0]


def _mapped(
    stack: contextlib.ExitStack,
    length: int = PAGE_SIZE,
    flags: int = _PRIVATE,
    access: int = _READ_WRITE,
) -> mmap.mmap:
    return stack.enter_context(mmap.mmap(-1, length, flags, access))


def _clear_soft_dirty() -> None:
    """Have mappings with and without VM_SOFTDIRTY: those that exist now lose it (proc(5),
    clear_refs), and later ones have it."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "wb") as file:
        file.write(_ALL_ARE_OLD)
