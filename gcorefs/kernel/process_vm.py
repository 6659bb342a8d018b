"""process_vm_readv(2) and process_vm_writev(2): the memory of another process."""

import ctypes
from array import array

from gcorefs.elfcore.columns import Column, raised
from gcorefs.kernel.libc import failure, sleeping

_readv = sleeping["process_vm_readv"]
_readv.argtypes = (
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_ulong,
)
_readv.restype = ctypes.c_ssize_t

_writev = sleeping["process_vm_writev"]
_writev.argtypes = _readv.argtypes
_writev.restype = ctypes.c_ssize_t


def read_memory(tid: int, address: int, buffer: memoryview) -> int:
    """process_vm_readv(2) into `buffer`.  The count is short if a page cannot be read.

    EFAULT: not even the first page; ESRCH: the process is gone; EPERM.  Sleeps while pages are
    supplied.
    """
    return read_memory_vector(tid, array("Q", (address,)), array("Q", (len(buffer),)), buffer)


def read_memory_vector(
    tid: int,
    addresses: Column,
    lengths: Column,
    buffer: memoryview,
    places: "Column | None" = None,
) -> int:
    """Read several ranges, at most 1,024, each to its place in `buffer` (an offset; None: one
    after the other).  Else as `read_memory`."""
    # No ctypes array of that length: ctypes keeps the type of every length for ever.
    base = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    if places is None:
        local = array("Q", (base, len(buffer)))
    else:
        local = _iovecs(raised(places, base), lengths)
    remote = _iovecs(addresses, lengths)
    count: int = _readv(
        tid, local.buffer_info()[0], len(local) // 2, remote.buffer_info()[0], len(addresses), 0
    )
    if count < 0:
        raise failure()
    return count


def write_nothing(tid: int, address: int) -> None:
    """Bring in the page at `address` for writing, and write no byte.

    process_vm_writev(2) from NULL, where nobody can read: it pins the page first, and then fails
    with EFAULT.
    """
    local, remote = array("Q", (0, 1)), array("Q", (address, 1))
    _writev(tid, local.buffer_info()[0], 1, remote.buffer_info()[0], 1, 0)


def _iovecs(addresses: Column, lengths: Column) -> Column:
    """An array of struct iovec."""
    words = array("Q", bytes(2 * addresses.itemsize * len(addresses)))
    words[::2] = addresses
    words[1::2] = lengths
    return words
