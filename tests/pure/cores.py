"""Cores of processes that never existed, and their contents."""

from collections.abc import Mapping, Sequence

from gcorefs.arch.x86_64 import X86_64
from gcorefs.elfcore import loads as making
from gcorefs.elfcore.layout import Layout
from gcorefs.elfcore.notes import ProcessIds, ProcessInfo, ProcessNotes, Thread
from gcorefs.elfcore.provenance import Account, How, Origin, Provenance
from gcorefs.elfcore.registers import Registers
from gcorefs.elfcore.segments import Loads, Segment, Segments
from gcorefs.elfcore.vma import Kind, Pages, Vma, VmFlag

INFO = ProcessInfo(
    pid=7, ids=ProcessIds(1, 2, 3), state="S", nice=0, flags=0, uid=1000, gid=1001,
    comm=b"program", arguments=b"program\0--with\0words\0",
)  # fmt: skip


def mapped(start: int, end: int, offset: int = 0) -> Vma:
    return Vma(start, end, Kind(4, "08:01", 1, b"", VmFlag.NONE), offset, Pages(0, 0))


def load(mappings: Sequence[Segment]) -> Loads:
    return making.load(Segments.of(mappings))


def account_of(
    segments: Sequence[Segment],
    unreadable: Sequence[tuple[int, int]] = (),
    names: Mapping[int, str] | None = None,
) -> Account:
    loads = load(segments)
    recorded = sum(segment.populated for segment in segments)
    return Account(
        recorded=recorded,
        zeros=sum(segment.filesz for segment in segments) - recorded,
        shared=loads.shared,
        area=loads.area,
        left_out={"filter": sum(segment.memsz - segment.filesz for segment in segments)},
        unreadable=sum(end - start for start, end in unreadable),
        ranges=unreadable,
        names=names or {},
    )


def provenance(account: Account) -> Provenance:
    return Provenance(
        Origin(
            version="1.2.3",
            host="db7",
            pid=4711,
            stopped_at="2026-01-02T03:04:05.678+00:00",
            stop_milliseconds=1.25,
        ),
        policy={"unresponsive": "partial"},
        stopped=1,
        others={8: How.ZERO},
        account=account,
    )


def made(
    segments: Sequence[Segment],
    account: Account | None,
    files: Sequence[tuple[Vma, bytes]] = (),
    auxv: bytes = b"",
    signal: int = 0,
) -> Layout:
    """A core; without an account it has no GCOREFS note."""
    notes = ProcessNotes(
        machine=X86_64,
        info=INFO,
        threads=[Thread(tid, Registers(bytes(27 * 8)), signal) for tid in (7, 8)],
        siginfo=b"",
        auxv=auxv,
        files=files,
        provenance=None if account is None else provenance(account),
    )
    return Layout(X86_64, load(segments), notes.pack())
