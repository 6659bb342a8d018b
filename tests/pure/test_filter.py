"""How much of a mapping is dumped, compared with a table of fs/coredump.c, vma_dump_size()."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import pytest

from gcorefs.arch.page import HUGE_PAGE_SIZE, PAGE_SIZE
from gcorefs.elfcore import filter as rules
from gcorefs.elfcore.elf import PF_R, PF_W
from gcorefs.elfcore.filter import LeftOut, Share
from gcorefs.elfcore.smaps import vm_flags
from gcorefs.elfcore.vma import Vma, VmFlag
from tests.pure.smaps import make_vma

MASKS = range(512)  # bits 0 to 8 of core(5)
ALL = 0x1FF
SIZE = 5 * PAGE_SIZE


@dataclass
class Answers:
    """The facts of one mapping; remembers which facts were asked for."""

    dax: bool = False
    unlinked: bool = False
    program: bool = False
    swapped_out: bool = False
    huge_zero_page: bool = False
    stack: bool = False
    lost: bool = False
    notes: int = 0
    asked: set[str] = field(default_factory=set)

    def _answer(self, name: str) -> bool:
        self.asked.add(name)
        return bool(getattr(self, name))

    def is_dax(self, vma: Vma) -> bool:
        return self._answer("dax")

    def is_unlinked(self, vma: Vma) -> bool:
        return self._answer("unlinked")

    def is_program(self, vma: Vma) -> bool:
        return self._answer("program")

    def is_swapped_out(self, vma: Vma) -> bool:
        return self._answer("swapped_out")

    def has_huge_zero_page(self, vma: Vma) -> bool:
        return self._answer("huge_zero_page")

    def has_stack(self, vma: Vma) -> bool:
        return self._answer("stack")

    def is_lost(self, vma: Vma) -> bool:
        return self._answer("lost")

    def notes_end(self, vma: Vma) -> int:
        self.asked.add("notes")
        return self.notes


QUESTIONS = ("dax", "unlinked", "program", "swapped_out", "huge_zero_page")


@dataclass(frozen=True)
class Kind:
    """A mapping, the bits of coredump_filter (any one of them takes it), and the reason why it is
    left out if no bit is set."""

    vma: Vma
    unlinked: bool = False
    program: bool = False
    always: bool = False
    whole: int = 0
    first_page: int = 0
    dax: bool = False
    swapped_out: bool = False
    huge_zero_page: bool = False
    why: LeftOut = LeftOut.FILTER

    def wanted(self, mask: int) -> Share:
        if self.always or mask & self.whole:
            return Share(self.vma.size, None)
        return Share(PAGE_SIZE if mask & self.first_page else 0, self.why)

    def answers(self, **changed: bool) -> Answers:
        return Answers(**{name: getattr(self, name) for name in QUESTIONS} | changed)


def _vma(*flags: str, **fields: object) -> Vma:
    return make_vma(0x10000, 0x10000 + SIZE, vm_flags=vm_flags(flags), **fields)


FILE = {"name": b"/f", "inode": 7}
WRITTEN = {"anonymous": 4096}
SWAPPED = {"swapped": 4096}


def _kinds() -> Iterator[Kind]:
    """Each rule, with all properties that the later rules would ask about."""
    any_flags = [flags for n in range(16) if (flags := _chosen(n, "sh", "ht", "io", "rd"))]
    for name, flags in product((b"[vdso]", b"[vvar]", b"[vsyscall]"), any_flags):
        yield Kind(_vma("dd", *flags, name=name, **WRITTEN), always=True)
    yield Kind(_vma("de", "pf", name=b"[vvar]"), always=True)

    for flags, file in product(any_flags, ({}, FILE)):
        yield Kind(_vma("dd", *flags, **file, **WRITTEN), program=True, why=LeftOut.DONTDUMP)

    for flags, file in product(((), ("io",)), ({}, FILE)):
        yield Kind(_vma("ht", *flags, **file, **WRITTEN), program=True, whole=1 << 5)
        for unlinked in (False, True):
            vma = _vma("ht", "sh", *flags, **file, **WRITTEN)
            yield Kind(vma, unlinked, program=True, whole=1 << 6)

    for flags, file, pages in product(((), ("sh",)), ({}, FILE), ({}, WRITTEN)):
        yield Kind(_vma("io", *flags, **file, **pages), program=True, why=LeftOut.IO)

    for pages in ({}, WRITTEN, SWAPPED):
        yield Kind(_vma("sh", **FILE, **pages), unlinked=True, program=True, whole=1 << 1)
        yield Kind(_vma("sh", **FILE, **pages), unlinked=False, program=True, whole=1 << 3)

    for pages in (WRITTEN, SWAPPED):
        yield Kind(_vma(**pages), whole=1 << 0)
        yield Kind(_vma(name=b"[heap]", **pages), whole=1 << 0)
        yield Kind(_vma(name=b"[anon:x]", **pages), whole=1 << 0)

    for pages, swapped_out, anonymous in (
        ({}, True, 0),
        (WRITTEN, False, 1 << 0),
        (SWAPPED, True, 1 << 0),
        (SWAPPED, False, 0),  # the file's own swap
    ):
        rest: dict[str, Any] = {"whole": 1 << 2 | anonymous, "swapped_out": swapped_out}
        for unlinked in (False, True):
            at_start = _vma(**FILE, **pages)
            yield Kind(at_start, unlinked, True, first_page=1 << 4, **rest)
            yield Kind(at_start, unlinked, False, **rest)
        yield Kind(_vma(offset=PAGE_SIZE, **FILE, **pages), program=True, **rest)
        yield Kind(_vma(flags=PF_W, **FILE, **pages), program=True, **rest)
    # Guards in a mapping of a file: kernels differ in whether these make an anon_vma.
    yield Kind(_vma("gu", **FILE), whole=1 << 2)

    # Opened read-only and mapped MAP_SHARED: VM_MAYSHARE ("ms"), but not VM_SHARED.
    yield Kind(_vma("ms", flags=PF_R, **FILE), whole=1 << 2)


def _dax() -> Iterator[Kind]:
    """Files whose accesses bypass the page cache.  VM_IO is checked after that."""
    for flags, pages in product(((), ("io",)), ({}, WRITTEN, SWAPPED)):
        for unlinked, swapped_out in product((False, True), repeat=2):
            why = LeftOut.IO if flags else LeftOut.FILTER
            rest: dict[str, Any] = {
                "program": True,
                "dax": True,
                "swapped_out": swapped_out,
                "why": why,
            }
            yield Kind(_vma(*flags, **FILE, **pages), unlinked, whole=1 << 7, **rest)
            yield Kind(_vma("sh", *flags, **FILE, **pages), unlinked, whole=1 << 8, **rest)
    yield Kind(_vma("dd", **FILE), dax=True, why=LeftOut.DONTDUMP)


def _untouched() -> Iterator[Kind]:
    """Private anonymous memory without pages of its own."""
    untouched: dict[str, Any] = {"why": LeftOut.UNTOUCHED}
    yield Kind(_vma(), huge_zero_page=True, **untouched)
    yield Kind(_vma("gu"), whole=1 << 0, **untouched)
    for start, size, fits in (
        (HUGE_PAGE_SIZE, HUGE_PAGE_SIZE, True),
        (HUGE_PAGE_SIZE, HUGE_PAGE_SIZE - PAGE_SIZE, False),
        (HUGE_PAGE_SIZE + PAGE_SIZE, 2 * HUGE_PAGE_SIZE - 2 * PAGE_SIZE, False),
        (HUGE_PAGE_SIZE - PAGE_SIZE, HUGE_PAGE_SIZE + PAGE_SIZE, True),
    ):
        for read in (False, True):
            whole = 1 << 0 if fits and read else 0
            vma = make_vma(start, start + size, vm_flags=VmFlag.NONE)
            yield Kind(vma, whole=whole, huge_zero_page=read, **untouched)


def _chosen(number: int, *words: str) -> tuple[str, ...]:
    return tuple(word for bit, word in enumerate(words) if number >> bit & 1)


KINDS = [*_kinds(), *_dax(), *_untouched()]


def test_every_mask_takes_what_the_kernel_would_dump() -> None:
    for kind in KINDS:
        shares = [rules.dump_size(kind.vma, mask, kind.answers()) for mask in MASKS]
        assert shares == [kind.wanted(mask) for mask in MASKS], kind


def test_one_page_that_is_all_is_no_loss() -> None:
    page = make_vma(0x10000, 0x10000 + PAGE_SIZE, **FILE)
    found = rules.dump_size(page, rules.ELF_HEADERS, Answers(program=True))
    assert found == Share(PAGE_SIZE, None)


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_fact_is_asked_only_if_it_matters(question: str) -> None:
    asked = 0
    for kind, mask in product(KINDS, MASKS):
        found = set()
        seen = set()
        for answer in (False, True):
            answers = kind.answers(**{question: answer})
            found.add(rules.dump_size(kind.vma, mask, answers))
            seen |= answers.asked
        if question in seen:
            # DAX is asked last, if it may change the result so far.
            assert len(found) == 2 or kind.dax, (kind, mask)
            asked += 1
    assert asked


def test_the_facts_are_asked_of_the_mapping_itself() -> None:
    shared, program = _vma("sh", **FILE), _vma(**FILE)
    seen: list[Vma] = []

    class Noted(Answers):
        def is_unlinked(self, vma: Vma) -> bool:
            seen.append(vma)
            return True

        is_program = is_unlinked

    assert rules.dump_size(shared, rules.ANON_SHARED, Noted()).size == SIZE
    assert rules.dump_size(program, rules.ELF_HEADERS, Noted()).size == PAGE_SIZE
    assert seen == [shared, program]


def test_the_bits_are_those_of_core_5() -> None:
    bits = (
        rules.ANON_PRIVATE, rules.ANON_SHARED, rules.MAPPED_PRIVATE, rules.MAPPED_SHARED,
        rules.ELF_HEADERS, rules.HUGETLB_PRIVATE, rules.HUGETLB_SHARED, rules.DAX_PRIVATE,
        rules.DAX_SHARED,
    )  # fmt: skip
    assert bits == tuple(1 << bit for bit in range(9))
    assert rules.DEFAULT == 0x33


def test_bits_that_core_5_does_not_know_change_nothing() -> None:
    for kind in KINDS:
        low = rules.dump_size(kind.vma, 0x33, kind.answers())
        assert rules.dump_size(kind.vma, 0x33 | ~ALL, kind.answers()) == low


def test_if_nothing_is_lost_the_kernel_s_choice_is_kept() -> None:
    for kind, mask in product(KINDS, MASKS):
        kept = rules.kept_size(kind.vma, mask, kind.answers())
        assert kept == rules.dump_size(kind.vma, mask, kind.answers()), (kind, mask)


def test_private_memory_of_a_lost_file_is_taken_as_anonymous_memory_is() -> None:
    taken = 0
    for kind, mask in product(KINDS, MASKS):
        answers = kind.answers(lost=True)
        kernels = rules.dump_size(kind.vma, mask, kind.answers())
        kept = rules.kept_size(kind.vma, mask, answers)
        if kept != kernels:
            taken += 1
            assert kept == Share(SIZE, None, SIZE - kernels.size)
            assert mask & rules.ANON_PRIVATE
            assert kind.vma.has_file
            assert not kind.vma.vm_flags & vm_flags(["sh", "ms", "ht", "io", "dd"])
            assert kernels.left_out is LeftOut.FILTER
        elif "lost" in answers.asked:
            raise AssertionError((kind, mask))
    assert taken


@pytest.mark.parametrize(
    "flags", [(), ("sh",), ("ms",), ("io",), ("pf",), ("mm",), ("ht",), ("dd",)]
)
def test_a_lost_file_under_each_flag(flags: tuple[str, ...]) -> None:
    kept = rules.kept_size(_vma(*flags, **FILE), rules.ANON_PRIVATE, Answers(lost=True))
    assert kept.size == (0 if flags else SIZE)


def test_what_nobody_may_touch_is_not_taken_of_a_lost_file() -> None:
    answers = Answers(lost=True)
    assert rules.kept_size(_vma(flags=0, **FILE), ALL & ~0x4, answers).size == 0
    assert "lost" not in answers.asked


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (0, Share(PAGE_SIZE, LeftOut.FILTER)),
        (PAGE_SIZE, Share(PAGE_SIZE, LeftOut.FILTER)),
        (PAGE_SIZE + 1, Share(2 * PAGE_SIZE, LeftOut.FILTER, PAGE_SIZE)),
        (SIZE, Share(SIZE, None, SIZE - PAGE_SIZE)),
        (SIZE + 1, Share(SIZE, None, SIZE - PAGE_SIZE)),
    ],
)
def test_an_elf_file_is_taken_to_the_end_of_its_notes(end: int, expected: Share) -> None:
    answers = Answers(program=True, notes=end)
    assert rules.kept_size(_vma(**FILE), rules.ELF_HEADERS, answers) == expected
    without = Answers(program=True, notes=end)
    assert rules.kept_size(_vma(**FILE), rules.ANON_PRIVATE, without).size == 0
    assert "notes" not in without.asked
