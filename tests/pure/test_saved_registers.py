"""Threads as the kernel keeps them while they do not run, and the register sets that are made of
it.  The rows are made here, by the layouts of the SDM and of registers.bpf.c."""

import random
import struct
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.arch.machine import RegisterKind as Kind
from gcorefs.arch.x86_regsets import sets_of_32_bit, sets_of_64_bit
from gcorefs.arch.x86_saved import SavedThread, UnknownRegisters, saved_threads
from gcorefs.arch.xsave_saved import SavedFormat
from tests.pure.processors import LAYOUTS, PKRU, Layout, cpuid_of, features

INTERRUPTIBLE, STOPPED, TRACED, FROZEN = 1, 4, 8, 0x8000
TRAP_FREEZE = 1 << 23
COMPAT = 2
FUTEX, EXECVE, RT_SIGRETURN, EXECVEAT = 202, 59, 15, 322
EMPTY_AREA = bytes(512) + struct.pack("<QQ", 0, 1 << 63) + bytes(48)
ALIGNED = {18}
"""Features whose place in a compacted area is a multiple of 64 (CPUID leaf 0xD, ecx bit 1)."""


def row(
    tid: int = 7,
    call: int = FUTEX,
    guards: tuple[tuple[int, int, int, int], ...] = ((0, INTERRUPTIBLE, 5, 6),) * 2,
    area: bytes = EMPTY_AREA,
    status: int = 0,
    jobctl: int = 0,
) -> bytes:
    words = [*range(1, 16), call & (1 << 64) - 1, *range(17, 22)]
    return b"".join(
        (
            struct.pack("<4Q", *guards[0]),
            struct.pack("<4I", tid, status, 0x55555554, len(area)),
            struct.pack("<3Q", jobctl, 0x100, 0x200),
            struct.pack("<2Q4H", 0x7F0000001000, 0x7F0000002000, 1, 2, 3, 4),
            struct.pack("<2Q", (1 << 64) - 1, 0),
            bytes(24),
            struct.pack("<21Q", *words),
            area,
            struct.pack("<4Q", *guards[1]),
        )
    )


def one(data: bytes) -> SavedThread:
    (found,) = saved_threads(data)
    return found


@given(st.lists(st.tuples(st.integers(1, 1 << 22), st.integers(0, 200)), max_size=20))
def test_rows_of_any_size_follow_each_other(threads: list[tuple[int, int]]) -> None:
    rows = [row(tid, area=bytes([tid % 256]) * size) for tid, size in threads]
    found = [*saved_threads(b"".join(rows))]
    assert [(each.tid, each.xsave) for each in found] == [
        (tid, bytes([tid % 256]) * size) for tid, size in threads
    ]


@pytest.mark.parametrize("length", [1, 100, 300, 400, len(row()) - 1])
def test_a_row_that_is_cut_off_is_an_error(length: int) -> None:
    with pytest.raises(struct.error):
        one(row()[:length])


ASLEEP = (0, INTERRUPTIBLE, 5, 6)


@pytest.mark.parametrize(
    ("is_exact", "data"),
    [
        (True, row()),
        (True, row(call=0)),
        (False, row(guards=((1, INTERRUPTIBLE, 5, 6), ASLEEP))),
        (False, row(guards=(ASLEEP, (1, INTERRUPTIBLE, 5, 6)))),
        (False, row(guards=((1, 0, 5, 6),) * 2)),
        (False, row(guards=((0, 0, 5, 6),) * 2)),
        (False, row(guards=(ASLEEP, (0, INTERRUPTIBLE, 6, 6)))),
        (False, row(guards=(ASLEEP, (0, INTERRUPTIBLE, 5, 7)))),
        (False, row(guards=(ASLEEP, (0, 0, 5, 6)))),
        (False, row(call=-1)),
        (True, row(call=-1, guards=((0, STOPPED, 5, 6),) * 2)),
        (True, row(call=-1, guards=((0, TRACED, 5, 6),) * 2)),
        (True, row(call=-1, guards=((0, FROZEN, 5, 6),) * 2)),
        (True, row(call=-1, jobctl=TRAP_FREEZE)),
        (False, row(call=-1, jobctl=TRAP_FREEZE, guards=((0, 0, 5, 6),) * 2)),
        *((False, row(call=number)) for number in (EXECVE, RT_SIGRETURN, EXECVEAT)),
        *((True, row(call=number, status=COMPAT)) for number in (EXECVE, RT_SIGRETURN)),
        *((False, row(call=number, status=COMPAT)) for number in (11, 119, 173, 358)),
        *((True, row(call=number)) for number in (11, 119, 173, 358)),
    ],
)
def test_a_thread_that_may_have_run_is_never_exact(is_exact: bool, data: bytes) -> None:
    assert one(data).is_exact == is_exact


def test_a_signal_that_stopped_a_thread_is_told() -> None:
    assert one(row(guards=((0, STOPPED, 5, 6),) * 2, jobctl=19 | 1 << 17)).stop_signal == 19
    assert one(row(jobctl=19)).stop_signal == 0


# The area of XSAVE.


def cpuid(layout: Layout, leaf: int, number: int) -> tuple[int, ...]:
    size, offset, *_ = cpuid_of(layout, leaf, number)
    return size, offset, 2 if number in ALIGNED else 0, 0


def format_of(layout: Layout) -> SavedFormat:
    size = max([576, *(offset + size for offset, size in layout.values())])
    return SavedFormat(size, features(layout), partial(cpuid, layout), True)


