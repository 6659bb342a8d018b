"""Cores of many processors: how gdb and lldb show every vector register.

The states are made up (tests/pure/processors.py), but the cores are packed like all others.  gdb 13
is Debian 12's.  gdb 14 changed its assumptions, so a newer gdb is tested too.
"""

import re
import subprocess
import sys
from functools import partial
from itertools import chain
from pathlib import Path

import pytest

from gcorefs.arch.i386 import I386
from gcorefs.arch.machine import Machine, RegisterKind
from gcorefs.arch.x86_64 import X86_64
from gcorefs.arch.xsave import XStates
from gcorefs.elfcore.layout import Layout as FileLayout
from gcorefs.elfcore.loads import load
from gcorefs.elfcore.notes import ProcessIds, ProcessInfo, ProcessNotes, Thread
from gcorefs.elfcore.registers import Registers
from gcorefs.elfcore.segments import Segments
from tests.pure.processors import LAYOUTS, Layout, State, cpuid_of, full
from tests.readers.corefile import Core
from tests.readers.debuggers import ask_bytes, bytes_shown, run

TIDS = (7, 8, 9)
INFO = ProcessInfo(
    pid=7, ids=ProcessIds(1, 2, 3), state="S", nice=0, flags=0, uid=0, gid=0,
    comm=b"vectors", arguments=b"vectors\0",
)  # fmt: skip


# The second is gdb-for-pwndbg of PyPI, in the environment that runs the tests.
GDBS = {"Debian's gdb": Path("/usr/bin/gdb"), "a newer gdb": Path(sys.executable).with_name("gdb")}


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Layout:
    return LAYOUTS[request.param]


def i387(state: State) -> bytes:
    """NT_PRFPREG of a 32-bit process: struct user_i387_ia32_struct."""
    legacy = state.legacy
    words = (0xFFFF037F, 0xFFFF0000, 0xFFFF0000, 0, 0, 0, 0)
    head = b"".join(word.to_bytes(4, "little") for word in words)
    return head + b"".join(legacy[32 + 16 * n : 42 + 16 * n] for n in range(8))


def write_core(path: Path, machine: Machine, layout: Layout, is_raw: bool = False) -> list[State]:
    """Write a core with three threads; returns the registers of each."""
    xstates = XStates(is_raw, partial(cpuid_of, layout))
    states = [full(layout, tid) for tid in TIDS]
    threads = []
    for tid, state in zip(TIDS, states, strict=True):
        written, kept = xstates.take(state.xstate)
        sets = {RegisterKind.FLOATING_POINT: state.legacy, RegisterKind.XSTATE: written}
        if machine is I386:
            sets[RegisterKind.FLOATING_POINT] = i387(state)
            sets[RegisterKind.FXSAVE] = state.legacy
        if kept:
            sets[RegisterKind.KERNEL_XSTATE] = kept
        threads.append(Thread(tid, Registers.of(b"", [*sets.items()])))
    account = xstates.account(0)
    assert account is not None
    notes_of_all = ProcessNotes(
        machine=machine,
        info=INFO,
        threads=threads,
        siginfo=b"",
        auxv=b"",
        files=[],
        xsave_layout=account.written.components,
    )
    path.write_bytes(FileLayout(machine, load(Segments.of([])), notes_of_all.pack()).header)
    return states


def expected(machine: Machine, state: State) -> dict[str, str]:
    """The bytes of each register in hex, the first byte first."""
    count = 8 if machine is I386 else 16
    wide = 8 if machine is I386 else 32
    length = len(state.vector(0))
    found = {f"st{n}": state.legacy[32 + 16 * n : 42 + 16 * n].hex() for n in range(8)}
    for number in range(wide if length == 64 else count):
        vector = state.vector(number)
        found[f"xmm{number}"] = vector[:16].hex()
        if length >= 32:
            found[f"ymm{number}"] = vector[:32].hex()
        if length == 64:
            found[f"zmm{number}"] = vector.hex()
    found |= {f"k{n}": mask.to_bytes(8, "little").hex() for n, mask in enumerate(state.opmasks)}
    if state.pkru is not None:
        found["pkru"] = state.pkru.to_bytes(4, "little").hex()
    return found


