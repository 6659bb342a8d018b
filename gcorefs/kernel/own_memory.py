"""Our own memory, beyond what Python's mmap can do: madvise(2), memfd_secret(2), mmap(2)."""

import contextlib
import ctypes
import mmap
import os
import weakref
from collections.abc import Iterator

from gcorefs.arch import HOST
from gcorefs.arch.page import PAGE_SIZE
from gcorefs.kernel.libc import failure, quick, sleeping

_madvise = sleeping["madvise"]
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_MADV_POPULATE_WRITE = 23


def populate(buffer: memoryview) -> None:
    """Allocate the pages of `buffer`, which is a mapping of ours (madvise(2),
    MADV_POPULATE_WRITE).

    ENOMEM, EFAULT.  mmap.madvise would keep the interpreter lock.
    """
    target = ctypes.c_char.from_buffer(buffer)
    if _madvise(ctypes.addressof(target), len(buffer), _MADV_POPULATE_WRITE):
        raise failure()


_syscall = quick["syscall"]
_syscall.restype = ctypes.c_long
_SYS_MEMFD_SECRET = HOST.call("memfd_secret")


def memfd_secret() -> int:
    """A memory file that nobody else can read (memfd_secret(2)).  ENOSYS, EPERM."""
    fd = int(_syscall(ctypes.c_long(_SYS_MEMFD_SECRET), ctypes.c_long(os.O_CLOEXEC)))
    if fd < 0:
        raise failure()
    return fd


_mmap = quick["mmap"]
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
_mmap.restype = ctypes.c_void_p
_MAP_FAILED = ctypes.c_void_p(-1).value
_munmap = quick["munmap"]
_munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
# include/uapi/asm-generic/mman-common.h
_PROT_NONE = 0
_MAP_FIXED_NOREPLACE = 0x100000


def _map(address: int | None, length: int, prot: int, flags: int, fd: int) -> int:
    found: int | None = _mmap(address, length, prot, flags, fd, 0)
    if found is None or found == _MAP_FAILED:
        raise failure()
    return found


def map_at(address: int, fd: int, length: int) -> None:
    """Map the beginning of a file at `address`, without read or write access.  EEXIST: something
    is mapped there."""
    _map(address, length, _PROT_NONE, mmap.MAP_SHARED | _MAP_FIXED_NOREPLACE, fd)


def map_shared(fd: int, length: int, prot: int) -> memoryview:
    """The beginning of a file, shared with all that map it, as long as a view of it lives.  ENOMEM.

    mmap of Python keeps a duplicate of the descriptor.
    """
    address = _map(None, length, prot, mmap.MAP_SHARED, fd)
    memory = (ctypes.c_ubyte * length).from_address(address)
    weakref.finalize(memory, _munmap, address, length).atexit = False
    return memoryview(memory).cast("B")


@contextlib.contextmanager
def page_of_zeros() -> Iterator[int]:
    """The address of a page that was only read: the kernel maps its one page of zeros there
    (mm/memory.c, do_anonymous_page)."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    address = _map(None, PAGE_SIZE, mmap.PROT_READ, flags, -1)
    try:
        ctypes.string_at(address, 1)  # a read maps it
        yield address
    finally:
        _munmap(address, PAGE_SIZE)
