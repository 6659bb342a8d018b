"""Every register set in the core equals the answer of PTRACE_GETREGSET, to the byte, after the
vector registers are moved back to the kernel's places; and gdb shows the same for the core as for
the process.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gcorefs.arch import cpuid as processor
from tests.conftest import Mount, Target, wait_until_asleep
from tests.mounted.conftest import opened, whole
from tests.readers.corefile import X86_XSAVE_LAYOUT, Core
from tests.readers.debuggers import gdb_threads, run

Spawn = Callable[..., Target]

PRSTATUS, PRFPREG, XSTATE = 1, 2, 0x202
KEPT = int.from_bytes(b"GCXS")
# In PRSTATUS the general registers lie between pr_cstime and pr_fpvalid.
GENERAL = slice(112, -8)
NAMES = {"NT_PRSTATUS": PRSTATUS, "NT_FPREGSET": PRFPREG}
OF_THE_PROCESS = ("NT_PRPSINFO", "NT_SIGINFO", "NT_AUXV", "NT_FILE", X86_XSAVE_LAYOUT)

AVX, OPMASK, PKRU = 2, 5, 9
GDBS_PLACES = {OPMASK: (1088, r"k[0-7]|zmm\d+|[xy]mm(1[6-9]|2\d|3[01])"), PKRU: (2688, "pkru")}
"""The offset of a feature for gdb 13, and the registers that are wrong if it is at another one."""

# gdb leaves these out of "all-registers" if zmm registers include them.
MORE = "registers orig_rax fs_base gs_base " + " ".join(
    f"{kind}mm{number}" for kind in "xy" for number in range(16)
)


def given_by_ptrace(pid: int) -> dict[int, dict[int, str]]:
    """By thread and note type.  The threads sleep in the same calls before and after."""
    wait_until_asleep(pid)
    found = json.loads(run(sys.executable, "-m", "tests.readers.getregset", pid)[0])
    wait_until_asleep(pid)
    return {
        int(tid): {int(kind): data for kind, data in sets.items()} for tid, sets in found.items()
    }


def in_the_notes(core: Core, is_raw: bool = False) -> dict[int, dict[int, str]]:
    """`is_raw`: NT_X86_XSTATE must have the kernel's layout."""
    found: dict[int, dict[int, str]] = {}
    tids = iter(core.threads)
    for note in core.notes:
        if note.kind in OF_THE_PROCESS:
            continue
        kind = NAMES.get(str(note.kind), note.kind)
        assert isinstance(kind, int)
        assert note.owner == ("CORE" if note.kind in NAMES else "LINUX")
        if kind == PRSTATUS:
            sets = found[next(tids)] = {}
        assert kind not in sets
        desc = note.desc
        if kind == PRSTATUS:
            desc = desc[GENERAL]
        elif kind == XSTATE and not is_raw:
            desc = core.as_the_kernel_has_it(desc)
        sets[kind] = desc.hex()
    return found


def assert_the_processor_s(sets: dict[int, str], target: Target) -> None:
    """x87 and SSE, and the state of all other features of the processor, checked by sizes."""
    assert {PRSTATUS, PRFPREG, XSTATE} <= set(sets)
    assert [len(bytes.fromhex(sets[kind])) for kind in (PRSTATUS, PRFPREG)] == [216, 512]
    xcr0 = int.from_bytes(bytes.fromhex(sets[XSTATE])[464:472], "little")
    assert xcr0 == int(target.truth["xcr0"], 16)


def test_a_copy_has_every_set_that_ptrace_gives(spawn: Spawn, dump: Callable[..., Path]) -> None:
    target = spawn("registers", 3, "blocked")
    expected = given_by_ptrace(target.pid)
    assert len(expected) == 4
    assert in_the_notes(Core(dump(target.pid))) == expected
    for thread in target.truth["threads"]:
        assert_the_processor_s(expected[thread["tid"]], target)
        # r15 first; fs_base and gs_base are 21 and 22 words later (struct user_regs_struct).
        general = bytes.fromhex(expected[thread["tid"]][PRSTATUS])
        fs_base, gs_base = (general[168:176], general[176:184])
        assert int.from_bytes(fs_base, "little") == int(thread["fs_base"], 16) != 0
        assert int.from_bytes(gs_base, "little") == int(thread["gs_base"], 16) != 0


def test_a_raw_copy_has_every_set_as_ptrace_gives_it(
    spawn: Spawn, dump: Callable[..., Path]
) -> None:
    target = spawn("registers", 3, "blocked")
    expected = given_by_ptrace(target.pid)
    core = Core(dump(target.pid, xstate="raw"))
    assert in_the_notes(core, is_raw=True) == expected
    facts = core.facts
    assert facts["policy"]["xstate"] == "raw"
    assert facts["xstate"]["layout"] == "kernel"
    rows = [[number, size, offset] for number, (offset, size) in core.xsave_layout.items()]
    assert facts["xstate"]["kernel_components"] == rows


