"""The places of each feature's registers that a core gives, for many processors, and the fate of
the registers' bytes when they are moved for gdb.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gcorefs.arch.machine import NT_PRFPREG, RegisterKind
from gcorefs.arch.x86_64 import NT_X86_SHSTK, X86_64
from gcorefs.arch.xsave import NT_X86_XSTATE, Component, XsaveAccount, XsaveLayout, XStates
from gcorefs.elfcore.notes import ProcessIds, ProcessInfo, ProcessNotes, Thread
from gcorefs.elfcore.provenance import NT_GCOREFS_XSTATE
from gcorefs.elfcore.registers import Registers
from tests.pure.processors import (
    APX,
    AVX,
    HI16_ZMM,
    KNOWN,
    LAYOUTS,
    OPMASK,
    PKRU,
    TILECFG,
    TILEDATA,
    ZMM_HI256,
    Layout,
    cpuid_of,
    features,
    full,
    moved_back,
)
from tests.pure.structures import NT_PRSTATUS, NT_X86_XSAVE_LAYOUT, unpack

INFO = ProcessInfo(
    pid=14, ids=ProcessIds(ppid=11, pgrp=12, sid=13), state="S", nice=0, flags=0, uid=0, gid=0,
    comm=b"sleep", arguments=b"",
)  # fmt: skip
SSP = struct.pack("<Q", 0x7F00_1234_5678)
TILES = (TILECFG, TILEDATA)

# gdb 13 assumes these: Intel's offsets, and sizes by feature (gdbsupport/x86-xstate.h).
GDBS_OFFSETS = {2: 576, 3: 960, 4: 1024, 5: 1088, 6: 1152, 7: 1664, 9: 2688}


def gdbs_size(mask: int) -> int:
    sizes = {1 << 9: 2696, 0b111 << 5: 2688, 0b11 << 3: 1088, 1 << 2: 832}
    return next((size for bits, size in sizes.items() if mask & bits), 576)


@dataclass(frozen=True)
class Machine:
    """A processor, and the object that writes the states of one process on it."""

    layout: Layout
    xstates: XStates
    is_raw: bool


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Layout:
    """A processor of that kind."""
    return LAYOUTS[request.param]


@pytest.fixture(params=["standard", "raw"])
def machine(request: pytest.FixtureRequest, layout: Layout) -> Machine:
    is_raw = request.param == "raw"
    return Machine(layout, XStates(is_raw, partial(cpuid_of, layout)), is_raw)


def notes(machine: Machine, threads: list[Thread]) -> list[tuple[bytes, int, bytes]]:
    account = machine.xstates.account(0)
    process = ProcessNotes(
        machine=X86_64,
        info=INFO,
        threads=threads,
        siginfo=b"",
        auxv=b"",
        files=[],
        xsave_layout=() if account is None else account.written.components,
    )
    return list(unpack(bytes(process.pack())))


def whole(tid: int, machine: Machine, unused: tuple[int, ...] = TILES) -> Thread:
    state = full(machine.layout, tid, unused)
    written, kept = machine.xstates.take(state.xstate)
    sets = [
        (RegisterKind.FLOATING_POINT, state.legacy),
        (RegisterKind.XSTATE, written),
        (RegisterKind.SHSTK, SSP),
    ]
    if kept:
        sets.append((RegisterKind.KERNEL_XSTATE, kept))
    return Thread(tid, Registers.of(bytes(216), sets))


def late(tid: int, machine: Machine) -> Thread:
    return Thread(tid, Registers())


def rows_of(found: list[tuple[bytes, int, bytes]]) -> list[tuple[int, int, int, int]]:
    """Number, size, offset and flags in the only layout note."""
    (desc,) = [desc for _, kind, desc in found if kind == NT_X86_XSAVE_LAYOUT] or [b""]
    return list(struct.iter_unpack("<IIII", desc))


@pytest.mark.parametrize("others", [(), (late,)], ids=["alone", "behind one that did not stop"])
@pytest.mark.parametrize("unused", [(), TILES, (*TILES, PKRU, HI16_ZMM)])
def test_a_reader_finds_every_feature_by_the_layout_note(
    machine: Machine,
    unused: tuple[int, ...],
    others: tuple[Callable[[int, Machine], Thread], ...],
) -> None:
    layout = machine.layout
    truth = full(layout, 14, unused)
    found = notes(machine, [*(make(13, machine) for make in others), whole(14, machine, unused)])
    (state,) = (desc for _, kind, desc in found if kind == NT_X86_XSTATE)
    seen = rows_of(found)
    expected = layout if machine.is_raw else [n for n in layout if n not in TILES]
    assert [(feature, flags) for feature, _, _, flags in seen] == [(n, 0) for n in sorted(expected)]
    for feature, size, offset, _ in seen:
        assert size == layout[feature][1]
        assert state[offset : offset + size] == truth.parts[feature]
        if machine.is_raw:
            assert offset == layout[feature][0]
    # The rest of the state, and the kernel's own part of it, is the same.
    assert state[:464] == truth.xstate[:464]
    assert state[472:512] == truth.xstate[472:512]
    assert state[520:576] == truth.xstate[520:576]
    if machine.is_raw:
        assert state == truth.xstate


def test_gdb_13_takes_the_size_and_the_places_for_given(layout: Layout) -> None:
    machine = Machine(layout, XStates(False, partial(cpuid_of, layout)), is_raw=False)
    found = notes(machine, [whole(14, machine)])
    (state,) = (desc for _, kind, desc in found if kind == NT_X86_XSTATE)
    (mask, in_use) = (struct.unpack_from("<Q", state, at)[0] for at in (464, 512))
    assert mask == features(layout) & ~sum(1 << feature for feature in TILES)
    assert in_use == mask
    assert len(state) == gdbs_size(mask)
    places = {feature: offset for feature, _, offset, _ in rows_of(found)}
    assert {n: places[n] for n in places if n != APX} == {
        n: GDBS_OFFSETS[n] for n in layout if n not in (*TILES, APX)
    }
    if APX in layout:  # Intel's own place for it
        assert places[APX] == 960


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_that_every_gdb_knows_is_left_alone(name: str) -> None:
    layout = LAYOUTS[name]
    xstates = XStates(False, partial(cpuid_of, layout))
    state = full(layout, 1, TILES).xstate
    written, kept = xstates.take(state)
    assert (written is state) == (name in KNOWN)
    assert kept == b""
    account = xstates.account(0)
    assert account is not None
    assert account.facts()["layout"] == ("kernel" if name in KNOWN else "standard")


def test_a_shadow_stack_pointer_stands_behind_the_thread_s_xstate(machine: Machine) -> None:
    found = [
        (owner, kind) for owner, kind, _ in notes(machine, [whole(14, machine), whole(15, machine)])
    ]
    mine = [(b"CORE", NT_PRFPREG), (b"LINUX", NT_X86_XSTATE), (b"LINUX", NT_X86_SHSTK)]
    end = [(b"LINUX", NT_X86_XSAVE_LAYOUT)] if machine.layout else []
    assert found[-7 - len(end) :] == [*mine, (b"CORE", NT_PRSTATUS), *mine, *end]
    sets = [desc for _, kind, desc in notes(machine, [whole(14, machine)]) if kind == NT_X86_SHSTK]
    assert sets == [SSP]


def test_no_state_has_no_layout(machine: Machine) -> None:
    assert NT_X86_XSAVE_LAYOUT not in [kind for _, kind, _ in notes(machine, [late(14, machine)])]


@pytest.mark.parametrize("is_raw", [False, True])
def test_without_cpuid_nothing_is_said(layout: Layout, is_raw: bool) -> None:
    def refuse(leaf: int, subleaf: int) -> tuple[int, ...]:
        raise PermissionError

    machine = Machine(layout, XStates(is_raw, refuse), is_raw)
    if not layout:
        return  # there is nothing to ask for
    found = notes(machine, [whole(14, machine, ())])
    assert NT_X86_XSAVE_LAYOUT not in [kind for _, kind, _ in found]
    assert [desc for _, kind, desc in found if kind == NT_X86_XSTATE] == [full(layout, 14).xstate]
    assert machine.xstates.account(0) is None


def test_a_state_that_is_no_xsave_area_is_written_unchanged() -> None:
    xstates = XStates(False, partial(cpuid_of, {}))
    assert xstates.take(b"x" * 575) == (b"x" * 575, b"")
    assert xstates.account(0) is None


@pytest.mark.parametrize("name", ["Intel with AMX", "Intel with AMX and APX"])
def test_tiles_in_use_are_kept_beside_the_state(name: str) -> None:
    layout = LAYOUTS[name]
    machine = Machine(layout, XStates(False, partial(cpuid_of, layout)), is_raw=False)
    with_tiles, without = full(layout, 14), full(layout, 15, TILES)
    found = notes(machine, [whole(14, machine, ()), whole(15, machine)])
    owners = {kind: owner for owner, kind, _ in found}
    assert owners[NT_GCOREFS_XSTATE] == b"GCOREFS"
    mine = [(kind, desc) for _, kind, desc in found if kind in (NT_X86_XSTATE, NT_GCOREFS_XSTATE)]
    assert [kind for kind, _ in mine] == [NT_X86_XSTATE, NT_GCOREFS_XSTATE, NT_X86_XSTATE]
    assert mine[1][1] == with_tiles.xstate
    # Both written states say that they have no tiles.
    for truth, (_, desc) in zip((with_tiles, without), (mine[0], mine[2]), strict=True):
        assert struct.unpack_from("<Q", desc, 512)[0] >> TILECFG & 0b11 == 0
        assert desc[1088:2688] == truth.xstate[1088:2688]


def test_a_state_of_another_size_is_not_taken_apart() -> None:
    layout = LAYOUTS["AMD without protection keys"]
    xstates = XStates(False, partial(cpuid_of, layout))
    state = full(layout, 1).xstate
    assert len(xstates.take(state)[0]) == 2688
    for other in (state + bytes(8), full(LAYOUTS["AMD"], 1).xstate, state[:-8]):
        assert xstates.take(other) == (other, b"")


def test_the_account_says_all_that_is_needed_to_move_the_bytes_back() -> None:
    layout = LAYOUTS["AMD"]
    xstates = XStates(False, partial(cpuid_of, layout))
    xstates.take(full(layout, 1).xstate)
    account = xstates.account(3)
    assert account is not None
    assert account.facts() == {
        "layout": "standard",
        "size": 2696,
        "kernel_size": 2440,
        "kernel_features": "0x2e7",
        "kernel_components": [
            [AVX, 256, 576], [OPMASK, 64, 832], [ZMM_HI256, 512, 896], [HI16_ZMM, 1024, 1408],
            [PKRU, 8, 2432],
        ],
        "kept": 3,
    }  # fmt: skip


def back(account: XsaveAccount, written: bytes) -> bytes:
    rows = {number: (offset, size) for number, size, offset in account.written.components}
    return moved_back(account.facts(), rows, written)


SIZES = {2: 256, 3: 64, 4: 64, 5: 64, 6: 512, 7: 1024, 9: 8, 17: 64, 18: 8192, 19: 128, 40: 24}


@st.composite
def layouts(draw: st.DrawFn) -> XsaveLayout:
    """Everything that a CPUID may say, even components that overlap."""
    numbers = sorted(draw(st.sets(st.sampled_from(sorted(SIZES)))))
    places = st.integers(0, 400).map(lambda n: 576 + 8 * n)
    sizes = st.sampled_from(sorted(SIZES.values()))
    components = tuple(
        Component(
            number,
            draw(sizes) if draw(st.integers(0, 9)) == 0 else SIZES[number],
            draw(places) if draw(st.booleans()) else GDBS_OFFSETS.get(number, 960),
        )
        for number in numbers
    )
    size = max((component.end for component in components), default=576)
    size += draw(st.sampled_from([0, 0, 0, 8, -8]))
    mask = 0b11 | sum(1 << number for number in numbers)
    return XsaveLayout(max(size, 576), mask, components)


@st.composite
def states(draw: st.DrawFn, kernel: XsaveLayout) -> bytes:
    """Zeros but for a few bytes, anywhere: in registers, in the header, between components."""
    state = bytearray(kernel.size)
    for component in kernel.components:
        if draw(st.booleans()):
            filled = bytes([component.number]) * component.size
            state[component.offset : component.end] = filled
    for at in draw(st.lists(st.integers(0, kernel.size - 1), max_size=5)):
        state[at] = draw(st.integers(0, 255))
    state[464:472] = struct.pack("<Q", kernel.features)
    del state[kernel.size :]
    return bytes(state)


@given(st.data())
def test_the_kernel_s_bytes_come_back_or_are_kept(data: st.DataObject) -> None:
    kernel = data.draw(layouts())
    places = {number: (offset, size) for number, size, offset in kernel.components}
    xstates = XStates(False, partial(cpuid_of, places))
    state = data.draw(states(kernel))
    written, kept = xstates.take(state)
    account = xstates.account(0)
    assert account is not None
    assert account.kernel == kernel
    # In any case gdb finds a size that it knows, and every component in its place.
    (mask,) = struct.unpack_from("<Q", written, 464)
    assert mask == account.written.features
    assert len(written) == account.written.size
    if account.written != kernel:
        assert len(written) == gdbs_size(mask)
    assert account.written.components == tuple(sorted(account.written.components))
    for number, size, offset in account.written.components:
        source, _ = places[number]
        assert written[offset : offset + size] == state[source : source + size]
    if kept:
        assert kept == state
        assert back(account, written) != state
    else:
        assert back(account, written) == state


@given(st.sampled_from(sorted(LAYOUTS)), st.integers(), st.sets(st.sampled_from([5, 6, 7, 9])))
@example("AMD without protection keys", 0, set())
def test_of_a_real_processor_without_tiles_nothing_has_to_be_kept(
    name: str, seed: int, unused: set[int]
) -> None:
    layout = LAYOUTS[name]
    xstates = XStates(False, partial(cpuid_of, layout))
    state = full(layout, seed, (*unused, *TILES)).xstate
    written, kept = xstates.take(state)
    account = xstates.account(0)
    assert account is not None
    assert kept == b""
    assert back(account, written) == state
