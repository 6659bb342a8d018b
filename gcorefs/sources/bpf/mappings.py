"""The mappings of a process from BPF (vm_flags, anon_vma) and from /proc/PID/maps (all else).  No
page table is walked for that."""

import contextlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from queue import SimpleQueue

from gcorefs.elfcore.vm_bits import UnknownBits, VmBits
from gcorefs.elfcore.vma import MapsError, Vma
from gcorefs.elfcore.vma_rows import ROW_SIZE, Maps, rows_of
from gcorefs.kernel import bpf
from gcorefs.kernel.proc import address_space
from gcorefs.kernel.stdio import Stream
from gcorefs.process.threads import NoThread
from gcorefs.process.worker_threads import Worker
from gcorefs.sources import procfs
from gcorefs.sources.protocols import MappingSource

_PIECE = 256 << 10
"""Bytes of maps that are read at a time.  If there are more, a thread more is worth its while."""


@dataclass(frozen=True, slots=True)
class Program:
    descriptor: int
    """The loaded program, for bpf(2).  A child of fork(2) has it too."""
    bits: VmBits


def rows(program: int, tid: int, count: int) -> "array[int]":
    """The first `count` rows about a thread (elfcore/vma_rows.py); fewer if there are no more.
    EPERM, ENOMEM, EMFILE.

    Behind the last one, Linux 6.18 gives the last few again and again if there are more than 32 KiB
    of them (kernel/bpf/task_iter.c, task_vma_seq_get_next, BPF_TASK_ITER_TID).  So the end is never
    awaited.
    """
    with contextlib.closing(Stream(bpf.open_iterator(program, tid))) as stream:
        return rows_of(stream.read(count * ROW_SIZE))


class BpfMappings:
    """A MappingSource: BPF and maps of a thread, or another source where they do not suffice."""

    def __init__(self, tid: int, program: Program, otherwise: MappingSource) -> None:
        """`otherwise`: asked if what BPF says cannot be used for this process."""
        self._tid = tid
        self._program = program
        self._otherwise = otherwise

    def mappings(self) -> Sequence[Vma]:
        """All mappings.  MapsError.  ESRCH."""
        try:
            return self._found()
        except NoThread:
            raise
        except (OSError, MapsError, UnknownBits):
            # No descriptor or memory is left for an iterator; a thread that did not stop has mapped
            # something meanwhile; the process has a flag that none of our samples had; it is gone.
            return self._otherwise.mappings()

    def _found(self) -> Sequence[Vma]:
        with contextlib.closing(procfs.open_maps(self._tid)) as stream:
            first = stream.read(_PIECE)
            if len(first) == _PIECE:
                return self._found_in_two_threads(first, stream)
        if not first:  # it has ended, or is in the middle of an execve(2)
            raise address_space.without_text(self._tid, "maps")
        maps = Maps()
        maps.add(first)
        return maps.with_rows(self._rows(first.count(b"\n")), self._program.bits)

    def _found_in_two_threads(self, first: bytes, stream: Stream) -> Sequence[Vma]:
        """The same for a long text: the rest of it, and then the rows, come while it is parsed."""
        maps = Maps()
        pieces: SimpleQueue[bytes] = SimpleQueue()
        with contextlib.closing(Worker("gcorefs-maps")) as reader:
            coming = reader.submit(self._read_on, first, stream, pieces)
            try:
                while piece := pieces.get():
                    maps.add(piece)
            finally:
                rows = coming.result()
        return maps.with_rows(rows, self._program.bits)

    def _read_on(self, piece: bytes, stream: Stream, pieces: "SimpleQueue[bytes]") -> "array[int]":
        """In another thread: all pieces, and an empty one at the end, and then the rows."""
        lines = 0
        try:
            while piece:
                pieces.put(piece)
                lines += piece.count(b"\n")
                piece = stream.read(_PIECE)
        finally:
            pieces.put(b"")
        return self._rows(lines)

    def _rows(self, count: int) -> "array[int]":
        return rows(self._program.descriptor, self._tid, count)
