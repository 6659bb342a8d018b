"""Every register of every thread has the value that the program gave it: in the notes, and in gdb
and lldb.

lldb has only the xmm part of a vector, in any core.
"""

import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Mount, Target
from tests.readers.corefile import X86_XSTATE, Core
from tests.readers.debuggers import ask_bytes, bytes_shown, gdb_threads, lldb_threads

MODES = pytest.mark.parametrize("mode", ["spin", "blocked"])

# Features by number: Intel SDM vol. 1, 13.1.
AVX, OPMASK, ZMM_HI256, HI16_ZMM, PKRU = 2, 5, 6, 7, 9

# AMX tiles, which this program does not use, have no place in the layout that gdb knows.
TILES = 0b11 << 17

# PTRACE_INTERRUPT wakes pause(2), which returns this so that the kernel restarts the call.
ERESTARTNOHAND = 514


def registers(thread: dict[str, Any]) -> dict[str, int]:
    return {name: int(value, 16) for name, value in thread["regs"].items()}


def x87(thread: dict[str, Any]) -> list[int]:
    return [int.from_bytes(bytes.fromhex(value), "little") for value in thread["x87"]]


def vectors(xstate: bytes, layout: dict[int, tuple[int, int]]) -> Iterator[bytes]:
    """zmm0 to zmm31, if the processor has them, put together from their parts."""

    def part(feature: int, number: int, size: int) -> bytes:
        if feature not in layout:
            return b""
        start = layout[feature][0] + number * size
        return xstate[start : start + size]

    for number in range(16):
        xmm = xstate[160 + 16 * number : 176 + 16 * number]
        yield xmm + part(AVX, number, 16) + part(ZMM_HI256, number, 32)
    for number in range(16 if HI16_ZMM in layout else 0):
        yield part(HI16_ZMM, number, 64)


@MODES
def test_notes_hold_every_general_register(
    spawn: Callable[..., Target], dump: Callable[[int], Path], mode: str
) -> None:
    target = spawn("registers", 3, mode)
    threads = Core(dump(target.pid)).threads
    main = target.truth["main"]
    assert list(threads) == [main["tid"], *(thread["tid"] for thread in target.truth["threads"])]
    assert threads[main["tid"]].status["fs_base"] == int(main["fs_base"], 16)
    for thread in target.truth["threads"]:
        status = threads[thread["tid"]].status
        expected = registers(thread)
        expected["fs_base"] = int(thread["fs_base"], 16)
        expected["gs_base"] = int(thread["gs_base"], 16)
        expected["orig_rax"] &= (1 << 64) - 1
        assert {name: status[name] for name in expected} == expected
        assert int(thread["rip_start"], 16) <= status["rip"] < int(thread["rip_end"], 16)
        assert status["fpvalid"] == 1
        if mode == "blocked":
            assert status["rax"] == (1 << 64) - ERESTARTNOHAND
            # SYSCALL keeps the return address in rcx and the flags in r11 (SDM vol. 2).
            assert status["rcx"] == status["rip"]
            assert status["r11"] == status["eflags"]


@MODES
def test_notes_hold_every_floating_point_and_vector_register(
    spawn: Callable[..., Target], dump: Callable[[int], Path], mode: str
) -> None:
    target = spawn("registers", 3, mode)
    core = Core(dump(target.pid))
    layout = core.xsave_layout
    for thread in target.truth["threads"]:
        fpregset = core.threads[thread["tid"]].regsets["NT_FPREGSET"]
        xstate = core.threads[thread["tid"]].regsets[X86_XSTATE]
        # FXSAVE image: SDM vol. 1, table 10-2.
        for image in (fpregset, xstate):
            fcw, fsw, ftw = struct.unpack_from("<HHB", image)
            assert fcw == int(thread["fcw"], 16)
            assert fsw == int(thread["fsw"], 16)
            assert ftw == int(thread["ftw"], 16)
            assert struct.unpack_from("<I", image, 24)[0] == int(thread["mxcsr"], 16)
            assert [image[32 + 16 * n : 42 + 16 * n].hex() for n in range(8)] == thread["x87"]
            xmm = [image[160 + 16 * n : 176 + 16 * n].hex() for n in range(16)]
            assert xmm == [vector[:32] for vector in thread["vectors"][:16]]
        kernels = int(target.truth["xcr0"], 16)
        described = sum(1 << feature for feature in (0, 1, *layout))
        assert struct.unpack_from("<Q", xstate, 464)[0] == described == kernels & ~TILES
        assert [vector.hex() for vector in vectors(xstate, layout)] == thread["vectors"]
        opmasks = struct.unpack_from("<8Q", xstate, layout[OPMASK][0]) if OPMASK in layout else ()
        assert [hex(mask) for mask in opmasks] == thread["opmasks"]
        if thread["pkru"] is not None:
            pkru = struct.unpack_from("<I", xstate, layout[PKRU][0])[0]
            assert pkru == int(thread["pkru"], 16)