def gdb_says(gdb: Path, core: Path, names: list[str], script: Path) -> dict[int, dict[str, str]]:
    """Registers by thread; gdb may print nothing else."""
    lines = ["set debuginfod enabled off", "set print repeats unlimited", f"core-file {core}"]
    for number, _ in enumerate(TIDS, 1):
        lines += [f"thread {number}", "echo @\\n", *chain.from_iterable(map(ask_bytes, names))]
    script.write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        [gdb, "-nx", "-batch", "-x", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert "warning" not in (done.stdout + done.stderr).lower(), done.stdout + done.stderr
    assert "too small" not in done.stdout + done.stderr
    _, *parts = done.stdout.split("\n@\n")
    return {tid: bytes_shown(part) for tid, part in zip(TIDS, parts, strict=True)}


@pytest.mark.parametrize("machine", [X86_64, I386], ids=["64 bits", "32 bits"])
@pytest.mark.parametrize("name", GDBS)
def test_gdb_shows_every_register_and_warns_of_nothing(
    tmp_path: Path, layout: Layout, name: str, machine: Machine
) -> None:
    states = write_core(tmp_path / "core", machine, layout)
    truth = {tid: expected(machine, state) for tid, state in zip(TIDS, states, strict=True)}
    names = list(truth[TIDS[0]])
    found = gdb_says(GDBS[name], tmp_path / "core", names, tmp_path / "script")
    assert found == truth


def test_of_the_processor_s_own_layout_gdb_13_shows_no_more_than_sse(tmp_path: Path) -> None:
    out, _ = run(GDBS["Debian's gdb"], "--version")
    if not re.match(r"GNU gdb .* 13\.", out):
        pytest.skip("Debian's gdb is not gdb 13")
    core = tmp_path / "core"
    write_core(core, X86_64, LAYOUTS["AMD without protection keys"], is_raw=True)
    options = ("-nx", "-batch", "-ex", f"core-file {core}", "-ex", "info registers k1")
    done = subprocess.run(
        [GDBS["Debian's gdb"], *options], capture_output=True, text=True, timeout=60, check=True
    )
    assert "warning: Section `.reg-xstate/7' in core file too small." in done.stderr
    assert re.search("^k1 +<unavailable>$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("machine", [X86_64, I386], ids=["64 bits", "32 bits"])
def test_lldb_shows_what_it_takes_from_the_other_notes(
    tmp_path: Path, layout: Layout, machine: Machine
) -> None:
    """It reads x87 and SSE from NT_PRFPREG or NT_PRXFPREG, but does not read NT_X86_XSTATE
    (RegisterContextPOSIXCore_x86_64): from any core it has only the xmm part of a vector."""
    core = tmp_path / "core"
    states = write_core(core, machine, layout)
    count = 8 if machine is I386 else 16
    names = [f"st{n}" for n in range(8)] + [f"xmm{n}" for n in range(count)]
    words = ["-o", f"target create --core {core}"]
    for number, _ in enumerate(TIDS, 1):
        words += ["-o", f"thread select {number}", "-o", f"register read {' '.join(names)}"]
    out, _ = run("lldb", "--batch", "--no-lldbinit", *words)
    _, *parts = out.split("(lldb) register read")
    assert len(parts) == len(TIDS)
    for part, state in zip(parts, states, strict=True):
        raw = re.findall(r"^ *(\w+) = \{([0-9a-fx ]+)\}", part, re.MULTILINE)
        found = {name: value.replace("0x", "").replace(" ", "") for name, value in raw}
        truth = expected(machine, state)
        assert found == {name: truth[name] for name in names}


def test_readers_skip_our_note(tmp_path: Path) -> None:
    core = tmp_path / "core"
    layout = LAYOUTS["Intel with AMX"]
    states = write_core(core, X86_64, layout)
    kept = [note.desc for note in Core(core).own_notes]
    assert kept == [state.xstate for state in states]
    out, error = run("eu-readelf", "-n", core)
    assert error == ""
    assert out.count("PRSTATUS") == len(TIDS)
    assert out.count("GCOREFS") == len(TIDS)
    assert "warning" not in run("readelf", "-n", core)[1].lower()