def test_what_does_not_fit_is_kept_as_the_kernel_has_it(
    spawn: Spawn, dump: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = spawn("registers", 3, "blocked")
    raw = [note for note in Core(dump(target.pid, xstate="raw")).all_notes if note.kind == XSTATE]
    true_cpuid = processor.cpuid

    def cpuid(leaf: int, subleaf: int) -> tuple[int, ...]:
        """CPUID of a processor whose AVX registers are larger than any that gdb knows."""
        size, offset, *rest = true_cpuid(leaf, subleaf)
        return (size + 64 if subleaf == AVX else size), offset, *rest

    monkeypatch.setattr(processor, "cpuid", cpuid)
    core = Core(dump(target.pid))
    found = [note for note in core.all_notes if note.kind in (XSTATE, KEPT)]
    # The registers of the main thread may be empty; those of the others are not.
    filled = [note.desc for note in raw if int.from_bytes(note.desc[512:520], "little") >> AVX & 1]
    assert len(filled) >= 3
    assert [(note.owner, note.desc) for note in found if note.kind == KEPT] == [
        ("GCOREFS", desc) for desc in filled
    ]
    states = [note for note in found if note.kind == XSTATE]
    assert len(states) == len(raw)
    for written, kernels in zip(states, raw, strict=True):
        follows = found[found.index(written) + 1 :][:1]
        assert ([note.desc for note in follows] == [kernels.desc]) == (kernels.desc in filled)
        # It says that there is no AVX.
        masks = [int.from_bytes(written.desc[at : at + 8], "little") for at in (464, 512)]
        assert [mask >> AVX & 1 for mask in masks] == [0, 0]
    # A processor that has no more than AVX has nothing left to say the places of.
    kinds = {note.kind for note in core.all_notes}
    assert X86_XSAVE_LAYOUT not in kinds or AVX not in core.xsave_layout
    assert core.facts["xstate"]["kept"] == len(filled)


def test_the_mounted_file_has_every_set_that_ptrace_gives(
    spawn: Spawn, mount: Mount, tmp_path: Path
) -> None:
    target = spawn("registers", 3, "blocked")
    expected = given_by_ptrace(target.pid)
    copy = tmp_path / "core"
    with opened(mount / target.pid) as fd:
        copy.write_bytes(whole(fd))
    assert in_the_notes(Core(copy)) == expected


def test_a_thread_that_never_used_a_set_has_it_too(
    spawn: Spawn, dump: Callable[[int], Path]
) -> None:
    target = spawn("threads", 2)
    expected = given_by_ptrace(target.pid)
    assert in_the_notes(Core(dump(target.pid))) == expected
    assert len({tuple(sets) for sets in expected.values()}) == 1


def test_gdb_shows_of_the_core_what_it_shows_of_the_process(
    spawn: Spawn, dump: Callable[[int], Path]
) -> None:
    target = spawn("registers", 3, "blocked")
    wait_until_asleep(target.pid)
    core = dump(target.pid)
    commands = [f"thread apply all info {registers}" for registers in ("all-registers", MORE)]
    of_core = gdb_threads(target.argv[0], core, "--", *commands)
    wait_until_asleep(target.pid)
    of_process = gdb_threads("-p", target.pid, "--", *commands)
    # gdb 13 assumes Intel's offsets: in a process on another processor it shows wrong bytes for the
    # AVX-512 registers and PKRU.  For the core it shows the right bytes (test_registers.py).
    kernels = {number: at for number, _, at in Core(core).facts["xstate"]["kernel_components"]}
    misread = [
        pattern
        for number, (place, pattern) in GDBS_PLACES.items()
        if kernels.get(number, place) != place
    ]
    found, expected = (
        {tid: lines(text, "|".join(misread)) for tid, text in each.items()}
        for each in (of_core, of_process)
    )
    assert len(expected) == 4
    for tid, registers in expected.items():
        assert {"rax", "orig_rax", "gs_base", "st7", "mxcsr", "xmm15"} <= set(registers)
        assert ("ymm15" in registers) == (AVX in kernels)
        assert found[tid] == registers


def lines(text: str, misread: str) -> dict[str, str]:
    """By register, without the registers whose whole name matches `misread`."""
    found = dict(re.findall(r"^(\w+) +(.*)$", text, re.MULTILINE))
    return {name: value for name, value in found.items() if not re.fullmatch(misread, name)}
