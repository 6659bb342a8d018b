"""The registers of a thread are what was put in, by kind, and notes are made of them."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.arch import MACHINES
from gcorefs.arch.machine import Machine, RegisterKind, Sets
from gcorefs.arch.x86_64 import X86_64
from gcorefs.elfcore.header_store import Pieces
from gcorefs.elfcore.register_notes import regset_notes
from gcorefs.elfcore.registers import Registers, RegisterStore
from tests.pure.structures import unpack

FLOAT, XSTATE, KERNEL_XSTATE, SHSTK = (
    RegisterKind.FLOATING_POINT, RegisterKind.XSTATE, RegisterKind.KERNEL_XSTATE,
    RegisterKind.SHSTK,
)  # fmt: skip
GENERAL = bytes(range(216))

Kept = Callable[[bytes, Sets], Registers]


@pytest.fixture(params=["stored", "loose"])
def keep(request: pytest.FixtureRequest) -> Kept:
    return RegisterStore().put if request.param == "stored" else Registers.of


def notes_of(machine: Machine, registers: Registers) -> list[tuple[bytes, int, bytes]]:
    (notes,) = regset_notes(machine, [registers])
    packed = notes.unpack()
    assert notes.size == len(packed)
    return list(unpack(packed))


def test_a_set_is_found_by_its_kind(keep: Kept) -> None:
    @given(st.dictionaries(st.sampled_from(RegisterKind), st.binary(max_size=40)))
    def check(sets: dict[RegisterKind, bytes]) -> None:
        sets.pop(RegisterKind.GENERAL, None)
        found = keep(GENERAL, [*sets.items()])
        assert {kind: found[kind] for kind in sets} == sets
        assert found[RegisterKind.GENERAL] == GENERAL
        assert {kind for kind in RegisterKind if kind in found} == {RegisterKind.GENERAL, *sets}

    check()


@pytest.mark.parametrize("kind", [RegisterKind.GENERAL, FLOAT])
def test_what_is_not_known_is_no_set(kind: RegisterKind, keep: Kept) -> None:
    for registers in (Registers(), keep(b"", [(XSTATE, b"x")])):
        assert kind not in registers
        with pytest.raises(KeyError):
            registers[kind]


def test_threads_of_one_shape_share_it() -> None:
    store = RegisterStore()
    sets = [(FLOAT, bytes(512)), (XSTATE, bytes(2696))]
    found = [store.put(GENERAL, sets) for _ in range(3)]
    other = store.put(GENERAL, sets[:1])
    found += [store.put(GENERAL, sets), Registers.of(GENERAL, sets)]
    assert len({id(each.shape) for each in found}) == 1
    assert (other.shape.kinds, other.shape.sizes) == ((FLOAT,), (512,))


def test_the_notes_stand_in_the_machine_s_order(keep: Kept) -> None:
    sets = [(KERNEL_XSTATE, b"k" * 5), (SHSTK, b"s" * 8), (XSTATE, b"x" * 6), (FLOAT, b"f" * 512)]
    assert notes_of(X86_64, keep(GENERAL, sets)) == [
        (b"CORE", 2, b"f" * 512),
        (b"LINUX", 0x202, b"x" * 6),
        (b"GCOREFS", 0x47435853, b"k" * 5),
        (b"LINUX", 0x204, b"s" * 8),
    ]


@pytest.mark.parametrize("machine", MACHINES.values(), ids=[name for name, _ in MACHINES])
def test_every_set_of_a_machine_has_a_note(machine: Machine, keep: Kept) -> None:
    @given(st.lists(st.binary(max_size=20), min_size=5, max_size=5))
    def check(parts: list[bytes]) -> None:
        sets = [(regset.kind, part) for regset, part in zip(machine.regsets, parts, strict=False)]
        assert notes_of(machine, keep(b"", sets)) == [
            (regset.owner, regset.note, part)
            for regset, part in zip(machine.regsets, parts, strict=False)
        ]

    check()


def test_no_set_is_lost_for_want_of_a_note(keep: Kept) -> None:
    with pytest.raises(ValueError, match=r"^no note for SVE, ZA$"):
        notes_of(X86_64, keep(b"", [(RegisterKind.SVE, b""), (FLOAT, b""), (RegisterKind.ZA, b"")]))


def test_a_thread_without_sets_has_no_notes(keep: Kept) -> None:
    for registers in (Registers(), keep(GENERAL, [])):
        assert notes_of(X86_64, registers) == []


def test_the_notes_of_many_threads_are_read_anywhere() -> None:
    chance = random.Random(0)
    store = RegisterStore()
    sets = [
        [(FLOAT, chance.randbytes(512)), (XSTATE, chance.randbytes(chance.choice((576, 2696))))]
        for _ in range(1000)
    ]
    made = Pieces(regset_notes(X86_64, [store.put(b"", each) for each in sets]))
    whole = bytes(made)
    assert [desc for _, _, desc in unpack(whole)] == [data for each in sets for _, data in each]
    for _ in range(100):
        offset = chance.randrange(len(whole))
        buffer = bytearray(min(chance.randrange(10_000), len(whole) - offset))
        made.read_into(offset, memoryview(buffer))
        assert buffer == whole[offset : offset + len(buffer)]
