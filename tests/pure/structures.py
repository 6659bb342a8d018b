"""The kernel's structures of a core's notes, written independently, and a reader of notes.

include/uapi/linux/elfcore.h for 64-bit x86; the compat_ structures of
include/linux/elfcore-compat.h and arch/x86/include/asm/compat.h for 32-bit; note types of
include/uapi/linux/elf.h.
"""

import ctypes
import struct
from collections.abc import Iterator


class Siginfo(ctypes.Structure):
    """struct elf_siginfo: the order differs from siginfo_t."""

    _fields_ = (("signo", ctypes.c_int), ("code", ctypes.c_int), ("errno", ctypes.c_int))


class Timeval(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_long), ("usec", ctypes.c_long))


class Prstatus(ctypes.Structure):
    _fields_ = (
        ("info", Siginfo),
        ("cursig", ctypes.c_short),
        ("sigpend", ctypes.c_ulong),
        ("sighold", ctypes.c_ulong),
        ("pid", ctypes.c_int),
        ("ppid", ctypes.c_int),
        ("pgrp", ctypes.c_int),
        ("sid", ctypes.c_int),
        ("utime", Timeval),
        ("stime", Timeval),
        ("cutime", Timeval),
        ("cstime", Timeval),
        ("reg", ctypes.c_ulong * 27),
        ("fpvalid", ctypes.c_int),
    )


class Prpsinfo(ctypes.Structure):
    _fields_ = (
        ("state", ctypes.c_char),
        ("sname", ctypes.c_char),
        ("zomb", ctypes.c_char),
        ("nice", ctypes.c_byte),
        ("flag", ctypes.c_ulong),
        ("uid", ctypes.c_uint),
        ("gid", ctypes.c_uint),
        ("pid", ctypes.c_int),
        ("ppid", ctypes.c_int),
        ("pgrp", ctypes.c_int),
        ("sid", ctypes.c_int),
        ("fname", ctypes.c_char * 16),
        ("psargs", ctypes.c_char * 80),
    )


class Timeval32(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_int32), ("usec", ctypes.c_int32))


class Prstatus32(ctypes.Structure):
    _fields_ = (
        ("info", Siginfo),
        ("cursig", ctypes.c_short),
        ("sigpend", ctypes.c_uint32),
        ("sighold", ctypes.c_uint32),
        ("pid", ctypes.c_int),
        ("ppid", ctypes.c_int),
        ("pgrp", ctypes.c_int),
        ("sid", ctypes.c_int),
        ("utime", Timeval32),
        ("stime", Timeval32),
        ("cutime", Timeval32),
        ("cstime", Timeval32),
        ("reg", ctypes.c_uint32 * 17),
        ("fpvalid", ctypes.c_int),
    )


class Prpsinfo32(ctypes.Structure):
    _fields_ = (
        ("state", ctypes.c_char),
        ("sname", ctypes.c_char),
        ("zomb", ctypes.c_char),
        ("nice", ctypes.c_byte),
        ("flag", ctypes.c_uint32),
        ("uid", ctypes.c_uint16),
        ("gid", ctypes.c_uint16),
        ("pid", ctypes.c_int),
        ("ppid", ctypes.c_int),
        ("pgrp", ctypes.c_int),
        ("sid", ctypes.c_int),
        ("fname", ctypes.c_char * 16),
        ("psargs", ctypes.c_char * 80),
    )


NT_PRSTATUS, NT_PRFPREG, NT_PRPSINFO, NT_AUXV = 1, 2, 3, 6
NT_FILE, NT_SIGINFO = int.from_bytes(b"FILE"), int.from_bytes(b"SIGI")
NT_X86_XSTATE, NT_X86_XSAVE_LAYOUT = 0x202, 0x205


def unpack(data: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """Owner, type and descriptor of each note.  The padding must be zeros, and as short as
    possible."""
    at = 0

    def take(size: int) -> bytes:
        nonlocal at
        piece, padding = data[at : at + size], -size % 4
        assert len(piece) == size
        assert data[at + size : at + size + padding] == bytes(padding)
        at += size + padding
        return piece

    while at < len(data):
        namesz, descsz, kind = struct.unpack("<III", take(12))
        name = take(namesz)
        assert name.endswith(b"\0")
        yield name[:-1], kind, take(descsz)
