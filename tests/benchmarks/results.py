"""Whether the result of a dump is true: an ELF core, a minidump, or the images of CRIU.

The memory of the target must lie in one file in one piece, as it still is in the process (bulk.c
never changes it), and each thread must have a record.
"""

import mmap
import os
import struct
from pathlib import Path

from tests.benchmarks.bench import MIB
from tests.readers.corefile import Core

_HEAD = 4096
"""Bytes that occur nowhere else: each word of the target is another one."""
_THREAD_LIST = 3
"""MINIDUMP_STREAM_TYPE, ThreadListStream (minidumpapiset.h)."""


def has_memory(file: Path, pid: int, start: int, size: int) -> bool:
    """True if the memory of a live process lies in a file in one piece."""
    with file.open("rb") as opened, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        if os.fstat(opened.fileno()).st_size < size:
            return False
        with mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as data:
            begin = data.find(os.pread(memory.fileno(), _HEAD, start))
            return begin >= 0 and all(
                data[begin + offset : begin + min(offset + MIB, size)]
                == os.pread(memory.fileno(), min(MIB, size - offset), start + offset)
                for offset in range(0, size, MIB)
            )


def threads(folder: Path) -> int:
    """The number of threads whose registers are there."""
    images = [*folder.glob("core-*.img")]  # CRIU: one of each thread
    if images:
        return len(images)
    (file,) = folder.iterdir()
    with file.open("rb") as opened:
        magic = opened.read(4)
    return _of_minidump(file) if magic == b"MDMP" else len(Core(file).threads)


def _of_minidump(file: Path) -> int:
    """MINIDUMP_HEADER, MINIDUMP_DIRECTORY and MINIDUMP_THREAD_LIST (minidumpapiset.h)."""
    with file.open("rb") as opened:
        _, streams, at = struct.unpack("<4xIII", opened.read(16))
        opened.seek(at)
        rows = struct.iter_unpack("<III", opened.read(12 * streams))
        places = {kind: place for kind, _, place in rows}
        opened.seek(places[_THREAD_LIST])
        (count,) = struct.unpack("<I", opened.read(4))
    return int(count)


def is_true(folder: Path, pid: int, start: int, size: int, count: int) -> bool:
    """True if memory and threads are there."""
    files = [path for path in folder.iterdir() if path.is_file()]
    return bool(files) and (
        any(has_memory(file, pid, start, size) for file in files) and threads(folder) == count
    )
