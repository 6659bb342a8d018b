"""The notes of a 32-bit process: the same facts in narrower fields."""

import ctypes
import io
import struct
from dataclasses import replace
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.arch.i386 import I386
from gcorefs.arch.machine import RegisterKind
from gcorefs.elfcore import notes
from gcorefs.elfcore.layout import Layout
from gcorefs.elfcore.notes import ProcessIds, ProcessInfo, ProcessNotes, Thread
from gcorefs.elfcore.registers import Registers
from gcorefs.elfcore.segments import Loads
from tests.pure.smaps import make_vma
from tests.pure.structures import (
    NT_AUXV,
    NT_FILE,
    NT_PRPSINFO,
    NT_PRSTATUS,
    Prpsinfo32,
    Prstatus32,
    unpack,
)

IDS = ProcessIds(ppid=11, pgrp=12, sid=13)
INFO = ProcessInfo(
    pid=14, ids=IDS, state="S", nice=0, flags=0x400040, uid=1000, gid=1001, comm=b"sleep",
    arguments=b"sleep\x0010\0",
)  # fmt: skip
SETS = [(RegisterKind.FLOATING_POINT, b"f" * 108)]
# AT_SYSINFO and AT_PAGESZ, each with its value, and AT_NULL.
AUXV = struct.pack("<6I", 32, 0xF7EEF5E0, 6, 4096, 0, 0)

int32 = st.integers(0, (1 << 31) - 1)
word = st.integers(0, (1 << 32) - 1)
mask = st.integers(0, (1 << 64) - 1)
time = st.integers(0, (1 << 31) * 10**6 - 1)


def one(data: bytes) -> tuple[bytes, int, bytes]:
    (note,) = unpack(data)
    return note


def prpsinfo(**fields: object) -> Prpsinfo32:
    info = replace(INFO, **fields)  # type: ignore[arg-type]
    owner, kind, desc = one(notes.pack_prpsinfo(I386, info))
    assert (owner, kind, len(desc)) == (b"CORE", NT_PRPSINFO, 124)
    return Prpsinfo32.from_buffer_copy(desc)


def test_the_structures_are_as_large_as_the_kernel_s() -> None:
    assert (ctypes.sizeof(Prstatus32), ctypes.sizeof(Prpsinfo32)) == (144, 124)
    assert Prstatus32.reg.offset == 72


@given(
    st.lists(word, min_size=17, max_size=17),
    st.lists(int32, min_size=4, max_size=4),
    st.lists(time, min_size=4, max_size=4),
    st.integers(0, 64), mask, mask, st.booleans(),
)  # fmt: skip
def test_prstatus_holds_every_field_of_a_thread(
    registers: list[int],
    ids: list[int],
    times: list[int],
    signal: int,
    pending: int,
    blocked: int,
    is_stopped: bool,
) -> None:
    found = Registers.of(struct.pack("<17I", *registers), SETS if is_stopped else ())
    thread = Thread(ids[0], found, signal, pending, blocked, times)
    owner, kind, desc = one(notes.pack_prstatus(I386, thread, ProcessIds(*ids[1:])))
    assert (owner, kind, len(desc)) == (b"CORE", NT_PRSTATUS, 144)
    seen = Prstatus32.from_buffer_copy(desc)
    assert list(seen.reg) == registers
    assert [seen.pid, seen.ppid, seen.pgrp, seen.sid] == ids
    assert [
        t.sec * 10**6 + t.usec for t in (seen.utime, seen.stime, seen.cutime, seen.cstime)
    ] == times
    assert (seen.info.signo, seen.info.code, seen.info.errno, seen.cursig) == (signal, 0, 0, signal)
    # compat_ulong_t has no room for the real-time signals.
    assert (seen.sigpend, seen.sighold) == (pending & 0xFFFFFFFF, blocked & 0xFFFFFFFF)
    assert seen.fpvalid == is_stopped