def areas(layout: Layout, in_use: set[int], seed: int) -> tuple[bytes, bytes, bytes]:
    """An area of XSAVES, one of XSAVE, and what ptrace(2) gives for both."""
    draw = random.Random(seed)
    legacy = bytearray(draw.randbytes(416) + bytes(96))
    parts = {number: draw.randbytes(layout[number][1]) for number in layout}
    used = sum(1 << number for number in in_use)
    compacted = bytearray(legacy + struct.pack("<QQ", used, features(layout) | 1 << 63) + bytes(48))
    standard = bytearray(format_of(layout).size)
    standard[:576] = legacy + struct.pack("<QQ", used, 0) + bytes(48)
    expected = bytearray(len(standard))
    initial = bytearray(512)
    struct.pack_into("<H", initial, 0, 0x37F)
    struct.pack_into("<I", initial, 24, 0x1F80)
    expected[:512] = initial
    if 0 in in_use:
        expected[0:24], expected[32:160] = legacy[0:24], legacy[32:160]
    if 1 in in_use:
        expected[160:416] = legacy[160:416]
    if in_use & {1, 2}:
        expected[24:32] = legacy[24:32]
    struct.pack_into("<Q", expected, 464, features(layout))
    struct.pack_into("<QQ", expected, 512, used, 0)
    for number in sorted(layout):
        offset, size = layout[number]
        if number in ALIGNED:
            compacted += bytes(-len(compacted) % 64)
        compacted += parts[number]
        standard[offset : offset + size] = parts[number]
        if number == PKRU:
            expected[offset : offset + size] = (0x55555554).to_bytes(size, "little")
        elif number in in_use:
            expected[offset : offset + size] = parts[number]
    return bytes(compacted), bytes(standard), bytes(expected)


@pytest.mark.parametrize("name", LAYOUTS)
@given(seed=st.integers(0, 1 << 32), data=st.data())
def test_an_area_is_as_ptrace_gives_it(name: str, seed: int, data: st.DataObject) -> None:
    layout = LAYOUTS[name]
    in_use = data.draw(st.sets(st.sampled_from([0, 1, *layout])))
    compacted, standard, expected = areas(layout, in_use, seed)
    for area in (compacted, standard):
        saved = format_of(layout)
        thread = one(row(area=area))
        assert saved.xstate(thread) == expected
        general, sets = sets_of_64_bit(thread, saved)
        found = dict(sets)
        assert found[Kind.XSTATE] == expected
        assert found[Kind.FLOATING_POINT][:24] == expected[:24]
        assert found[Kind.FLOATING_POINT][32:464] == expected[32:464]
        words = struct.unpack("<27Q", general)
        assert words[:17] == (*range(1, 16), FUTEX, 17)
        assert words[21:] == (0x7F0000001000, 0x7F0000002000, 2, 1, 3, 4)


def test_what_is_not_known_is_not_made_up() -> None:
    saved = format_of({})
    for thread in (
        replace(one(row()), xsave=b""),
        replace(one(row()), has_io_permissions=True),
    ):
        for sets in (sets_of_64_bit, sets_of_32_bit):
            with pytest.raises(UnknownRegisters):
                sets(thread, saved)
    with pytest.raises(UnknownRegisters):
        sets_of_64_bit(one(row()), replace(saved, has_base_instructions=False))


# 32 bits.

ONE, ZERO, INFINITY, DENORMAL, UNNORMAL = (
    bytes.fromhex(text)
    for text in (
        "0000000000000080ff3f", "00000000000000000000", "0000000000000080ff7f",
        "01000000000000000000", "0000000000000040ff3f",
    )
)  # fmt: skip
VALID, IS_ZERO, SPECIAL, IS_EMPTY = range(4)


@pytest.mark.parametrize("top", range(8))
def test_the_tags_of_the_x87_registers(top: int) -> None:
    stack = [ONE, ZERO, INFINITY, DENORMAL, UNNORMAL]
    tags = 0
    area = bytearray(EMPTY_AREA)
    struct.pack_into("<Q", area, 512, 1)
    struct.pack_into("<HHB", area, 0, 0x37F, top << 11, sum(1 << (top + n) % 8 for n in range(5)))
    for number, value in enumerate(stack):
        area[32 + 16 * number : 42 + 16 * number] = value
    kinds = [VALID, IS_ZERO, SPECIAL, SPECIAL, SPECIAL, IS_EMPTY, IS_EMPTY, IS_EMPTY]
    for number, kind in enumerate(kinds):
        tags |= kind << 2 * ((top + number) % 8)
    _, sets = sets_of_32_bit(one(row(area=bytes(area))), format_of({}))
    fsave = dict(sets)[Kind.FLOATING_POINT]
    assert struct.unpack_from("<3I", fsave) == (
        0xFFFF037F, 0xFFFF0000 | top << 11, 0xFFFF0000 | tags,
    )  # fmt: skip
    assert fsave[28:] == b"".join((*stack, *[bytes(10)] * 3))
    assert len(fsave) == 108


def test_the_descriptors_of_a_32_bit_thread() -> None:
    # limit 0xfffff pages, base 0xf7d0a740, writable data, 32 bits, present, available
    descriptor = struct.pack("<Q", 0xF7DFF3D0_A740FFFF)
    thread = replace(one(row()), tls=descriptor + bytes(16))
    _, sets = sets_of_32_bit(thread, format_of({}))
    unset = (0, 0, 0x28)
    assert [*struct.iter_unpack("<4I", dict(sets)[Kind.TLS])] == [
        (12, 0xF7D0A740, 0xFFFFF, 0x51), (13, *unset), (14, *unset),
    ]  # fmt: skip
    assert Kind.TLS not in dict(sets_of_32_bit(one(row()), format_of({}))[1])
