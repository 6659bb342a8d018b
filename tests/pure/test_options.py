"""The words after -o.  Whatever they are, the result is options or one line of text."""

import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcorefs.mount.options import Options, parse
from gcorefs.option import OptionError

ALWAYS = {"subtype=gcorefs", "default_permissions", "nodev", "nosuid", "noexec"}
OURS = ["idle_timeout", "stop_timeout"]
COUNTS = [
    "user_files", "max_files", "user_stops", "max_stops", "user_memory", "max_memory", "copy_limit",
    "user_read_ahead", "max_read_ahead",
]  # fmt: skip
FLAGS = [
    "allow_other", "allow_root", "auto_unmount", "default_permissions", "debug", "ro", "nodev",
    "nosuid", "noexec", "noatime", "atime", "sync", "async", "dirsync",
]  # fmt: skip
WITH_VALUE = ["context", "fscontext", "rootcontext", "defcontext"]


def refusal(*words: str) -> str:
    """The one line with which these words are refused."""
    with pytest.raises(OptionError) as caught:
        parse(words)
    message = str(caught.value)
    assert message.isprintable()
    assert message.strip()
    return message


@pytest.mark.parametrize("words", [[], [""], [",,,"], ["", ","]])
def test_nothing_gives_the_defaults(words: list[str]) -> None:
    assert parse(words) == (Options(), ALWAYS | {"fsname=gcorefs"})
    assert (Options().idle_timeout, Options().stop_timeout) == (60.0, 1.0)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0.0), ("5", 5.0), ("0.25", 0.25), ("1e3", 1000.0), ("1e9", 1e9), ("1e-400", 0.0)],
)
def test_a_number_of_seconds_is_taken(name: str, text: str, seconds: float) -> None:
    options, fuse = parse([f"{name}={text}"])
    assert getattr(options, name) == seconds
    assert fuse == ALWAYS | {"fsname=gcorefs"}


@given(st.floats(0, 1e9))
def test_any_number_of_seconds_comes_back(seconds: float) -> None:
    assert parse([f"stop_timeout={seconds!r}"])[0].stop_timeout == seconds


WRONG = [
    "nan", "NaN", "-nan", "inf", "-inf", "infinity", "-1", "-1e-9", "1e400", "-1e400", "1e9999999",
    "1000000001", "9" * 400, "", " ", " 1", "1 ", "1\n", "1s", "x", "null", "None", "true", "0x10",
    "1_000", "=1", "1=1", "--1", "\u0661", "\x00", "[]", "\udcff",
]  # fmt: skip


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("value", WRONG, ids=map(ascii, WRONG))
def test_a_value_that_is_not_a_number_of_seconds_is_refused_by_name(name: str, value: str) -> None:
    assert name in refusal(f"{name}={value}")


@pytest.mark.parametrize("name", COUNTS)
def test_a_count_is_a_whole_number(name: str) -> None:
    for value in (1, 7, 10**9):
        assert getattr(parse([f"{name}={value}"])[0], name) == value
    for text in [*WRONG, "0", "-0", "1.5", "1000000001"]:
        assert name in refusal(f"{name}={text}")


def test_a_process_is_held_or_copied() -> None:
    assert [parse([f"hold={word}"])[0].hold for word in ("stop", "copy")] == ["stop", "copy"]
    assert Options().hold == "stop"
    for text in ("", "stopp", "Copy", "1", "stop ", "None"):
        assert (
            refusal(f"hold={text}")
            == f"option hold: {text!r} is none of stop, copy, precopy, fork, none"
        )


def test_copies_may_have_a_quarter_of_the_machine() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert Options().copy_limit == total // 4 // (1 << 20)


@pytest.mark.parametrize("name", [*OURS, *COUNTS, "hold"])
def test_an_option_of_ours_without_a_value_is_refused_by_name(name: str) -> None:
    assert name in refusal(name)


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_of_fuse_is_passed_on(flag: str) -> None:
    assert parse([flag]) == (Options(), ALWAYS | {flag, "fsname=gcorefs"})
    assert f"{flag}=1" in refusal(f"{flag}=1")