@given(st.integers(-20, 19), word, st.lists(int32, min_size=4, max_size=4))
def test_prpsinfo_holds_every_field(nice: int, flags: int, ids: list[int]) -> None:
    seen = prpsinfo(nice=nice, flags=flags, pid=ids[0], ids=ProcessIds(*ids[1:]))
    assert (seen.nice, seen.flag, seen.uid, seen.gid) == (nice, flags, 1000, 1001)
    assert [seen.pid, seen.ppid, seen.pgrp, seen.sid] == ids
    assert (seen.sname, seen.fname, seen.psargs) == (b"S", b"sleep", b"sleep 10 ")


@pytest.mark.parametrize(
    ("number", "shown"), [(0, 0), (65535, 65535), (65536, 65534), (1 << 31, 65534), (-1, 65534)]
)
def test_an_id_that_is_too_large_is_that_of_nobody(number: int, shown: int) -> None:
    # include/linux/highuid.h, high2lowuid
    seen = prpsinfo(uid=number, gid=number)
    assert (seen.uid, seen.gid) == (shown, shown)


def test_every_mapped_file_is_listed_in_words_of_four_bytes() -> None:
    vmas = [
        make_vma(0x1000, 0x3000, offset=3 * 4096, name=b"a", inode=1),
        make_vma(0xFFFFD000, 0xFFFFE000, offset=0xFFFFFFFF * 4096, name=b"b", inode=1),
    ]
    owner, kind, desc = one(notes.pack_files(I386, [(vmas[0], b"/bin/a"), (vmas[1], b"/l\xff")]))
    assert (owner, kind) == (b"CORE", NT_FILE)
    table = struct.pack("<8I", 2, 4096, 0x1000, 0x3000, 3, 0xFFFFD000, 0xFFFFE000, 0xFFFFFFFF)
    assert desc == table + b"/bin/a\0/l\xff\0"


@pytest.mark.parametrize("behind", [0, 8, 16, 7])
def test_the_auxiliary_vector_ends_with_at_null(behind: int) -> None:
    assert one(notes.pack_auxv(I386, AUXV + bytes(behind))) == (b"CORE", NT_AUXV, AUXV)


@pytest.mark.parametrize("length", range(0, 24))
def test_an_auxiliary_vector_without_an_end_is_kept_as_it_is(length: int) -> None:
    # Until there is a whole AT_NULL; prctl(2), PR_SET_MM_AUXV may have written anything.
    assert one(notes.pack_auxv(I386, AUXV[:length])) == (b"CORE", NT_AUXV, AUXV[:length])


def test_pyelftools_reads_process_and_files_as_we_meant_them() -> None:
    vma = make_vma(0x1000, 0x2000, offset=3 * 4096, name=b"a", inode=1)
    process = ProcessNotes(
        machine=I386,
        info=INFO,
        threads=[Thread(tid, Registers.of(bytes(68), SETS)) for tid in (14, 15)],
        siginfo=b"\x13",
        auxv=AUXV,
        files=[(vma, b"/bin/a")],
    )
    elf: Any = ELFFile(io.BytesIO(Layout(I386, Loads(), process.pack()).header))
    found = list(elf.get_segment(0).iter_notes())
    kinds = [note["n_type"] for note in found]
    thread = ["NT_PRSTATUS", "NT_FPREGSET"]
    process_wide = ["NT_PRPSINFO", "NT_SIGINFO", "NT_AUXV", "NT_FILE"]
    assert kinds == [thread[0], *process_wide, thread[1], *thread]
    info, files = found[1]["n_desc"], found[4]["n_desc"]
    assert (info["pr_pid"], info["pr_uid"], info["pr_flag"]) == (14, 1000, 0x400040)
    assert info["pr_psargs"].rstrip(b"\0") == b"sleep 10 "
    assert (files["num_map_entries"], files["page_size"]) == (1, 4096)
    assert files["filename"] == [b"/bin/a"]
    (row,) = files["Elf_Nt_File_Entry"]
    assert (row["vm_start"], row["vm_end"], row["page_offset"]) == (0x1000, 0x2000, 3)
