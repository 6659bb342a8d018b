"""The notes of a core: every field, the order, and how pyelftools reads them.

fs/binfmt_elf.c defines their content; structures.py reads them back.
"""

import ctypes
import io
import struct
from dataclasses import replace
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.arch.machine import RegisterKind, Sets
from gcorefs.arch.x86_64 import X86_64
from gcorefs.elfcore import notes
from gcorefs.elfcore.elf import pack_note
from gcorefs.elfcore.layout import Layout
from gcorefs.elfcore.notes import ProcessIds, ProcessInfo, ProcessNotes, Thread
from gcorefs.elfcore.registers import Registers
from gcorefs.elfcore.segments import Loads
from gcorefs.elfcore.vma import Vma
from tests.pure.smaps import make_vma
from tests.pure.structures import (
    NT_AUXV,
    NT_FILE,
    NT_PRFPREG,
    NT_PRPSINFO,
    NT_PRSTATUS,
    NT_SIGINFO,
    NT_X86_XSAVE_LAYOUT,
    NT_X86_XSTATE,
    Prpsinfo,
    Prstatus,
    unpack,
)

IDS = ProcessIds(ppid=11, pgrp=12, sid=13)
INFO = ProcessInfo(
    pid=14, ids=IDS, state="S", nice=0, flags=0x400040, uid=1000, gid=1001, comm=b"sleep",
    arguments=b"sleep\x0010\0",
)  # fmt: skip
AUXV = struct.pack("<4Q", 6, 4096, 0, 0)
XSTATE = bytes(range(256)) * 4
SETS = (RegisterKind.FLOATING_POINT, b"f" * 512), (RegisterKind.XSTATE, XSTATE)


def _thread(tid: int = 14, sets: Sets = SETS) -> Thread:
    return Thread(tid, Registers.of(struct.pack("<27Q", *range(tid, tid + 27)), sets))


def _process(**fields: object) -> ProcessNotes:
    defaults: dict[str, object] = {
        "machine": X86_64, "info": INFO, "threads": [_thread()], "siginfo": b"", "auxv": AUXV,
        "files": [],
    }  # fmt: skip
    return ProcessNotes(**{**defaults, **fields})  # type: ignore[arg-type]


def one(data: bytes) -> tuple[bytes, int, bytes]:
    (note,) = unpack(data)
    return note


def prstatus(thread: Thread, ids: ProcessIds = IDS) -> Prstatus:
    owner, kind, desc = one(notes.pack_prstatus(X86_64, thread, ids))
    assert (owner, kind, len(desc)) == (b"CORE", NT_PRSTATUS, 336)
    return Prstatus.from_buffer_copy(desc)


def prpsinfo(**fields: object) -> Prpsinfo:
    owner, kind, desc = one(notes.pack_prpsinfo(X86_64, replace(INFO, **fields)))  # type: ignore[arg-type]
    assert (owner, kind, len(desc)) == (b"CORE", NT_PRPSINFO, 136)
    return Prpsinfo.from_buffer_copy(desc)


def test_the_structures_are_as_large_as_the_kernel_s() -> None:
    assert (ctypes.sizeof(Prstatus), ctypes.sizeof(Prpsinfo)) == (336, 136)
    assert Prstatus.reg.offset == 112


@given(st.binary(min_size=1, max_size=9), st.integers(0, (1 << 32) - 1), st.binary(max_size=50))
def test_a_note_is_padded_to_four_bytes(owner: bytes, kind: int, desc: bytes) -> None:
    assert one(pack_note(owner, kind, desc)) == (owner, kind, desc)


int32 = st.integers(0, (1 << 31) - 1)
word = st.integers(0, (1 << 64) - 1)
time = st.integers(0, 10**15)


@given(
    st.lists(word, min_size=27, max_size=27),
    st.lists(int32, min_size=4, max_size=4),
    st.lists(time, min_size=4, max_size=4),
    st.integers(0, 64), word, word,
)  # fmt: skip
def test_prstatus_holds_every_field_of_a_thread(
    registers: list[int], ids: list[int], times: list[int], signal: int, pending: int, blocked: int
) -> None:
    found = Registers.of(struct.pack("<27Q", *registers), SETS)
    thread = Thread(ids[0], found, signal, pending, blocked, times)
    seen = prstatus(thread, ProcessIds(*ids[1:]))
    assert list(seen.reg) == registers
    assert [seen.pid, seen.ppid, seen.pgrp, seen.sid] == ids
    assert [
        t.sec * 10**6 + t.usec for t in (seen.utime, seen.stime, seen.cutime, seen.cstime)
    ] == times
    assert max(t.usec for t in (seen.utime, seen.stime, seen.cutime, seen.cstime)) < 10**6
    assert (seen.info.signo, seen.info.code, seen.info.errno, seen.cursig) == (signal, 0, 0, signal)
    assert (seen.sigpend, seen.sighold, seen.fpvalid) == (pending, blocked, 1)


