"""A source in /proc, for any process: its mappings, and a few registers of a sleeping thread.

maps and smaps (proc_pid_maps(5), proc_pid_smaps(5)) are long if there are many mappings.
"""

import contextlib
import os
from collections.abc import Generator

from gcorefs.arch.machine import Machine
from gcorefs.elfcore.provenance import How
from gcorefs.elfcore.registers import Registers
from gcorefs.elfcore.smaps import parse_pieces
from gcorefs.elfcore.vma import Vma
from gcorefs.kernel.proc import address_space, current_call, procfile
from gcorefs.kernel.stdio import Stream
from gcorefs.process.threads import NoThread
from gcorefs.process.worker_threads import Worker
from gcorefs.sources.thread_record import ThreadRecord

_PIECE = 256 << 10


def maps(tid: int) -> bytes:
    """The mappings, without a look at any page table (proc(5)).  ESRCH, EACCES."""
    path = f"{tid}/maps"
    try:
        with contextlib.closing(open_maps(tid)) as stream:
            pieces = [stream.read(_PIECE)]
            while len(pieces[-1]) == _PIECE:
                pieces.append(stream.read(_PIECE))
    except OSError as error:
        raise procfile.explained(error, path) from error
    if not pieces[0]:
        raise address_space.without_text(tid, "maps")
    return b"".join(pieces)


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
                contextlib.closing(_pieces(stream)) as pieces,
            ):
                vmas = parse_pieces(pieces)
        except NoThread:
            raise
        except OSError as error:
            raise procfile.explained(error, path) from error
        if not vmas:
            raise address_space.without_text(self._tid, "smaps")
        return vmas


def _pieces(stream: Stream) -> Generator[bytes, None, None]:
    """All of the text.  If it is long, the next piece is read while the caller uses this one."""
    piece = stream.read(_PIECE)
    if len(piece) < _PIECE:
        yield piece
        return
    with contextlib.closing(Worker("gcorefs-smaps")) as reader:
        while piece:
            coming = reader.submit(stream.read, _PIECE)
            try:
                yield piece
            finally:  # a caller that stops early, by whatever error, is about to close it
                piece = coming.result()


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