def shown(text: str) -> dict[str, int]:
    """gdb's `info registers`: the raw value if there is one, else the first number."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        if match := re.match(r"(\w+) .*(?:raw|uint128 =) (0x[0-9a-f]+)[)}]", line):
            found[match[1]] = int(match[2], 16)
        elif match := re.match(r"(\w+) +(0x[0-9a-f]+|-?\d+)\b", line):
            found[match[1]] = int(match[2], 0)
    return found


# `info registers` alone does not show the bases.
GENERAL = ("info registers", "info registers fs_base gs_base")
FLOAT = "info registers fctrl mxcsr " + " ".join(f"st{n}" for n in range(8))
VECTOR = "info registers " + " ".join(f"xmm{n}" for n in range(16))


def wide_registers(thread: dict[str, Any]) -> dict[str, str]:
    """The registers of AVX, AVX-512 and protection keys, if the processor has them: the bytes of
    each in hex."""
    found = {}
    for number, vector in enumerate(thread["vectors"]):
        for name, size in (("xmm", 16), ("ymm", 32), ("zmm", 64)):
            if len(vector) >= 2 * size:
                found[f"{name}{number}"] = vector[: 2 * size]
    for number, mask in enumerate(thread.get("opmasks", [])):
        found[f"k{number}"] = int(mask, 16).to_bytes(8, "little").hex()
    if thread.get("pkru") is not None:
        found["pkru"] = int(thread["pkru"], 16).to_bytes(4, "little").hex()
    return found


def assert_gdb_shows_wide_registers(target: Target, core: Path) -> None:
    names = list(wide_registers(target.truth["threads"][0]))
    commands = [f"thread apply all {line}" for name in names for line in ask_bytes(name)]
    # "<repeats 4 times>" is not a number.
    found = gdb_threads(target.argv[0], core, "--", "set print repeats unlimited", *commands)
    for thread in target.truth["threads"]:
        assert bytes_shown(found[thread["tid"]]) == wide_registers(thread)


def assert_gdb_shows_the_truth(target: Target, core: Path) -> None:
    assert_gdb_shows_wide_registers(target, core)
    commands = [f"thread apply all {command}" for command in (*GENERAL, FLOAT, VECTOR)]
    found = gdb_threads(target.argv[0], core, "--", *commands)
    assert set(found) == {target.pid, *(thread["tid"] for thread in target.truth["threads"])}
    for thread in target.truth["threads"]:
        values = shown(found[thread["tid"]])
        expected = registers(thread)
        del expected["orig_rax"]  # not shown
        expected["fs_base"] = int(thread["fs_base"], 16)
        expected["gs_base"] = int(thread["gs_base"], 16)
        expected["fctrl"] = int(thread["fcw"], 16)
        expected["mxcsr"] = int(thread["mxcsr"], 16)
        expected |= {f"st{n}": value for n, value in enumerate(x87(thread))}
        for number, vector in enumerate(thread["vectors"][:16]):
            expected[f"xmm{number}"] = int.from_bytes(bytes.fromhex(vector)[:16], "little")
        assert {name: values[name] for name in expected} == expected
        assert int(thread["rip_start"], 16) <= values["rip"] < int(thread["rip_end"], 16)


@MODES
def test_gdb_shows_the_registers_of_a_copied_core(
    spawn: Callable[..., Target], dump: Callable[[int], Path], mode: str
) -> None:
    target = spawn("registers", 3, mode)
    assert_gdb_shows_the_truth(target, dump(target.pid))


def test_gdb_shows_the_registers_straight_from_the_mount(
    spawn: Callable[..., Target], mount: Mount
) -> None:
    target = spawn("registers", 3, "blocked")
    assert_gdb_shows_the_truth(target, mount / target.pid)


@MODES
def test_lldb_shows_the_registers(
    spawn: Callable[..., Target], core_file: Callable[[int], Path], mode: str
) -> None:
    target = spawn("registers", 3, mode)
    program = Path(target.argv[0])
    found = lldb_threads(program, core_file(target.pid), 4, "register read --all")
    assert set(found) == {target.pid, *(thread["tid"] for thread in target.truth["threads"])}
    for thread in target.truth["threads"]:
        text = found[thread["tid"]]
        numbers = re.findall(r"^ *(\w+) = (0x[0-9a-f]+)", text, re.MULTILINE)
        values = {name: int(value, 16) for name, value in numbers}
        raw = re.findall(r"^ *(\w+) = \{([0-9a-fx ]+)\}", text, re.MULTILINE)
        images = {name: value.replace("0x", "").replace(" ", "") for name, value in raw}
        expected = registers(thread)
        del expected["orig_rax"]  # not shown
        expected["rflags"] = expected.pop("eflags")
        expected["fctrl"] = int(thread["fcw"], 16)
        expected["mxcsr"] = int(thread["mxcsr"], 16)
        assert {name: values[name] for name in expected} == expected
        assert [images[f"st{n}"] for n in range(8)] == thread["x87"]
        xmm = [images[f"xmm{n}"] for n in range(16)]
        assert xmm == [vector[:32] for vector in thread["vectors"][:16]]
