"""process_vm_readv(2): the memory of another process."""

import ctypes
from array import array

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


def read_memory(tid: int, address: int, buffer: memoryview) -> int:
    """process_vm_readv(2) into `buffer`.  The count is short if a page cannot be read.

    EFAULT: not even the first page; ESRCH: the process is gone; EPERM.  Sleeps while pages are
    supplied.
    """
    return read_memory_vector(tid, array("Q", (address,)), array("Q", (len(buffer),)), buffer)


def read_memory_vector(
    tid: int,
    addresses: "array[int]",
    lengths: "array[int]",
    buffer: memoryview,
    places: "array[int] | None" = None,
) -> int:
    """Read several ranges, at most 1,024, each to its place in `buffer` (an offset; None: one
    after the other).  Else as `read_memory`."""
    # No ctypes array of that length: ctypes keeps the type of every length for ever.
    base = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    if places is None:
        local = array("Q", (base, len(buffer)))
    else:
        local = _iovecs(array("Q", map(base.__add__, places)), lengths)
    remote = _iovecs(addresses, lengths)
    count: int = _readv(
        tid, local.buffer_info()[0], len(local) // 2, remote.buffer_info()[0], len(addresses), 0
    )
    if count < 0:
        raise failure()
    return count


def _iovecs(addresses: "array[int]", lengths: "array[int]") -> "array[int]":
    """An array of struct iovec."""
    words = array("Q", bytes(2 * addresses.itemsize * len(addresses)))
    words[::2] = addresses
    words[1::2] = lengths
    return words
