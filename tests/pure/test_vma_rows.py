"""maps and the rows of BPF, as mappings: every field as the kernel wrote it, or an error."""

from array import array
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.elfcore.vm_bits import UnknownBits, VmBits
from gcorefs.elfcore.vma import MapsError, Pages, Vma, VmFlag
from gcorefs.elfcore.vma_rows import Maps, OtherMappings, rows_of, words_of
from tests.pure.smaps import entry, make_vma, vma_lists

FLAGS = [*VmFlag]
BITS = VmBits([(1 << bit, flag) for bit, flag in enumerate(FLAGS)])


def word(vma: Vma) -> int:
    return sum(1 << bit for bit, flag in enumerate(FLAGS) if flag in vma.vm_flags)


def maps(vmas: list[Vma]) -> bytes:
    return b"".join(entry(vma).partition(b"\n")[0] + b"\n" for vma in vmas)


def rows(vmas: list[Vma], anon_vma: int = 0) -> "array[int]":
    words = [(vma.start, vma.end, word(vma), anon_vma) for vma in vmas]
    return array("Q", [each for row in words for each in row])


def merged(text: bytes, found: "array[int]") -> list[Vma]:
    reader = Maps(BITS)
    reader.add(text, found)
    return reader.vmas()


def uncounted(vma: Vma) -> Vma:
    """As a mapping without an anon_vma is."""
    return replace(vma, pages=Pages(0, 0, 0, has_anon_vma=False))


@given(vma_lists(), st.data())
def test_every_field_comes_back_however_the_text_is_cut(
    vmas: list[Vma], data: st.DataObject
) -> None:
    text = maps(vmas)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    reader = Maps(BITS)
    for low, high in pairwise([0, *cuts, len(text)]):
        ended = text[:low].count(b"\n"), text[:high].count(b"\n")
        # A row that is too many, as the kernel may give it, is not looked at.
        reader.add(text[low:high], rows(vmas[slice(*ended)]) + rows(vmas[:1]))
    assert reader.vmas() == [uncounted(vma) for vma in vmas]


@pytest.mark.parametrize(
    ("anon_vma", "counts"),
    [(0, (0, 0, 0, False)), (1, (None, None, 0, True)), (2, (None, None, None, True))],
)
def test_an_anon_vma_says_what_may_be_there(
    anon_vma: int, counts: tuple[int | None, int | None, int | None, bool]
) -> None:
    (vma,) = merged(maps([make_vma()]), rows([make_vma()], anon_vma))
    assert (
        vma.pages.anonymous,
        vma.pages.swapped,
        vma.pages.shared,
        vma.pages.has_anon_vma,
    ) == counts
    assert vma.is_written == bool(anon_vma)


def test_the_vsyscall_page_has_no_row() -> None:
    first = make_vma()
    gate = make_vma(
        0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000, flags=1, name=b"[vsyscall]", vm_flags=VmFlag.EXEC
    )
    assert merged(maps([first, gate]), rows([first])) == [uncounted(first), uncounted(gate)]


@pytest.mark.parametrize(
    "others",
    [
        [],
        [make_vma()],
        [make_vma(), make_vma(0x8000, 0xA000)],
        [make_vma(), make_vma(0x7000, 0x9000)],
        [make_vma(0x8000, 0x9000), make_vma()],
    ],
)
def test_other_rows_are_refused(others: list[Vma]) -> None:
    with pytest.raises(OtherMappings):
        merged(maps([make_vma(), make_vma(0x8000, 0x9000)]), rows(others))


def test_a_bit_that_is_not_known_is_refused() -> None:
    found = rows([make_vma()])
    found[2] |= 1 << 63
    with pytest.raises(UnknownBits):
        merged(maps([make_vma()]), found)


@given(st.binary(max_size=120))
def test_any_other_text_is_refused_or_is_that_of_the_rows(text: bytes) -> None:
    try:
        found = merged(text, rows([make_vma()]))
    except (MapsError, UnknownBits):
        return
    assert [(vma.start, vma.end) for vma in found] in ([], [(0x1000, 0x3000)])


@pytest.mark.parametrize("text", [b"1000-3000", b"1000-3000 \n", b"1000 r--p\n", b"-\n", b"\n"])
def test_a_text_of_another_form_is_refused(text: bytes) -> None:
    with pytest.raises(MapsError):
        merged(text, rows([make_vma()]))


HIGH = [make_vma(at, at + 0x2000) for at in (0x55D000000000, 0x7FFFFFFFD000)]


@pytest.mark.parametrize("vmas", [HIGH, [make_vma(), *HIGH], HIGH[:1]])
def test_addresses_of_any_length_are_read(vmas: list[Vma]) -> None:
    assert merged(maps(vmas), rows(vmas)) == [uncounted(vma) for vma in vmas]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (b"55d000000000", b"55d00000000\t"),
        (b"55d000000000-55d000002000", b"55d0000000005-5d000002000"),
        (b"55d000000000", b"55d00000000g"),
        (b"55d000000000", b"55d00000000\xe9"),
        (b"55d000000000", b"55d00000000-"),
        (b"55d000000000", b"\t" * 12),
        (b"7fffffffd000", b"7fffffffd001"),
    ],
)
def test_addresses_that_are_not_those_of_the_rows_are_refused(right: bytes, wrong: bytes) -> None:
    text = maps(HIGH)
    assert right in text
    with pytest.raises(MapsError):
        merged(text.replace(right, wrong), rows(HIGH))


def test_half_a_row_is_refused() -> None:
    data = rows([make_vma()]).tobytes()
    assert rows_of(data) == rows([make_vma()])
    with pytest.raises(MapsError):
        rows_of(data[:-8])


def test_most_mappings_must_be_in_the_rows_to_learn_from_them() -> None:
    vmas = [make_vma(at << 12, (at + 1) << 12, vm_flags=VmFlag.READ) for at in range(8)]
    assert words_of(rows(vmas[:6]), vmas) == [(word(vma), vma.vm_flags) for vma in vmas[:6]]
    with pytest.raises(OtherMappings):
        words_of(rows(vmas[:5]), vmas)
