"""What is mapped: maps and smaps (proc_pid_maps(5), proc_pid_smaps(5)), read as they come.

Both are long if there are many mappings.
"""

import contextlib
from collections.abc import Generator

from gcorefs.elfcore.vma import Vma, parse_pieces
from gcorefs.kernel.proc import address_space, procfile
from gcorefs.kernel.stdio import Stream
from gcorefs.process.threads import NoThread
from gcorefs.process.worker_threads import Worker

_PIECE = 256 << 10


def maps(tid: int) -> bytes:
    """What is mapped, without a look at any page table (proc(5)).  ESRCH, EACCES."""
    path = f"{tid}/maps"
    try:
        with contextlib.closing(Stream(f"/proc/{path}")) as stream:
            pieces = [stream.read(_PIECE)]
            while len(pieces[-1]) == _PIECE:
                pieces.append(stream.read(_PIECE))
    except OSError as error:
        raise procfile.explained(error, path) from error
    if not pieces[0]:
        raise address_space.without_text(tid, "maps")
    return b"".join(pieces)


def mappings(tid: int) -> list[Vma]:
    """All that smaps tells, parsed as it comes: of 100,000 mappings it has 70 MB.

    MapsError where it cannot be trusted.  ESRCH.
    """
    path = f"{tid}/smaps"
    try:
        with (
            contextlib.closing(Stream(f"/proc/{path}")) as stream,
            contextlib.closing(_pieces(stream)) as pieces,
        ):
            vmas = parse_pieces(pieces)
    except NoThread:
        raise
    except OSError as error:
        raise procfile.explained(error, path) from error
    if not vmas:
        raise address_space.without_text(tid, "smaps")
    return vmas


def _pieces(stream: Stream) -> Generator[bytes, None, None]:
    """All of it; where there is much, the next one is read while somebody works at the last."""
    piece = stream.read(_PIECE)
    if len(piece) < _PIECE:
        yield piece
        return
    with contextlib.closing(Worker("gcorefs-smaps")) as reader:
        while piece:
            coming = reader.submit(stream.read, _PIECE)
            try:
                yield piece
            finally:  # who gave up, by whatever error, is about to close it
                piece = coming.result()
