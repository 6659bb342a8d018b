"""A source in /proc, for any process: its mappings, and a few registers of a sleeping thread.

maps and smaps (proc_pid_maps(5), proc_pid_smaps(5)) are long if there are many mappings.
"""

import contextlib
import os
import threading
from collections.abc import Generator, Iterator
from functools import partial
from itertools import chain

from gcorefs.arch.machine import Machine
from gcorefs.elfcore.provenance import How
from gcorefs.elfcore.registers import Registers
from gcorefs.elfcore.smaps import parse_pieces
from gcorefs.elfcore.vma import MapsError, Vma
from gcorefs.kernel.proc import address_space, current_call, procfile
from gcorefs.kernel.stdio import Stream
from gcorefs.process.threads import NoThread
from gcorefs.process.worker_threads import ahead
from gcorefs.sources.thread_record import ThreadRecord

_PIECE = 256 << 10
"""Bytes.  maps has as many for 5,000 mappings."""
_LONGEST = 64 << 20
_LONG_AT_ONCE = threading.BoundedSemaphore(4)
"""Places for texts of more than a piece: any user may have a process with so many mappings, or with
names so long (no directory is too deep for maps), and ask for all of them at one time."""
_PATIENCE = 2.0
"""Seconds to wait for a place."""


@contextlib.contextmanager
def maps(tid: int) -> Iterator[bytes]:
    """The mappings, without a look at any page table (proc(5)), to be used in the block.

    The errors of `pieces_of_maps`.
    """
    with pieces_of_maps(tid) as pieces:
        text = b"".join(pieces)
        yield text


@contextlib.contextmanager
def pieces_of_maps(tid: int) -> Iterator[Iterator[bytes]]:
    """The same text in pieces, to be used in the block.  The next piece is read in a thread while
    the caller uses this one.

    ESRCH, EACCES.  MapsError: the text is longer than any that we take into memory, or there are
    too many long ones at one time.  NoThread.
    """
    path = f"{tid}/maps"
    with contextlib.ExitStack() as stack:
        try:
            stream = stack.enter_context(contextlib.closing(open_maps(tid)))
            first = stream.read(_PIECE)
        except OSError as error:
            raise procfile.explained(error, path) from error
        if not first:
            raise address_space.without_text(tid, "maps")
        pieces: Iterator[bytes] = iter((first,))
        if not _is_last(first):
            if not _LONG_AT_ONCE.acquire(timeout=_PATIENCE):
                raise MapsError("too many long maps at one time")
            stack.callback(_LONG_AT_ONCE.release)
            behind = stack.enter_context(contextlib.closing(_behind_the_first(stream, path)))
            pieces = chain(pieces, behind)
        yield pieces


def _behind_the_first(stream: Stream, path: str) -> Generator[bytes, None, None]:
    length = _PIECE
    read = partial(stream.read, _PIECE)
    try:
        with contextlib.closing(ahead("gcorefs-maps", read, _is_last)) as pieces:
            for piece in pieces:
                length += len(piece)
                if length > _LONGEST:
                    raise MapsError(f"maps has more than {_LONGEST >> 20} MiB")
                yield piece
    except NoThread:
        raise
    except OSError as error:
        raise procfile.explained(error, path) from error


def open_maps(tid: int) -> Stream:
    """The same text, to read it in pieces.  The errors of open(2)."""
    return _stream(f"{tid}/maps")


def _stream(path: str) -> Stream:
    return Stream(os.open(f"/proc/{path}", os.O_RDONLY | os.O_CLOEXEC))


class ProcMappings:
    """A MappingSource: smaps of a thread."""

    def __init__(self, tid: int) -> None:
        self._tid = tid

    def mappings(self) -> list[Vma]:
        """All mappings in smaps, parsed while it is read: for 100,000 mappings it has 70 MB.

        MapsError if the text cannot be trusted.  ESRCH.
        """
        path = f"{self._tid}/smaps"
        try:
            with (
                contextlib.closing(_stream(path)) as stream,
                contextlib.closing(
                    ahead("gcorefs-smaps", partial(stream.read, _PIECE), _is_last)
                ) as pieces,
            ):
                vmas = parse_pieces(pieces)
        except NoThread:
            raise
        except OSError as error:
            raise procfile.explained(error, path) from error
        if not vmas:
            raise address_space.without_text(self._tid, "smaps")
        return vmas


def _is_last(piece: bytes) -> bool:
    return len(piece) < _PIECE


class ProcRegisters:
    """A RegisterSource that disturbs no thread: /proc/TID/syscall has the registers of the system
    call in which a thread sleeps."""

    def __init__(self, pid: int, machine: Machine) -> None:
        self._pid = pid
        self._machine = machine

    def record(self, tid: int) -> ThreadRecord:
        """PARTIAL, or ZERO if the thread runs, or if /proc does not show its call.  ESRCH."""
        try:
            call = current_call.system_call(self._pid, tid)
        except ProcessLookupError:
            raise
        except OSError:
            call = None
        if call is None:
            return ThreadRecord(tid)
        return ThreadRecord(tid, How.PARTIAL, Registers.of(self._machine.partial(*call)))