def test_a_thread_that_did_not_stop_has_no_valid_floating_point() -> None:
    assert prstatus(_thread(sets=())).fpvalid == 0


@pytest.mark.parametrize(
    ("state", "number", "shown", "zombie"),
    [
        ("R", 0, b"R", 0), ("S", 1, b"S", 0), ("D", 2, b"D", 0), ("T", 3, b"T", 0),
        ("Z", 4, b"Z", 1), ("t", 6, b".", 0), ("X", 6, b".", 0), ("I", 6, b".", 0),
    ],
)  # fmt: skip
def test_the_state_is_number_and_letter(state: str, number: int, shown: bytes, zombie: int) -> None:
    seen = prpsinfo(state=state)
    assert (ord(seen.state), seen.sname, ord(seen.zomb)) == (number, shown, zombie)


@given(st.integers(-20, 19), word, st.lists(st.integers(0, (1 << 32) - 1), min_size=2, max_size=2),
       st.lists(int32, min_size=4, max_size=4))  # fmt: skip
def test_prpsinfo_holds_every_field(
    nice: int, flags: int, owner: list[int], ids: list[int]
) -> None:
    seen = prpsinfo(
        nice=nice, flags=flags, uid=owner[0], gid=owner[1], pid=ids[0], ids=ProcessIds(*ids[1:])
    )
    assert (seen.nice, seen.flag, [seen.uid, seen.gid]) == (nice, flags, owner)
    assert [seen.pid, seen.ppid, seen.pgrp, seen.sid] == ids


def test_an_id_of_minus_one_is_that_of_nobody() -> None:
    seen = prpsinfo(uid=-1, gid=-1)
    assert (seen.uid, seen.gid) == (0xFFFFFFFF, 0xFFFFFFFF)


@given(st.binary(max_size=40).map(lambda name: name.replace(b"\0", b"")))
def test_the_name_is_cut_at_fifteen_bytes(comm: bytes) -> None:
    # struct task_struct, comm: sixteen bytes with the NUL.
    desc = one(notes.pack_prpsinfo(X86_64, replace(INFO, comm=comm)))[2]
    assert desc[40:56] == comm[:15].ljust(16, b"\0")


@given(st.binary(max_size=10) | st.binary(min_size=76, max_size=90))
def test_arguments_are_79_bytes_with_blanks_for_nuls(arguments: bytes) -> None:
    # fill_psinfo: each NUL of the area becomes a blank, also the one after the last word.
    desc = one(notes.pack_prpsinfo(X86_64, replace(INFO, arguments=arguments)))[2]
    kept = bytes(byte or 0x20 for byte in arguments[:79])
    assert desc[56:136] == kept.ljust(80, b"\0")


def _file(start: int, path: bytes, pages: int = 0) -> tuple[Vma, bytes]:
    return make_vma(start, start + 0x1000, offset=pages * 4096, name=b"shown", inode=1), path


