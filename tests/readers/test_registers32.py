"""Every register of every thread of a 32-bit program has the value that the program gave it."""

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import Mount, Target
from tests.readers.corefile import X86_XFP, X86_XSTATE, Core
from tests.readers.debuggers import gdb_threads, lldb_threads
from tests.readers.test_registers import (
    MODES,
    assert_gdb_shows_wide_registers,
    registers,
    shown,
    vectors,
    x87,
)

# PTRACE_INTERRUPT wakes pause(2), which returns this so that the kernel restarts the call.
ERESTARTNOHAND = 514


@MODES
def test_notes_hold_every_general_register(
    spawn: Callable[..., Target], dump: Callable[[int], Path], mode: str
) -> None:
    target = spawn("registers32", 3, mode)
    core = Core(dump(target.pid))
    assert (core.bits, core.header["e_machine"]) == (32, "EM_386")
    threads = core.threads
    assert list(threads) == [target.pid, *(thread["tid"] for thread in target.truth["threads"])]
    for thread in target.truth["threads"]:
        status = threads[thread["tid"]].status
        expected = registers(thread)
        assert {name: status[name] for name in expected} == expected
        assert int(thread["eip_start"], 16) <= status["eip"] < int(thread["eip_end"], 16)
        assert status["fpvalid"] == 1
        if mode == "blocked":
            assert status["eax"] == (1 << 32) - ERESTARTNOHAND


@MODES
def test_notes_hold_every_floating_point_and_vector_register(
    spawn: Callable[..., Target], dump: Callable[[int], Path], mode: str
) -> None:
    target = spawn("registers32", 3, mode)
    core = Core(dump(target.pid))
    for thread in target.truth["threads"]:
        regsets = core.threads[thread["tid"]].regsets
        # struct user_i387_ia32_struct: control, status and tag word, four more, ST0 to ST7.
        image = regsets["NT_FPREGSET"]
        assert len(image) == 108
        control, status, tag = struct.unpack_from("<3I", image)
        fcw = int(thread["fcw"], 16)
        assert (control, status) == (0xFFFF0000 | fcw, 0xFFFF0000)
        assert tag == 0xFFFF0000  # all valid: Intel SDM vol. 1, 8.1.7
        assert [image[28 + 10 * n : 38 + 10 * n].hex() for n in range(8)] == thread["x87"]
        # FXSAVE image: SDM vol. 1, table 10-2.
        assert len(regsets[X86_XFP]) == 512
        for image in (regsets[X86_XFP], regsets[X86_XSTATE]):
            assert struct.unpack_from("<HHB", image) == (fcw, 0, 0xFF)
            assert struct.unpack_from("<I", image, 24)[0] == int(thread["mxcsr"], 16)
            assert [image[32 + 16 * n : 42 + 16 * n].hex() for n in range(8)] == thread["x87"]
            xmm = [image[160 + 16 * n : 176 + 16 * n].hex() for n in range(8)]
            assert xmm == [vector[:32] for vector in thread["vectors"]]
        length = len(thread["vectors"][0])
        found = [each.hex() for each in vectors(regsets[X86_XSTATE], core.xsave_layout)]
        assert [vector[:length] for vector in found[:8]] == thread["vectors"]


def expected(thread: dict[str, Any]) -> dict[str, int]:
    values = registers(thread)
    del values["orig_eax"]  # not shown
    return values | {"fctrl": int(thread["fcw"], 16), "mxcsr": int(thread["mxcsr"], 16)}


def assert_gdb_shows_the_truth(target: Target, core: Path) -> None:
    assert_gdb_shows_wide_registers(target, core)
    words = " ".join(f"st{n} xmm{n}" for n in range(8))
    commands = ("info registers", f"info registers fctrl mxcsr {words}")
    found = gdb_threads(
        target.argv[0], core, "--", *(f"thread apply all {command}" for command in commands)
    )
    for thread in target.truth["threads"]:
        values = shown(found[thread["tid"]])
        wanted = expected(thread)
        wanted |= {f"st{n}": value for n, value in enumerate(x87(thread))}
        for number, vector in enumerate(thread["vectors"]):
            wanted[f"xmm{number}"] = int.from_bytes(bytes.fromhex(vector)[:16], "little")
        assert {name: values[name] for name in wanted} == wanted
        assert int(thread["eip_start"], 16) <= values["eip"] < int(thread["eip_end"], 16)


@MODES
def test_gdb_shows_the_registers_of_a_copied_core(
    spawn: Callable[..., Target], dump: Callable[[int], Path], mode: str
) -> None:
    target = spawn("registers32", 3, mode)
    assert_gdb_shows_the_truth(target, dump(target.pid))


def test_gdb_shows_the_registers_straight_from_the_mount(
    spawn: Callable[..., Target], mount: Mount
) -> None:
    target = spawn("registers32", 3, "blocked")
    assert_gdb_shows_the_truth(target, mount / target.pid)


@MODES
def test_lldb_shows_the_registers_of_a_copied_core(
    spawn: Callable[..., Target], dump: Callable[[int], Path], mode: str
) -> None:
    target = spawn("registers32", 3, mode)
    program = Path(target.argv[0])
    found = lldb_threads(program, dump(target.pid), 4, "register read --all")
    assert set(found) == {target.pid, *(thread["tid"] for thread in target.truth["threads"])}
    for thread in target.truth["threads"]:
        text = found[thread["tid"]]
        numbers = re.findall(r"^ *(\w+) = (0x[0-9a-f]+)", text, re.MULTILINE)
        values = {name: int(value, 16) for name, value in numbers}
        raw = re.findall(r"^ *(\w+) = \{([0-9a-fx ]+)\}", text, re.MULTILINE)
        images = {name: value.replace("0x", "").replace(" ", "") for name, value in raw}
        wanted = expected(thread)
        assert {name: values[name] for name in wanted} == wanted
        assert [images[f"st{n}"] for n in range(8)] == thread["x87"]
        xmm = [images[f"xmm{n}"] for n in range(8)]
        assert xmm == [vector[:32] for vector in thread["vectors"]]
