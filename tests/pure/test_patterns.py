"""include= and exclude=: names and ranges of addresses."""

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.elfcore.filter import LeftOut, Share
from gcorefs.elfcore.memory_choice import MemoryChoice
from gcorefs.elfcore.memory_rules import memory_rule
from gcorefs.elfcore.patterns import NONE, PatternError, canonical, patterns
from gcorefs.elfcore.smaps import vm_flags
from gcorefs.elfcore.vma import Vma
from gcorefs.option import OptionError
from gcorefs.policy import Policy
from tests.pure.smaps import make_vma
from tests.pure.test_filter import ALL, WRITTEN, Answers

SIZE = 1 << 20


def named(name: bytes, *flags: str) -> Vma:
    return make_vma(0, SIZE, name=name, vm_flags=vm_flags(flags), **WRITTEN)


MATCHES = [
    ("heap", b"[heap]", True),
    ("[heap]", b"[heap]", True),
    ("*", b"[heap]", True),
    ("*", b"", False),
    ("heap", b"[heaps]", False),
    ("anon:secret*", b"[anon:secrets of mine]", True),
    ("anon:secret*", b"[anon_shmem:secret]", False),
    ("anon_shmem:secret", b"[anon_shmem:secret]", True),
    ("libc.so*", b"/usr/lib/libc.so.6", True),
    ("/usr/lib/libc.so.6", b"/usr/lib/libc.so.6", True),
    ("?usr?lib?libc.so.6", b"/usr/lib/libc.so.6", True),
    ("lib", b"/usr/lib/libc.so.6", False),
    ("libc.so.6", b"/usr/lib/libc.so.6 (deleted)", True),
    ("libcxso.6", b"/usr/lib/libc.so.6", False),
    ("SYSV*", b"/SYSV00000000", True),
    ("a*+heap", b"[heap]", True),
    ("1000-2000+x", b"[heap]", False),
    ("s?cret", "/tmp/s\u00e9cret".encode(), True),
    ("s??cret", "/tmp/s\u00e9cret".encode(), False),
    ("*??", "\u20ac".encode(), False),
    ("s?cret", b"/tmp/s\xe9cret", True),  # not UTF-8
    ("*cret", b"/tmp/s\xe9\x80cret", True),
    ("key (deleted)", b"/tmp/key (deleted)", True),
    ("/tmp/key (deleted)", b"/tmp/key (deleted) (deleted)", True),
    ("key", b"/tmp/key (deleted)", True),
]
WRONG = ["+", "a+", "+a", "a++b", "2000-1000", "1000-1000", "a\n", "\x1b", "\udcff"]


@pytest.mark.parametrize(("text", "name", "is_match"), MATCHES)
def test_a_pattern_is_for_a_name(text: str, name: bytes, is_match: bool) -> None:
    assert patterns(text).match(name) is is_match


def test_a_range_is_as_in_maps() -> None:
    found = patterns("1000-3000+heap+7f0000000000-7f0000001000")
    assert found.ranges == ((0x1000, 0x3000), (0x7F0000000000, 0x7F0000001000))
    assert patterns("") is NONE


@pytest.mark.parametrize("text", WRONG, ids=map(ascii, WRONG))
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(PatternError):
        canonical(text)
    with pytest.raises(OptionError, match="option exclude: "):
        Policy(exclude=text)


NAMES = st.text(st.characters(exclude_characters="+[]-", exclude_categories=("C", "Z")), min_size=1)


@given(NAMES, NAMES)
def test_stars_and_question_marks_are_those_of_the_shell(pattern: str, name: str) -> None:
    found = patterns(pattern).names
    assert found is not None
    assert bool(found.fullmatch(name.encode())) == fnmatch.fnmatchcase(name, pattern)


def test_the_event_loop_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any user may look up policies that nobody has named before, as often as they like."""

    def fail(*_: object) -> re.Pattern[bytes]:
        raise AssertionError

    monkeypatch.setattr(re, "compile", fail)
    assert canonical("?" * 199 + "e") == "?" * 199 + "e"
    assert Policy(include="?" * 199 + "i").choice is not None


@pytest.mark.parametrize("unit", ["*a", "*?", "*a?", "*aa*"])
def test_a_name_has_an_answer_however_many_stars_there_are(unit: str) -> None:
    """Without one, re would never come back, with the interpreter lock held."""
    stars = unit * (255 // len(unit))
    name = b"/" + b"a" * 4095
    assert not patterns(stars + "*b").match(name)
    assert patterns(stars + "*").match(name)
    assert not patterns(stars + "*" + "a" * 4095).match(name)


def choice(text: str) -> MemoryChoice:
    return Policy.of(text).choice


def test_what_is_excluded_is_left_out_whatever_takes_it() -> None:
    vma = named(b"[anon:secret]")
    for text in ("memory=all", "include=anon:secret", "memory=anon"):
        share = choice(f"{text},exclude=*secret*").share(vma, ALL, Answers())
        assert share == Share(0, LeftOut.EXCLUDED)
        assert choice(f"{text},exclude=other").share(vma, ALL, Answers()).size == SIZE


def test_what_is_included_is_taken_whole() -> None:
    vma = named(b"/data/file")
    assert choice("memory=none,include=file").share(vma, 0, Answers()) == Share(SIZE, None, SIZE)
    assert choice("memory=none,include=files").share(vma, 0, Answers()).size == 0
    # But for a large one, which is taken all the same.
    assert choice("include=file,largest=1,memory=all").share(vma, 0, Answers()).size == SIZE


def test_nothing_is_taken_that_nobody_wants_to_have_dumped() -> None:
    for flag, why in (("dd", LeftOut.DONTDUMP), ("io", LeftOut.IO)):
        for text in ("include=x", "exclude=x"):
            assert choice(text).share(named(b"/x", flag), ALL, Answers()) == Share(0, why)


def test_a_large_mapping_is_left_out() -> None:
    vma = make_vma(0, 2 * SIZE, **WRITTEN)
    assert choice("largest=1").share(vma, ALL, Answers()) == Share(0, LeftOut.TOO_LARGE)
    assert choice("largest=2").share(vma, ALL, Answers()).size == 2 * SIZE
    assert choice("largest=0").share(vma, ALL, Answers()).size == 2 * SIZE
    untouched = make_vma(0, 2 * SIZE)
    assert choice("largest=1").share(untouched, ALL, Answers()).left_out is LeftOut.UNTOUCHED


def test_without_further_options_the_rule_decides_alone() -> None:
    rule = memory_rule("filter")
    for vma in (named(b"[heap]"), named(b"/x", "sh")):
        assert MemoryChoice(rule).share(vma, 0x33, Answers()) == rule.share(vma, 0x33, Answers())
