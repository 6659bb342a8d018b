"""Names of directories: which policy each means, and whether a user may have it."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcorefs.mount.options import FUSE_OPTIONS, OPTIONS, MountPolicy, Options
from gcorefs.mount.policy_names import IN_NAMES, WholeMount, difference, longer_than, policy_named
from gcorefs.option import OptionError, ValueRefused
from gcorefs.profiles import BUILT_IN, UnknownWord

MOUNT = Options(memory="kernel", max_stop=100.0, unresponsive="omit", xstate="raw", copy_limit=7)
OWN = MOUNT.mount_policy


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        (b"@all", {"memory": "all"}),
        (b"@all,hold=copy", {"memory": "all", "hold": "copy"}),
        (b"@threads,max_stop=5,idle_timeout=1", {
            "memory": "none", "stop": "each", "hold": "copy", "max_stop": 5.0,
            "idle_timeout": 1.0,
        }),
        (b"@hold=copy", {"hold": "copy"}),
        (b"@memory=kernel,max_stop=100", {}),
        (b"@stop_timeout=0.5,unresponsive=zero", {"stop_timeout": 0.5, "unresponsive": "zero"}),
    ],
)  # fmt: skip
def test_a_name_changes_the_policy_of_the_mount(name: bytes, changed: dict[str, Any]) -> None:
    assert policy_named(name, MOUNT) == replace(OWN, **changed)


@pytest.mark.parametrize(
    "name",
    [b"", b"1", b"all", b"@", b"@none", b"@all,", b"@all,text", b"@,all", b"@x=1", b"@=", b"@=1",
     b"@memory", b"@all,memory", b"@hold=copy,all", b"@\xff", b"@memory=all,\xff=1"],
)  # fmt: skip
def test_other_names_are_unknown(name: bytes) -> None:
    with pytest.raises(UnknownWord):
        policy_named(name, MOUNT)


@pytest.mark.parametrize("name", sorted((OPTIONS.keys() | FUSE_OPTIONS) - IN_NAMES.keys()))
def test_an_option_of_the_whole_mount_is_in_no_name(name: str) -> None:
    for text in (f"@{name}", f"@{name}=1", f"@all,{name}=x", f"@hold=copy,{name}"):
        with pytest.raises(WholeMount) as caught:
            policy_named(text.encode(), MOUNT)
        assert caught.value.name == name


@pytest.mark.parametrize("name", IN_NAMES)
def test_a_wrong_value_is_refused_by_name(name: str) -> None:
    wrong = [b"", b"x", b"-1", b"nan", b"\xff", b" ", b"@all", b"="]
    if name in ("include", "exclude"):
        wrong = [b"+", b"x+", b"2-1", b"\xff", b"\n"]
    for value in wrong:
        with pytest.raises(ValueRefused) as caught:
            policy_named(b"@%s=%s" % (name.encode(), value), MOUNT)
        assert caught.value.name == name
        assert not isinstance(caught.value, WholeMount)


@pytest.mark.parametrize(
    ("name", "options", "is_longer"),
    [
        (b"@max_stop=5", Options(), False),
        (b"@max_stop=0", Options(), False),
        (b"@max_stop=0", Options(max_stop=9.0), True),
        (b"@max_stop=9", Options(max_stop=9.0), False),
        (b"@max_stop=9.5", Options(max_stop=9.0), True),
        (b"@idle_timeout=0", Options(), True),
        (b"@idle_timeout=60", Options(), False),
        (b"@idle_timeout=61", Options(), True),
        (b"@idle_timeout=61", Options(idle_timeout=0.0), False),
        (b"@stop_timeout=0", Options(), False),
        (b"@stop_timeout=1.5", Options(), True),
        (b"@stop_timeout=0.1", Options(stop_timeout=0.0), True),
        (b"@all,hold=stop", Options(hold="copy"), False),
    ],
)
def test_a_time_may_be_shorter_than_the_mounts(
    name: bytes, options: Options, is_longer: bool
) -> None:
    line = longer_than(policy_named(name, options), options)
    assert bool(line) == is_longer
    if line:
        assert line.startswith(name.decode().removeprefix("@"))


pieces = st.sampled_from(
    [b"@", b",", b"=", b"all", b"threads", b"0x33", b"none", b"text", b"+", b"copy", b"1e-7", b"0",
     *(name.encode() for name in (*OPTIONS, *FUSE_OPTIONS))]
) | st.binary(max_size=3)  # fmt: skip
names = st.lists(pieces, max_size=9).map(lambda parts: b"@" + b"".join(parts)) | st.binary()


@settings(max_examples=1000)
@given(names)
def test_any_name_is_a_policy_or_refused_with_one_line(name: bytes) -> None:
    try:
        policy = policy_named(name, MOUNT)
    except OptionError as error:
        assert str(error).isprintable()
        return
    assert type(policy) is MountPolicy
    assert (policy.xstate, policy.copy_limit) == (MOUNT.xstate, MOUNT.copy_limit)
    again = difference(policy, MOUNT)
    assert (policy_named(b"@" + again.encode(), MOUNT) if again else OWN) == policy


@pytest.mark.parametrize("profile", BUILT_IN)
def test_a_profile_has_only_options_that_a_name_may_have(profile: str) -> None:
    assert BUILT_IN[profile].keys() <= IN_NAMES.keys()
    assert policy_named(f"@{profile}".encode(), MOUNT) != OWN
