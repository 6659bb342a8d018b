"""Where a core says that each feature's registers lie, for processors that are not here.

A processor's own CPUID decides (leaf 0xD: size and offset of each feature, Intel SDM vol. 1,
13.2), never a table of ours; those below are made up from such answers.
"""

import struct
from collections.abc import Callable, Iterator

import pytest

from gcorefs import assembly
from gcorefs.elfcore.notes import ProcessIds, ProcessInfo, ProcessNotes, Thread, pack_regsets
from gcorefs.elfcore.regsets import NT_PRFPREG, NT_X86_SHSTK, NT_X86_XSTATE, X86_64
from gcorefs.process import syscalls
from gcorefs.process.record import Record
from tests.pure.structures import NT_PRSTATUS, NT_X86_XSAVE_LAYOUT, unpack

Layout = dict[int, tuple[int, int]]
"""Offset and size by feature."""

AVX, OPMASK, ZMM_HI256, HI16_ZMM, PKRU, TILECFG, TILEDATA = 2, 5, 6, 7, 9, 17, 18

LAYOUTS: dict[str, Layout] = {
    "Intel with AMX": {
        AVX: (576, 256), OPMASK: (1088, 64), ZMM_HI256: (1152, 512), HI16_ZMM: (1664, 1024),
        PKRU: (2688, 8), TILECFG: (2752, 64), TILEDATA: (2816, 8192),
    },
    "Intel without AVX-512": {AVX: (576, 256), PKRU: (2688, 8)},
    "AMD": {
        AVX: (576, 256), OPMASK: (832, 64), ZMM_HI256: (896, 512), HI16_ZMM: (1408, 1024),
        PKRU: (2432, 8),
    },
    "AMD without protection keys": {
        AVX: (576, 256), OPMASK: (832, 64), ZMM_HI256: (896, 512), HI16_ZMM: (1408, 1024),
    },
    "SSE alone": {},
}  # fmt: skip

INFO = ProcessInfo(
    pid=14, ids=ProcessIds(ppid=11, pgrp=12, sid=13), state="S", nice=0, flags=0, uid=0, gid=0,
    comm=b"sleep", arguments=b"",
)  # fmt: skip
SSP = struct.pack("<Q", 0x7F00_1234_5678)
FPREG = bytes(range(128)) * 4


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Layout]:
    """A processor of that kind."""
    found = LAYOUTS[request.param]

    def cpuid(leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        assert leaf == 0xD
        offset, size = found[subleaf]
        return size, offset, 0, 0

    monkeypatch.setattr(syscalls, "cpuid", cpuid)
    return found


def contents(feature: int, size: int) -> bytes:
    return bytes((feature * 11 + at) % 256 for at in range(size))


def xstate(layout: Layout) -> bytes:
    """What PTRACE_GETREGSET gives there, every feature with bytes of its own."""
    data = bytearray(max((offset + size for offset, size in layout.values()), default=576))
    mask = sum(1 << feature for feature in (0, 1, *layout))
    data[464:472] = struct.pack("<Q", mask)
    for feature, (offset, size) in layout.items():
        data[offset : offset + size] = contents(feature, size)
    return bytes(data)


def notes(records: list[Record]) -> list[tuple[bytes, int, bytes]]:
    process = ProcessNotes(
        machine=X86_64,
        info=INFO,
        threads=[Thread(record.tid, record.general, record.regsets) for record in records],
        siginfo=b"",
        auxv=b"",
        files=[],
        xsave_layout=assembly._xsave_layout(records),
    )
    return list(unpack(bytes(process.pack())))


def whole(tid: int, layout: Layout) -> Record:
    sets = {NT_PRFPREG: FPREG, NT_X86_XSTATE: xstate(layout), NT_X86_SHSTK: SSP}
    known = [each for each in X86_64.regsets if each.note in sets]
    return Record(tid, bytes(216), pack_regsets((each, sets[each.note]) for each in known))


def late(tid: int) -> Record:
    return Record(tid, bytes(216))


@pytest.mark.parametrize("others", [(), (late,)], ids=["alone", "behind one that did not stop"])
def test_a_reader_finds_every_feature_by_the_layout_note(
    layout: Layout, others: tuple[Callable[[int], Record], ...]
) -> None:
    found = notes([*(make(13) for make in others), whole(14, layout)])
    (state,) = (desc for _, kind, desc in found if kind == NT_X86_XSTATE)
    assert state == xstate(layout)
    rows = [desc for _, kind, desc in found if kind == NT_X86_XSAVE_LAYOUT]
    assert len(rows) == bool(layout)
    seen = [row for desc in rows for row in struct.iter_unpack("<IIII", desc)]
    assert [(feature, flags) for feature, _, _, flags in seen] == [(n, 0) for n in layout]
    for feature, size, offset, _ in seen:
        assert (offset, size) == layout[feature]
        assert state[offset : offset + size] == contents(feature, size)


def test_a_shadow_stack_pointer_stands_behind_the_thread_s_xstate(layout: Layout) -> None:
    found = [(owner, kind) for owner, kind, _ in notes([whole(14, layout), whole(15, layout)])]
    mine = [(b"CORE", NT_PRFPREG), (b"LINUX", NT_X86_XSTATE), (b"LINUX", NT_X86_SHSTK)]
    end = [(b"LINUX", NT_X86_XSAVE_LAYOUT)] if layout else []
    assert found[-7 - len(end) :] == [*mine, (b"CORE", NT_PRSTATUS), *mine, *end]
    sets = [desc for _, kind, desc in notes([whole(14, layout)]) if kind == NT_X86_SHSTK]
    assert sets == [SSP]


def test_no_state_has_no_layout(layout: Layout) -> None:
    assert NT_X86_XSAVE_LAYOUT not in [kind for _, kind, _ in notes([late(14)])]


def test_where_cpuid_cannot_be_had_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, layout: Layout
) -> None:
    def refuse(leaf: int, subleaf: int) -> None:
        raise PermissionError

    monkeypatch.setattr(syscalls, "cpuid", refuse)
    assert NT_X86_XSAVE_LAYOUT not in [kind for _, kind, _ in notes([whole(14, layout)])]
