"""memory=: which rule a word means, and how much of each kind of mapping it takes."""

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.elfcore import filter as rules
from gcorefs.elfcore.elf import PF_R, PF_X
from gcorefs.elfcore.filter import LeftOut, Share
from gcorefs.elfcore.memory_kinds import MASKS as KIND_MASKS
from gcorefs.elfcore.memory_kinds import MemoryKind, kind_of
from gcorefs.elfcore.memory_rules import MemoryRule, RuleError, memory_rule
from gcorefs.elfcore.smaps import vm_flags
from gcorefs.elfcore.vma import Vma
from gcorefs.option import OptionError, options_of
from gcorefs.policy import Policy
from tests.pure.smaps import make_vma
from tests.pure.test_filter import ALL, FILE, KINDS, MASKS, SIZE, WRITTEN, Answers

WORDS = ["filter", "kernel", "all", "text", "none", "0x0", "0x33", "0x1ff", "filter+text",
         "kernel+text", "0x7+text", "stacks", "stacks+text", "stack", "heap",
         "stack+heap+anon+jit+shm+file+text+hugetlb+dax", "filter+shm", "stacks+jit"]  # fmt: skip
UNSPARING = "all+dontdump"
OTHERS = {
    "0x033": "0x33", "0x000": "0x0", "text+filter": "filter+text", "text+0x07": "0x7+text",
    "all+text": "all", "text+all": "all",
    "heap+stack": "stack+heap", "text+heap+0x1": "0x1+heap+text", "all+heap+jit": "all",
    UNSPARING: UNSPARING, "dontdump+text+all": UNSPARING,
}  # fmt: skip
WRONG = [
    "", "+", "+text", "text+", "none+text", "text+none", "text+text", "filter+filter", "all+none",
    "filter+kernel", "filter+text+text", "0x", "0x200", "0x1000", "0X33", "33", "-0x1", "0x3g",
    " all", "all ", "All", "stack+stacks+none", "heap+heap", "none+heap", "dontdump",
    "heap+dontdump", "filter+dontdump", "all+dontdump+dontdump", "all+filter+dontdump",
    "\n", "0x33\n", "\udcff",
]  # fmt: skip


def mapping(*flags: str, **fields: object) -> Vma:
    return make_vma(0x10000, 0x10000 + SIZE, vm_flags=vm_flags(flags), **fields)


@pytest.mark.parametrize("word", WORDS)
def test_each_rule_has_one_name(word: str) -> None:
    assert str(memory_rule(word)) == word
    assert options_of(Policy)["memory"].parse(word) == word


@pytest.mark.parametrize(("word", "same"), OTHERS.items())
def test_other_texts_mean_the_same_rule(word: str, same: str) -> None:
    assert memory_rule(word) == memory_rule(same)
    assert options_of(Policy)["memory"].parse(word) == same


@pytest.mark.parametrize("word", WRONG, ids=map(ascii, WRONG))
def test_any_other_text_is_refused(word: str) -> None:
    with pytest.raises(RuleError):
        memory_rule(word)
    with pytest.raises(OptionError) as caught:
        options_of(Policy)["memory"].parse(word)
    assert str(caught.value).startswith(f"option memory: {word!r} is none of filter, kernel, all")
    with pytest.raises(OptionError, match="option memory: "):
        Policy(memory=word)


@given(st.text(max_size=12) | st.lists(st.sampled_from([*WORDS, "+", "0x"])).map("".join))
def test_a_text_means_a_rule_that_has_a_name_or_nothing(text: str) -> None:
    try:
        rule = memory_rule(text)
    except RuleError:
        return
    assert memory_rule(str(rule)) == rule


def test_filter_and_kernel_are_the_rules_of_the_filter() -> None:
    for kind, mask in product(KINDS, MASKS):
        answers = kind.answers(lost=True)
        assert memory_rule("filter").share(kind.vma, mask, answers) == rules.kept_size(
            kind.vma, mask, answers
        )
        assert memory_rule("kernel").share(kind.vma, mask, answers) == rules.dump_size(
            kind.vma, mask, answers
        )


