"""Every register set of a thread on aarch64: as the program filled it, as PTRACE_GETREGSET gives
it, and as the kernel's own core has it; with vectors of several lengths."""

import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Target, wait_until_gone
from tests.readers.corefile import Core, Note
from tests.readers.debuggers import gdb_threads, run

pytestmark = pytest.mark.skipif(
    os.uname().machine != "aarch64", reason="these are the registers of aarch64"
)

CPU = Path("/proc/cpuinfo").read_text().split()
LENGTHS = (16, 64, 256) if "sve" in CPU else ()
# include/uapi/linux/elf.h
PRSTATUS, PRFPREG, TLS, SVE, SSVE, ZA = 1, 2, 0x401, 0x405, 0x40B, 0x40C
TAGGED_ADDR_CTRL = 0x409
# In PRSTATUS the general registers lie between pr_cstime and pr_fpvalid.
GENERAL = slice(112, -8)
OF_THE_PROCESS = ("NT_PRPSINFO", "NT_SIGINFO", "NT_AUXV", "NT_FILE")
NUMBERS = {"NT_PRSTATUS": PRSTATUS, "NT_FPREGSET": PRFPREG}
TAGGED_ADDR_ENABLE = 1


@pytest.fixture
def target(spawn: Callable[..., Target]) -> Target:
    return spawn("vectors", 0, *LENGTHS)


def sets_of(core: Core) -> dict[int, list[tuple[int, bytes]]]:
    """The notes of each thread in their order, with the general registers of PRSTATUS."""
    found: dict[int, list[tuple[int, bytes]]] = {}
    tids = iter(core.threads)
    for note in core.notes:
        if note.kind in OF_THE_PROCESS:
            continue
        kind = number(note)
        if kind == PRSTATUS:
            sets = found[next(tids)] = []
        sets.append((kind, note.desc[GENERAL] if kind == PRSTATUS else note.desc))
    return found


def number(note: Note) -> int:
    kind = NUMBERS.get(str(note.kind), note.kind)
    assert isinstance(kind, int)
    return kind


def given_by_ptrace(pid: int) -> dict[int, dict[int, bytes]]:
    found = json.loads(run(sys.executable, "-m", "tests.readers.getregset", pid)[0])
    return {
        int(tid): {int(kind): cut(int(kind), bytes.fromhex(data)) for kind, data in sets.items()}
        for tid, sets in found.items()
    }


def cut(kind: int, data: bytes) -> bytes:
    """The kernel reports the largest size of a set of vectors; the set says how much it has."""
    if kind not in (SVE, SSVE, ZA):
        return data
    (size,) = struct.unpack_from("<I", data)
    return data[: -(-size // 16) * 16]


def test_every_register_is_what_the_program_loaded(
    target: Target, dump: Callable[..., Path]
) -> None:
    core = Core(dump(target.pid))
    found = sets_of(core)
    for thread in target.truth["threads"]:
        sets = dict(found[thread["tid"]])
        *x, sp, pc, _ = struct.unpack("<34Q", sets[PRSTATUS])
        assert (x, sp) == (thread["x"], thread["sp"])
        assert target.truth["start"] <= pc < target.truth["end"]
        assert int.from_bytes(sets[TLS][:8], "little") == thread["tls"]
        assert int.from_bytes(sets[TAGGED_ADDR_CTRL], "little") == TAGGED_ADDR_ENABLE
        vectors, predicates = bytes.fromhex(thread["z"]), bytes.fromhex(thread["p"])
        length = thread["length"] or 16
        low = b"".join(vectors[at : at + 16] for at in range(0, 32 * length, length))
        controls = struct.pack("<II", thread["fpsr"], thread["fpcr"])
        assert sets[PRFPREG][:520] == low + controls
        if thread["length"]:
            size, most, now, _, flags = struct.unpack_from("<IIHHH", sets[SVE])
            assert (size, most, now, flags & 1) == (len(sets[SVE]), 8768, length, 1)
            end = 16 + len(vectors + predicates)
            assert sets[SVE][16:end] == vectors + predicates
            assert sets[SVE][end + -end % 16 :][:8] == controls


def test_every_set_is_the_one_that_ptrace_gives(target: Target, dump: Callable[..., Path]) -> None:
    expected = given_by_ptrace(target.pid)
    threads = [thread["tid"] for thread in target.truth["threads"]]
    found = {tid: dict(sets) for tid, sets in sets_of(Core(dump(target.pid))).items()}
    assert set(found) == {target.pid, *threads}
    for tid in threads:
        assert {kind: data.hex() for kind, data in found[tid].items()} == {
            kind: data.hex() for kind, data in expected[tid].items()
        }


def test_the_notes_are_those_of_the_kernel_s_own_core(
    target: Target, dump: Callable[..., Path], core_pattern: Path
) -> None:
    resource.prlimit(target.pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
    ours = sets_of(Core(dump(target.pid)))
    os.kill(target.pid, signal.SIGABRT)
    wait_until_gone(target.pid)
    kernels = sets_of(Core(Path(f"{core_pattern}.{target.pid}")))
    assert set(ours) == set(kernels)
    for tid, sets in ours.items():
        assert [kind for kind, _ in sets] == [kind for kind, _ in kernels[tid]]
        for (kind, data), (_, wanted) in zip(sets, kernels[tid], strict=True):
            assert data.hex() == wanted.hex(), f"set {kind:#x} of {tid}"


def test_gdb_shows_the_vectors(
    target: Target, dump: Callable[..., Path], build: Callable[[str], Path]
) -> None:
    core = dump(target.pid)
    target.kill()  # its threads spin, and gdb wants the processor
    shown = gdb_threads(build("vectors"), core, "--", "thread apply all p/x $x7")
    for thread in target.truth["threads"]:
        assert f"{thread['x'][7]:#x}" in shown[thread["tid"]]
