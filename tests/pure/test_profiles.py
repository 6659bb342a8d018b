"""Texts that name a policy: whatever they are, the result is a policy or one line of text."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcorefs import profiles
from gcorefs.option import OptionError, options_of
from gcorefs.policy import Policy
from gcorefs.profiles import BUILT_IN, UnknownWord

OPTIONS = options_of(Policy)

NAMED = {
    "@all": Policy(memory="all"),
    "@text": Policy(memory="filter+text"),
    "@threads": Policy(memory="none", stop="each", hold="copy"),
    "@gentle": Policy(stop="gentle", hold="copy"),
    "@glance": Policy(stop="none"),
    "@threads,stop=none": Policy(memory="none", hold="copy", stop="none"),
    "@stacks": Policy(memory="stacks", hold="copy"),
    "@stacks,stack_limit=64,hold=stop": Policy(memory="stacks", stack_limit=64),
    "@all,hold=copy": Policy(memory="all", hold="copy"),
    "@all,unresponsive=omit": Policy(memory="all", unresponsive="omit"),
    "@threads,memory=0x07": Policy(memory="0x7", stop="each", hold="copy"),
    "memory=none,hold=copy": Policy(memory="none", hold="copy"),
    "hold=copy,hold=stop": Policy(),
    "stop_timeout=0.25,memory=text+kernel": Policy(stop_timeout=0.25, memory="kernel+text"),
}
UNKNOWN = [
    "", "@", "@,", ",", "@none", "@All", "@all,", "@all,,hold=copy", "all", "all,hold=copy",
    "hold=copy,@all", "hold=copy,all", "@all,threads", "@all,@threads", "@@all", "@memory=all",
    "memory", "memory=all,", "memory=all,x=1", "MEMORY=all", " memory=all", "idle_timeout=1",
    "allow_other", "@\udcff", "\udcff=1", "@\n",
]  # fmt: skip
WRONG = ["memory=", "memory=x", "@all,hold=x", "hold=", "stop_timeout=-1", "@all,stop_timeout=nan"]


@pytest.mark.parametrize(("text", "policy"), NAMED.items())
def test_a_text_names_a_policy(text: str, policy: Policy) -> None:
    assert Policy.of(text) == policy


@pytest.mark.parametrize("text", UNKNOWN, ids=map(ascii, UNKNOWN))
def test_what_is_neither_a_profile_nor_an_option_is_unknown(text: str) -> None:
    with pytest.raises(UnknownWord) as caught:
        Policy.of(text)
    line = str(caught.value)
    assert line.isprintable()
    assert all(name in line for name in (*BUILT_IN, *OPTIONS))


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_value_is_refused_by_the_name_of_its_option(text: str) -> None:
    with pytest.raises(OptionError) as caught:
        Policy.of(text)
    assert text.removeprefix("@all,").partition("=")[0] in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_profile_is_written_as_its_options_are(name: str) -> None:
    for option, value in BUILT_IN[name].items():
        assert OPTIONS[option].parse(value) == value


PIECES = ["@", ",", "=", "all", "threads", "0x33", "none", "text", "+", "copy", "1e-7", "0", "5"]
pieces = st.sampled_from([*PIECES, *OPTIONS]) | st.text(max_size=3)
texts = st.lists(pieces, max_size=9).map("".join) | st.text()


@settings(max_examples=1000)
@given(texts)
def test_any_text_names_a_policy_or_gives_one_line(text: str) -> None:
    try:
        policy = Policy.of(text)
    except OptionError as error:
        assert str(error).isprintable()
        return
    assert Policy.of(profiles.text_of(dataclasses.asdict(policy))) == policy


@given(st.floats(0, 1e9), st.sampled_from(["all", "none", "0x1f+text"]))
def test_a_policy_has_a_text_that_names_it(seconds: float, memory: str) -> None:
    policy = Policy(stop_timeout=seconds, memory=memory)
    assert Policy.of(profiles.text_of(dataclasses.asdict(policy))) == policy
