"""How much of a mapping is dumped, against a table of fs/coredump.c, vma_dump_size()."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import pytest

from gcorefs.elfcore import filter as rules
from gcorefs.elfcore.elf import PAGE_SIZE, PF_R, PF_W
from gcorefs.elfcore.vma import Vma
from tests.pure.smaps import make_vma

MASKS = range(512)  # bits 0 to 8 of core(5)
ALL = 0x1FF
SIZE = 5 * PAGE_SIZE


@dataclass(frozen=True)
class Kind:
    """A mapping, and the bits of coredump_filter of which any one brings it."""

    vma: Vma
    unlinked: bool = False
    program: bool = False
    always: bool = False
    whole: int = 0
    first_page: int = 0

    def wanted(self, mask: int) -> int:
        if self.always or mask & self.whole:
            return SIZE
        return PAGE_SIZE if mask & self.first_page else 0


def _vma(*flags: str, **fields: object) -> Vma:
    return make_vma(0x10000, 0x10000 + SIZE, vm_flags=frozenset(flags), **fields)


FILE = {"name": b"/f", "inode": 7}
WRITTEN = {"anonymous": 4096}
SWAPPED = {"swapped": 4096}


def _kinds() -> Iterator[Kind]:
    """Each rule, with everything beside it that the rules behind it would have asked for."""
    any_flags = [flags for n in range(16) if (flags := _chosen(n, "sh", "ht", "io", "rd"))]
    for name, flags in product((b"[vdso]", b"[vvar]", b"[vsyscall]"), any_flags):
        yield Kind(_vma("dd", *flags, name=name, **WRITTEN), always=True)
    yield Kind(_vma("de", "pf", name=b"[vvar]"), always=True)

    for flags, file in product(any_flags, ({}, FILE)):
        yield Kind(_vma("dd", *flags, **file, **WRITTEN), program=True)

    for flags, file in product(((), ("io",)), ({}, FILE)):
        yield Kind(_vma("ht", *flags, **file, **WRITTEN), program=True, whole=1 << 5)
        for unlinked in (False, True):
            vma = _vma("ht", "sh", *flags, **file, **WRITTEN)
            yield Kind(vma, unlinked, program=True, whole=1 << 6)

    for flags, file, pages in product(((), ("sh",)), ({}, FILE), ({}, WRITTEN)):
        yield Kind(_vma("io", *flags, **file, **pages), program=True)

    for pages in ({}, WRITTEN, SWAPPED):
        yield Kind(_vma("sh", **FILE, **pages), unlinked=True, program=True, whole=1 << 1)
        yield Kind(_vma("sh", **FILE, **pages), unlinked=False, program=True, whole=1 << 3)

    yield Kind(_vma())
    for pages in (WRITTEN, SWAPPED):
        yield Kind(_vma(**pages), whole=1 << 0)
        yield Kind(_vma(name=b"[heap]", **pages), whole=1 << 0)
        yield Kind(_vma(name=b"[anon:x]", **pages), whole=1 << 0)

    for pages, anonymous in (({}, 0), (WRITTEN, 1 << 0), (SWAPPED, 1 << 0)):
        whole = 1 << 2 | anonymous
        for unlinked in (False, True):
            at_start = _vma(**FILE, **pages)
            yield Kind(at_start, unlinked, True, whole=whole, first_page=1 << 4)
            yield Kind(at_start, unlinked, False, whole=whole)
        yield Kind(_vma(offset=PAGE_SIZE, **FILE, **pages), program=True, whole=whole)
        yield Kind(_vma(flags=PF_W, **FILE, **pages), program=True, whole=whole)

    # Opened for reading only and mapped MAP_SHARED: VM_MAYSHARE ("ms"), and not VM_SHARED.
    yield Kind(_vma("ms", flags=PF_R, **FILE), whole=1 << 2)


def _chosen(number: int, *words: str) -> tuple[str, ...]:
    return tuple(word for bit, word in enumerate(words) if number >> bit & 1)


KINDS = list(_kinds())


def _answer(answer: bool) -> Callable[[Vma], bool]:
    return lambda _: answer


def _asked(_: Vma) -> bool:
    raise AssertionError("asked though the answer does not matter")


def test_every_mask_brings_what_the_kernel_would_dump() -> None:
    for kind in KINDS:
        unlinked, program = _answer(kind.unlinked), _answer(kind.program)
        sizes = [rules.dump_size(kind.vma, mask, unlinked, program) for mask in MASKS]
        assert sizes == [kind.wanted(mask) for mask in MASKS], kind


def _sizes(kind: Kind, mask: int, field: str) -> set[int]:
    """What is dumped, whichever way that one question is answered."""
    answers = {"unlinked": kind.unlinked, "program": kind.program}
    found = set()
    for answers[field] in (False, True):
        callbacks = (_answer(answers["unlinked"]), _answer(answers["program"]))
        found.add(rules.dump_size(kind.vma, mask, *callbacks))
    return found


def test_whether_a_file_is_a_program_is_asked_only_where_it_matters() -> None:
    for kind, mask in product(KINDS, MASKS):
        if len(_sizes(kind, mask, "program")) == 1:
            rules.dump_size(kind.vma, mask, _answer(kind.unlinked), _asked)


def test_whether_a_file_is_unlinked_is_asked_only_where_it_matters() -> None:
    for kind, mask in product(KINDS, MASKS):
        if len(_sizes(kind, mask, "unlinked")) == 1:
            rules.dump_size(kind.vma, mask, _asked, _answer(kind.program))


def test_the_callbacks_are_asked_of_the_mapping_itself() -> None:
    shared, program = _vma("sh", **FILE), _vma(**FILE)
    seen: list[Vma] = []

    def note(vma: Vma) -> bool:
        seen.append(vma)
        return True

    assert rules.dump_size(shared, rules.ANON_SHARED, note, _asked) == SIZE
    assert rules.dump_size(program, rules.ELF_HEADERS, _asked, note) == PAGE_SIZE
    assert seen == [shared, program]


def test_the_bits_are_those_of_core_5() -> None:
    bits = (
        rules.ANON_PRIVATE, rules.ANON_SHARED, rules.MAPPED_PRIVATE, rules.MAPPED_SHARED,
        rules.ELF_HEADERS, rules.HUGETLB_PRIVATE, rules.HUGETLB_SHARED,
    )  # fmt: skip
    assert bits == tuple(1 << bit for bit in range(7))
    assert rules.DEFAULT == 0x33


@pytest.mark.parametrize("bit", [7, 8])
def test_dax_bits_bring_nothing(bit: int) -> None:
    brought = {
        rules.dump_size(kind.vma, 1 << bit, _answer(kind.unlinked), _answer(kind.program))
        for kind in KINDS
        if not kind.always
    }
    assert brought == {0}


def test_bits_that_core_5_does_not_know_change_nothing() -> None:
    for kind in KINDS:
        unlinked, program = _answer(kind.unlinked), _answer(kind.program)
        low = rules.dump_size(kind.vma, 0x33, unlinked, program)
        assert rules.dump_size(kind.vma, 0x33 | ~ALL, unlinked, program) == low
