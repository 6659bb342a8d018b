"""Our own memory, beyond what Python's mmap can do: madvise(2), malloc_trim(3), memfd_secret(2),
mlock(2), mmap(2), mseal(2), pkeys(7), userfaultfd(2)."""

import contextlib
import ctypes
import fcntl
import mmap
import os
import struct
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


_malloc_trim = sleeping["malloc_trim"]
_malloc_trim.argtypes = (ctypes.c_size_t,)


def trim() -> None:
    """Give whole pages that malloc(3) has kept back to the kernel (malloc_trim(3))."""
    _malloc_trim(0)


_syscall = quick["syscall"]
_syscall.restype = ctypes.c_long
_SYS_MEMFD_SECRET = HOST.call("memfd_secret")


def memfd_secret() -> int:
    """A memory file that nobody else can read (memfd_secret(2)).  ENOSYS, EPERM."""
    fd = int(_syscall(ctypes.c_long(_SYS_MEMFD_SECRET), ctypes.c_long(os.O_CLOEXEC)))
    if fd < 0:
        raise failure()
    return fd


@contextlib.contextmanager
def aio_ring() -> Iterator[int]:
    """The address of a ring of io_setup(2), which is the number of its context (fs/aio.c,
    aio_setup_ring).  EAGAIN: there are too many (aio-max-nr); ENOSYS."""
    context = ctypes.c_ulong()
    events = ctypes.c_long(1)
    if _syscall(ctypes.c_long(HOST.call("io_setup")), events, ctypes.byref(context)) < 0:
        raise failure()
    try:
        yield context.value
    finally:
        _syscall(ctypes.c_long(HOST.call("io_destroy")), context)


_mlock = sleeping["mlock"]
_mlock.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


def lock(buffer: memoryview) -> None:
    """Keep the pages of `buffer`, which is a mapping of ours, in memory (mlock(2)).  ENOMEM, EPERM:
    RLIMIT_MEMLOCK."""
    target = ctypes.c_char.from_buffer(buffer)
    if _mlock(ctypes.addressof(target), len(buffer)):
        raise failure()


_SYS_MSEAL = HOST.call("mseal")


def seal(buffer: memoryview) -> None:
    """Let nobody change `buffer`, a mapping of ours, as long as we live (mseal(2)).  ENOSYS."""
    target = ctypes.c_char.from_buffer(buffer)
    address, length = ctypes.addressof(target), len(buffer)
    words = map(ctypes.c_long, (_SYS_MSEAL, address, length, 0))
    if _syscall(*words):
        raise failure()


_pkey_alloc = quick["pkey_alloc"]
_pkey_alloc.argtypes = (ctypes.c_uint, ctypes.c_uint)
_pkey_mprotect = quick["pkey_mprotect"]
_pkey_mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int)


def new_key() -> int:
    """A protection key that denies nothing (pkeys(7)).  ENOSPC: there are no more; EINVAL."""
    if (key := int(_pkey_alloc(0, 0))) < 0:
        raise failure()
    return key


def protect(buffer: memoryview, key: int) -> None:
    """Give `buffer`, which is a mapping of ours, a protection key (pkey_mprotect(2))."""
    target = ctypes.c_char.from_buffer(buffer)
    access = mmap.PROT_READ | mmap.PROT_WRITE
    if _pkey_mprotect(ctypes.addressof(target), len(buffer), access, key):
        raise failure()


_SYS_USERFAULTFD = HOST.call("userfaultfd")
# include/uapi/linux/userfaultfd.h: struct uffdio_api, struct uffdio_register.
_UFFD_API = 0xAA
_UFFDIO_API, _API = 0xC018AA3F, struct.Struct("QQQ")
_UFFDIO_REGISTER, _REGISTER = 0xC020AA00, struct.Struct("QQQQ")
UFFD_MISSING, UFFD_WP, UFFD_MINOR = 1 << 0, 1 << 1, 1 << 2
UFFD_FEATURE_MINOR_SHMEM = 1 << 10


def supply(buffer: memoryview, mode: int, features: int = 0) -> int:
    """A descriptor on which we are told of faults in `buffer`, which is a mapping of ours
    (userfaultfd(2)).  EPERM, ENOSYS, EINVAL."""
    target = ctypes.c_char.from_buffer(buffer)
    fd = int(_syscall(ctypes.c_long(_SYS_USERFAULTFD), ctypes.c_long(os.O_CLOEXEC)))
    if fd < 0:
        raise failure()
    try:
        fcntl.ioctl(fd, _UFFDIO_API, _API.pack(_UFFD_API, features, 0))
        register = _REGISTER.pack(ctypes.addressof(target), len(buffer), mode, 0)
        fcntl.ioctl(fd, _UFFDIO_REGISTER, register)
    except BaseException:
        os.close(fd)
        raise
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