def test_a_mask_takes_the_place_of_coredump_filter() -> None:
    for kind, mask in product(KINDS, range(0, 512, 7)):
        found = memory_rule(hex(mask)).share(kind.vma, rules.DEFAULT, kind.answers())
        with_mask = rules.kept_size(kind.vma, mask, kind.answers())
        kernels = rules.dump_size(kind.vma, rules.DEFAULT, kind.answers())
        assert found.size == with_mask.size
        assert found.beyond == max(0, found.size - kernels.size)
        if with_mask.left_out is LeftOut.FILTER:
            assert found.left_out is LeftOut.POLICY
        else:
            assert found.left_out is with_mask.left_out


def test_all_takes_what_any_mask_takes() -> None:
    for kind, mask in product(KINDS, [0, rules.DEFAULT, ALL]):
        masks = (ALL, ALL & ~rules.ANON_SHARED, ALL & ~rules.MAPPED_SHARED)
        most = max(rules.kept_size(kind.vma, each, kind.answers()).size for each in masks)
        found = memory_rule("all").share(kind.vma, mask, kind.answers())
        kernels = rules.dump_size(kind.vma, mask, kind.answers())
        if found.left_out is LeftOut.UNTOUCHED:
            assert not kind.vma.flags  # PROT_NONE, but with the huge zero page
        elif found.left_out is not LeftOut.IO:
            assert found.size >= most, kind
        assert found.beyond == max(0, found.size - kernels.size)


NEVER = [("dd", LeftOut.DONTDUMP), ("io", LeftOut.IO)]


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize(("flag", "why"), NEVER)
def test_no_rule_takes_what_nobody_wants_to_have_dumped(word: str, flag: str, why: LeftOut) -> None:
    vma = mapping(flag, flags=PF_R | PF_X, **FILE, **WRITTEN)
    assert memory_rule(word).share(vma, ALL, Answers(program=True)) == Share(0, why)


def test_one_rule_takes_what_the_process_wants_in_no_core() -> None:
    rule = memory_rule(UNSPARING)
    for kind, mask in product(KINDS, [0, ALL]):
        found = memory_rule("all").share(kind.vma, mask, kind.answers())
        if found.left_out is not LeftOut.DONTDUMP:
            assert rule.share(kind.vma, mask, kind.answers()) == found
    vma = mapping("dd", flags=PF_R, **WRITTEN)
    assert rule.share(vma, ALL, Answers()) == Share(SIZE, None, SIZE)
    assert rule.share(mapping("dd", "io", flags=PF_R), ALL, Answers()) == Share(0, LeftOut.IO)
    assert rule.share(mapping("dd", flags=0), 0, Answers()) == Share(0, LeftOut.UNTOUCHED)


def test_what_all_leaves_out_has_no_byte_that_can_be_read() -> None:
    everything = memory_rule("all")
    assert everything.share(mapping(), 0, Answers()) == Share(SIZE, None, SIZE)
    assert everything.share(mapping(flags=0), 0, Answers()) == Share(0, LeftOut.UNTOUCHED)
    assert everything.share(mapping(flags=0, **FILE), 0, Answers()) == Share(0, LeftOut.POLICY)
    assert everything.share(mapping("sh", flags=0, **FILE), 0, Answers()).size == SIZE
    assert everything.share(mapping(flags=0, **WRITTEN), 0, Answers()).size == SIZE


def test_none_takes_nothing_and_asks_for_nothing() -> None:
    for kind in KINDS:
        answers = kind.answers()
        found = memory_rule("none").share(kind.vma, ALL, answers)
        assert not found.size
        assert not found.beyond
        assert found.left_out in (
            LeftOut.DONTDUMP, LeftOut.IO, LeftOut.UNTOUCHED, LeftOut.POLICY
        )  # fmt: skip
        assert not answers.asked
    assert memory_rule("none").share(mapping(), ALL, Answers()).left_out is LeftOut.UNTOUCHED
    assert memory_rule("none").share(mapping(**WRITTEN), ALL, Answers()).left_out is LeftOut.POLICY


