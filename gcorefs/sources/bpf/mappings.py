"""The mappings of a process from BPF (vm_flags, anon_vma) and from /proc/PID/maps (all else).  No
page table is walked for that."""

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial

from gcorefs.elfcore.columns import Column
from gcorefs.elfcore.vm_bits import UnknownBits, VmBits
from gcorefs.elfcore.vma import MapsError, Vma
from gcorefs.elfcore.vma_rows import ROW_SIZE, Maps, rows_of
from gcorefs.kernel import bpf
from gcorefs.kernel.proc import address_space
from gcorefs.kernel.stdio import Stream
from gcorefs.process.threads import NoThread
from gcorefs.process.worker_threads import ahead
from gcorefs.sources import procfs
from gcorefs.sources.protocols import MappingSource

_PIECE = 512 << 10
"""Bytes of maps that are read at a time.  If there are more, a thread more is worth its while."""

_Piece = tuple[bytes, Column]
"""A part of maps, and the rows of the lines that end in it."""


@dataclass(frozen=True, slots=True)
class Program:
    descriptor: int
    """The loaded program, for bpf(2).  A child of fork(2) has it too."""
    bits: VmBits


def open_rows(program: int, tid: int) -> Stream:
    """For `next_rows` about a thread.  EPERM, ENOMEM, EMFILE."""
    return Stream(bpf.open_iterator(program, tid))


def next_rows(stream: Stream, count: int) -> Column:
    """The next `count` rows (elfcore/vma_rows.py); fewer if there are no more.  ENOMEM.

    Behind the last one, Linux 6.18 gives the last few again and again if there are more than 32 KiB
    of them (kernel/bpf/task_iter.c, task_vma_seq_get_next, BPF_TASK_ITER_TID).  So the end is never
    awaited.
    """
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
        maps = Maps(self._program.bits)
        with (
            contextlib.closing(procfs.open_maps(self._tid)) as text,
            contextlib.closing(open_rows(self._program.descriptor, self._tid)) as rows,
            contextlib.closing(_pieces(text, rows)) as pieces,
        ):
            for piece in pieces:
                maps.add(*piece)
        if not (vmas := maps.vmas()):  # it has ended, or is in the middle of an execve(2)
            raise address_space.without_text(self._tid, "maps")
        return vmas


def _pieces(text: Stream, rows: Stream) -> Generator[_Piece, None, None]:
    """All of maps.  If it is long, the next piece is read while the caller uses this one."""
    return ahead("gcorefs-maps", partial(_next_piece, text, rows), _is_last)


def _next_piece(text: Stream, rows: Stream) -> _Piece:
    piece = text.read(_PIECE)
    return piece, next_rows(rows, piece.count(b"\n"))


def _is_last(piece: _Piece) -> bool:
    return len(piece[0]) < _PIECE
