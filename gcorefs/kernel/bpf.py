"""bpf(2): runs an iterator program over the mappings of one task, or over the threads of one
process (Documentation/bpf/bpf_iterators.rst).  libbpf.py loads the program."""

import ctypes
import os
import struct

from gcorefs.arch import HOST
from gcorefs.kernel.libc import failure, sleeping

_syscall = sleeping["syscall"]
_syscall.restype = ctypes.c_long
_SYS_BPF = HOST.call("bpf")

# include/uapi/linux/bpf.h: enum bpf_cmd, enum bpf_attach_type, union bpf_attr (map_create,
# link_create, iter_create), union bpf_iter_link_info (task).
_BPF_MAP_CREATE = 0
_BPF_LINK_CREATE = 28
_BPF_ITER_CREATE = 33
_BPF_TRACE_ITER = 28
_BPF_MAP_TYPE_ARRAY = 2
_BPF_F_MMAPABLE = 1 << 10
_MAP_CREATE = struct.Struct("5I")
_LINK_CREATE = struct.Struct("IIIIQII")
_ITER_CREATE = struct.Struct("II")
_TASK_INFO = struct.Struct("III")


def open_iterator(program: int, tid: int) -> int:
    """A descriptor from which the rows of `program` about thread `tid` are read.

    Each read runs the program, and returns at most 32 KiB (kernel/bpf/bpf_iter.c, bpf_seq_read).
    EPERM, ENOMEM, EMFILE.  A kernel that has no iterators of one task (before 6.1) shows the rows
    of all tasks.
    """
    return _open_iterator(program, _TASK_INFO.pack(tid, 0, 0))


def open_iterator_of_all(program: int, pid: int) -> int:
    """The same for all threads of process `pid`, in one iterator."""
    return _open_iterator(program, _TASK_INFO.pack(0, pid, 0))


def _open_iterator(program: int, which: bytes) -> int:
    info = ctypes.create_string_buffer(which)
    where, length = ctypes.addressof(info), _TASK_INFO.size
    request = _LINK_CREATE.pack(program, 0, _BPF_TRACE_ITER, 0, where, length, 0)
    link = _bpf(_BPF_LINK_CREATE, request)
    try:
        return _bpf(_BPF_ITER_CREATE, _ITER_CREATE.pack(link, 0))
    finally:
        os.close(link)


def new_array(length: int) -> int:
    """A descriptor of an array of one element of so many bytes, for mmap(2).  EPERM."""
    words = _BPF_MAP_TYPE_ARRAY, 4, length, 1, _BPF_F_MMAPABLE
    return _bpf(_BPF_MAP_CREATE, _MAP_CREATE.pack(*words))


def _bpf(command: int, request: bytes) -> int:
    attributes = ctypes.create_string_buffer(request, len(request))
    found = int(_syscall(ctypes.c_long(_SYS_BPF), command, attributes, len(request)))
    if found < 0:
        raise failure()
    return found
