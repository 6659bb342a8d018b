"""The answers of PTRACE_GETREGSET for the threads of a process, without any code of gcorefs.

Takes a pid.  Every thread is seized, stopped, asked for every possible note type, and detached.
Prints a line of JSON: for each tid the register sets by type, in hex.
"""

import ctypes
import json
import os
import sys
from pathlib import Path

# include/uapi/linux/ptrace.h
GETREGSET, SEIZE, INTERRUPT, DETACH = 0x4204, 0x4206, 0x4207, 17
WALL = 0x40000000
# The range of include/uapi/linux/elf.h that has the types of register sets.
TYPES = range(1, 0x1000)
ROOM = 1 << 17


class Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


_ptrace = ctypes.CDLL(None, use_errno=True)["ptrace"]
_ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_ptrace.restype = ctypes.c_long


def regsets(tid: int) -> dict[int, str]:
    """Every set of a stopped thread."""
    found = {}
    buffer = ctypes.create_string_buffer(b"\xee" * ROOM, ROOM)
    for kind in TYPES:
        vector = Iovec(ctypes.addressof(buffer), ROOM)
        if _ptrace(GETREGSET, tid, kind, ctypes.addressof(vector)) == 0:
            found[kind] = buffer.raw[: vector.length].hex()
            buffer.raw = b"\xee" * ROOM
    return found


def main(pid: int) -> None:
    tids = sorted(int(name.name) for name in Path(f"/proc/{pid}/task").iterdir())
    found = {}
    for tid in tids:
        assert _ptrace(SEIZE, tid, None, None) == 0
        assert _ptrace(INTERRUPT, tid, None, None) == 0
        _, status = os.waitpid(tid, WALL)
        assert os.WIFSTOPPED(status)
        found[tid] = regsets(tid)
        assert _ptrace(DETACH, tid, None, None) == 0
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]))