@pytest.mark.parametrize("name", WITH_VALUE)
def test_an_option_of_fuse_with_a_value_is_passed_on(name: str) -> None:
    assert parse([f"{name}=a=b"])[1] == ALWAYS | {f"{name}=a=b", "fsname=gcorefs"}
    assert name in refusal(name)
    assert name in refusal(f"{name}=")


def test_a_name_for_the_source_takes_the_place_of_ours() -> None:
    assert parse(["fsname=mine"])[1] == ALWAYS | {"fsname=mine"}


UNKNOWN = [
    "idle_timeou", "idle_timeouts=1", "IDLE_TIMEOUT=1", " ro", "rw", "dev", "suid", "exec",
    "subtype=x", "max_read=1", "kernel_cache", "direct_io", "=", "=1", "a\nb", "\udcff", "a\x1b[2J",
    "words", "policy=1", "__slots__=1",
]  # fmt: skip


@pytest.mark.parametrize("word", UNKNOWN, ids=map(ascii, UNKNOWN))
def test_an_unknown_option_is_refused_with_a_list_of_the_known(word: str) -> None:
    message = refusal("ro", word)
    assert repr(word) in message
    assert all(name in message for name in [*OURS, *FLAGS, *WITH_VALUE])


def test_lists_and_repeated_options_are_one_list() -> None:
    together = parse(["idle_timeout=5,allow_other,stop_timeout=2"])
    assert parse(["idle_timeout=5", "allow_other,", "", ",stop_timeout=2"]) == together
    assert together[0] == Options(idle_timeout=5.0, stop_timeout=2.0)
    assert together[1] == ALWAYS | {"allow_other", "fsname=gcorefs"}


def test_of_an_option_told_twice_the_last_counts() -> None:
    assert parse(["idle_timeout=5", "idle_timeout=7"])[0].idle_timeout == 7
    refusal("idle_timeout=x,idle_timeout=7")
    refusal("idle_timeout=7,idle_timeout=x")


def test_of_a_fuse_option_told_twice_the_last_counts() -> None:
    # Options for FUSE are a set, whose order changes from run to run.
    assert parse(["fsname=a", "fsname=b"])[1] == ALWAYS | {"fsname=b"}


# An argument that is not UTF-8 has lone surrogates (PEP 383).
letters = st.characters() | st.sampled_from("\udc80\udcff")
pieces = st.one_of(
    st.sampled_from([*OURS, *FLAGS, *WITH_VALUE, "fsname", "=", ",", *WRONG]),
    st.text(letters, max_size=5),
)


@settings(max_examples=1000)
@given(st.lists(st.lists(pieces, max_size=6).map("".join), max_size=4))
def test_any_text_gives_options_or_one_line(words: list[str]) -> None:
    try:
        options, fuse = parse(words)
    except OptionError as error:
        message = str(error)
        assert message.isprintable()
        assert any(repr(word) in message for word in ",".join(words).split(",")) or any(
            name in message for name in OURS
        )
    else:
        for name in OURS:
            value = getattr(options, name)
            assert type(value) is float
            assert math.isfinite(value)
            assert 0 <= value <= 1e9
        assert fuse >= ALWAYS
        assert len([word for word in fuse if word.startswith("fsname=")]) == 1


@settings(max_examples=1000)
@given(st.lists(st.sampled_from(OURS + FLAGS), max_size=3), st.text(letters, max_size=8))
def test_any_value_of_ours_is_a_number_or_refused_by_name(known: list[str], value: str) -> None:
    words = [f"{name}=1" if name in OURS else name for name in known]
    word = f"stop_timeout={value.replace(',', '')}"
    try:
        parse([*words, word])
    except OptionError as error:
        assert "stop_timeout" in str(error)
        assert str(error).isprintable()