@given(st.lists(st.tuples(st.binary(max_size=50), st.integers(0, (1 << 52) - 1)), max_size=8))
def test_every_mapped_file_is_listed(files: list[tuple[bytes, int]]) -> None:
    paths = [path.replace(b"\0", b"") for path, _ in files]
    rows = [
        _file((i + 1) << 12, path, pages)
        for i, (path, (_, pages)) in enumerate(zip(paths, files, strict=True))
    ]
    owner, kind, desc = one(notes.pack_files(X86_64, rows))
    assert (owner, kind) == (b"CORE", NT_FILE)
    count, page_size = struct.unpack_from("<QQ", desc)
    assert (count, page_size) == (len(files), 4096)
    table = list(struct.iter_unpack("<QQQ", desc[16 : 16 + 24 * count]))
    assert table == [(vma.start, vma.end, vma.offset // 4096) for vma, _ in rows]
    assert desc[16 + 24 * count :] == b"".join(path + b"\0" for path in paths)


def _files_of(size: int) -> list[tuple[Vma, bytes]]:
    """Two files whose descriptor has `size` bytes."""
    return [_file(0x1000, b"/a"), _file(0x3000, b"/" * (size - 16 - 48 - 3 - 1))]


def test_a_list_of_files_below_four_mebibytes_is_whole() -> None:
    _, _, desc = one(notes.pack_files(X86_64, _files_of((4 << 20) - 1)))
    assert len(desc) == (4 << 20) - 1


@pytest.mark.parametrize("size", [4 << 20, (4 << 20) + 1])
def test_a_list_of_files_that_the_kernel_would_not_write_is_left_out(size: int) -> None:
    # fill_files_note refuses a buffer of exactly the limit, so the list must be smaller.
    assert notes.pack_files(X86_64, _files_of(size)) == b""
    kinds = [kind for _, kind, _ in unpack(bytes(_process(files=_files_of(size)).pack()))]
    assert kinds == [NT_PRSTATUS, NT_PRPSINFO, NT_AUXV, NT_PRFPREG, NT_X86_XSTATE]


def test_the_limit_of_a_list_of_files_can_be_another() -> None:
    packed = bytes(_process(files=_files_of(4 << 20), file_note_limit=(4 << 20) + 1).pack())
    assert NT_FILE in [kind for _, kind, _ in unpack(packed)]


def test_the_place_of_each_feature_is_told_in_sixteen_bytes() -> None:
    # arch/x86/include/uapi/asm/elf.h, struct x86_xfeat_component: type, size, offset, flags.
    owner, kind, desc = one(notes.pack_xsave_layout([(2, 256, 576), (9, 8, 2688)]))
    assert (owner, kind) == (b"LINUX", NT_X86_XSAVE_LAYOUT)
    assert desc == struct.pack("<8I", 2, 256, 576, 0, 9, 8, 2688, 0)


def test_siginfo_is_128_bytes() -> None:
    process = _process(siginfo=struct.pack("<i", 19))
    (desc,) = [desc for _, kind, desc in unpack(bytes(process.pack())) if kind == NT_SIGINFO]
    assert desc == b"\x13".ljust(128, b"\0")


def _whole_process() -> ProcessNotes:
    threads = [_thread(14), _thread(15), _thread(16, ()), _thread(17)]
    files = [_file(0x1000, b"/bin/a b", 3), _file(0x3000, b"/l\xff\n (deleted)")]
    siginfo = struct.pack("<i", 19)
    return _process(threads=threads, files=files, siginfo=siginfo, xsave_layout=[(2, 256, 576)])


def test_the_notes_stand_in_the_kernel_s_order() -> None:
    order = [(owner, kind) for owner, kind, _ in unpack(bytes(_whole_process().pack()))]
    status, regsets = (b"CORE", NT_PRSTATUS), [(b"CORE", NT_PRFPREG), (b"LINUX", NT_X86_XSTATE)]
    process = [(b"CORE", kind) for kind in (NT_PRPSINFO, NT_SIGINFO, NT_AUXV, NT_FILE)]
    assert order == [
        status, *process, *regsets,
        status, *regsets,
        status,
        status, *regsets,
        (b"LINUX", NT_X86_XSAVE_LAYOUT),
    ]  # fmt: skip


def test_each_thread_s_notes_hold_its_own_bytes() -> None:
    found = list(unpack(bytes(_whole_process().pack())))
    status = [Prstatus.from_buffer_copy(desc) for _, kind, desc in found if kind == NT_PRSTATUS]
    assert [s.pid for s in status] == [14, 15, 16, 17]
    assert [s.reg[0] for s in status] == [14, 15, 16, 17]
    assert [s.fpvalid for s in status] == [1, 1, 0, 1]
    assert [desc for _, kind, desc in found if kind == NT_AUXV] == [AUXV]
    assert {desc for _, kind, desc in found if kind == NT_X86_XSTATE} == {XSTATE}


def test_what_there_is_not_has_no_note() -> None:
    kinds = [kind for _, kind, _ in unpack(bytes(_process(threads=[_thread(sets=())]).pack()))]
    assert kinds == [NT_PRSTATUS, NT_PRPSINFO, NT_AUXV, NT_FILE]


def _seen_by_pyelftools(process: ProcessNotes) -> list[Any]:
    elf: Any = ELFFile(io.BytesIO(Layout(X86_64, Loads(), process.pack()).header))
    return list(elf.get_segment(0).iter_notes())


def test_pyelftools_finds_the_same_notes() -> None:
    process = _whole_process()
    seen = [
        (note["n_name"], note["n_descsz"], note["n_descdata"])
        for note in _seen_by_pyelftools(process)
    ]
    expected = [
        (owner.decode(), len(desc), desc) for owner, _, desc in unpack(bytes(process.pack()))
    ]
    assert seen == expected


def test_pyelftools_reads_process_and_files_as_we_meant_them() -> None:
    by_kind = {note["n_type"]: note["n_desc"] for note in _seen_by_pyelftools(_whole_process())}
    info = by_kind["NT_PRPSINFO"]
    assert (info["pr_fname"].rstrip(b"\0"), info["pr_psargs"].rstrip(b"\0")) == (
        b"sleep",
        b"sleep 10 ",
    )
    assert (info["pr_pid"], info["pr_uid"], info["pr_flag"]) == (14, 1000, 0x400040)
    files = by_kind["NT_FILE"]
    assert (files["num_map_entries"], files["page_size"]) == (2, 4096)
    assert files["filename"] == [b"/bin/a b", b"/l\xff\n (deleted)"]
    rows = [(e["vm_start"], e["vm_end"], e["page_offset"]) for e in files["Elf_Nt_File_Entry"]]
    assert rows == [(0x1000, 0x2000, 3), (0x3000, 0x4000, 0)]