@pytest.mark.parametrize("base", ["none", "filter", "kernel", "0x11"])
def test_text_adds_the_code_in_files(base: str) -> None:
    rule = MemoryRule(base, (MemoryKind.TEXT,))
    program = Answers(program=True)
    code = mapping(flags=PF_R | PF_X, **FILE)
    assert rule.share(code, rules.ELF_HEADERS, program).size == SIZE
    assert rule.share(code, 0, program) == Share(SIZE, None, SIZE)
    assert rule.share(mapping("sh", flags=PF_R | PF_X, **FILE), 0, program).size == SIZE
    for other in (mapping(flags=PF_R, **FILE), mapping(flags=PF_R | PF_X, **WRITTEN)):
        plain = MemoryRule(base).share(other, rules.DEFAULT, program)
        assert rule.share(other, rules.DEFAULT, program)[:2] == plain[:2]


OF_A_KIND = [
    (MemoryKind.STACK, mapping(name=b"[stack]", **WRITTEN), {}),
    (MemoryKind.STACK, mapping("gd", **WRITTEN), {}),
    (MemoryKind.STACK, mapping(**WRITTEN), {"stack": True}),
    (MemoryKind.HEAP, mapping(name=b"[heap]", **WRITTEN), {}),
    (MemoryKind.ANON, mapping(**WRITTEN), {}),
    (MemoryKind.ANON, mapping(name=b"[anon:x]", **WRITTEN), {}),
    (MemoryKind.JIT, mapping(flags=PF_R | PF_X, **WRITTEN), {}),
    (MemoryKind.SHM, mapping("sh", **FILE), {"unlinked": True}),
    (MemoryKind.FILE, mapping("sh", **FILE), {}),
    (MemoryKind.FILE, mapping(**FILE), {}),
    (MemoryKind.FILE, mapping(**FILE), {"unlinked": True}),
    (MemoryKind.TEXT, mapping(flags=PF_R | PF_X, **FILE), {}),
    (MemoryKind.HUGETLB, mapping("ht", "sh", **FILE), {}),
    (MemoryKind.HUGETLB, mapping("ht", **FILE), {}),
    (MemoryKind.DAX, mapping(**FILE), {"dax": True}),
]


@pytest.mark.parametrize(("kind", "vma", "facts"), OF_A_KIND)
def test_a_kind_takes_its_own_mappings_and_no_other(
    kind: MemoryKind, vma: Vma, facts: dict[str, Any]
) -> None:
    assert kind_of(vma, Answers(**facts)) is kind
    for each in MemoryKind:
        found = memory_rule(each.value).share(vma, rules.DEFAULT, Answers(**facts))
        assert found.size == (SIZE if each is kind else 0)
        if each is not kind:
            assert found.left_out is LeftOut.POLICY
    # A mask that takes all of it gives the estimate (elfcore/estimate.py).
    taken = rules.kept_size(vma, KIND_MASKS[kind], Answers(**facts)).size
    assert taken == SIZE or kind is MemoryKind.TEXT


def test_a_kind_leaves_out_what_was_never_written() -> None:
    for name in (b"[heap]", b"[stack]", b""):
        share = memory_rule("heap+stack+anon").share(mapping(name=name), 0, Answers())
        assert share == Share(0, LeftOut.UNTOUCHED)


def test_no_kind_has_the_mappings_of_the_kernel() -> None:
    assert kind_of(mapping(name=b"[vdso]"), Answers()) is None


@pytest.mark.parametrize(
    ("word", "mask"),
    [
        ("filter", 0x21),
        ("kernel+text", 0x21),
        ("all", 0x1FF),
        (UNSPARING, 0x1FF),
        ("none", 0),
        ("text", 0),
        ("0x7", 7),
        ("stacks", 0x10),
        ("heap+shm", 3),
        ("filter+hugetlb", 0x61),
    ],
)
def test_each_rule_has_the_effect_of_a_mask(word: str, mask: int) -> None:
    assert memory_rule(word).mask(0x21) == mask
