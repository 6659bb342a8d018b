"""Profiles in a file: what they are, and the line that says what is wrong with them."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.mount.options import Options
from gcorefs.mount.policy_names import IN_NAMES, policy_named
from gcorefs.profile_file import ProfileError, parse_profiles, read_profiles
from gcorefs.profiles import BUILT_IN

GOOD = b"""
# every night
[profiles.night]
memory = "all"
hold = "copy"
max_stop = 5
stop_timeout = 0.5

[profiles."small"]
memory = "0x1"
"""

WRONG = {
    b"x": "f.toml: it is no TOML: ",
    b"\xff": "f.toml: it is no TOML: ",
    b"[profiles.a]\nmemory = ": "(at end of document)",
    b"a = 1": "f.toml:1: a: ",
    b"\n\n[other]\n": "f.toml:3: other: ",
    b"profiles = 1": "f.toml:1: profiles: ",
    b"\n[profiles.a]\n": "f.toml:2: profiles.a: it is no table of options",
    b"[profiles]\na = 3": "f.toml:2: profiles.a: ",
    b"[profiles.A]\nmemory = 'all'": "f.toml:1: profiles.A: a name has",
    b"[profiles.hold]\nmemory = 'all'": "f.toml:1: profiles.hold: a name has",
    b"[profiles.all]\nmemory = 'none'": "f.toml:1: profiles.all: gcorefs has",
    b"[profiles.stacks]\nmemory = 'none'": "f.toml:1: profiles.stacks: gcorefs has",
    b"[profiles.a]\nhold = 'copy'\n\nmemory = 'x'": "f.toml:4: profiles.a.memory: option memory: ",
    b"[profiles.a]\nmax_stop = -1": "f.toml:2: profiles.a.max_stop: option max_stop: '-1'",
    b"[profiles.a]\nmax_stop = nan": "f.toml:2: profiles.a.max_stop: option max_stop: 'nan'",
    # More digits than int() and str() of Python take (sys.get_int_max_str_digits).
    b"[profiles.a]\nmax_stop = 0x" + b"f" * 6000: "f.toml:2: profiles.a.max_stop: it is neither",
    b"[profiles.a]\nmax_stop = " + b"9" * 6000: "f.toml: it is no TOML: ",
    b"[profiles.a]\nmax_stop = true": "f.toml:2: profiles.a.max_stop: it is neither",
    b"[profiles.a]\nmax_stop = [1]": "f.toml:2: profiles.a.max_stop: it is neither",
    b"[profiles.a]\nuser_files = 1": "f.toml:2: profiles.a.user_files: a profile may have",
    b"[profiles.a]\nxstate = 'raw'": "f.toml:2: profiles.a.xstate: a profile may have",
    b"profiles.a.hold = 'x'": "f.toml:1: profiles.a.hold: option hold: 'x'",
    b"[profiles]\na = {hold = 'x'}": "f.toml:2: profiles.a.hold: option hold: 'x'",
}


def test_profiles_of_a_file_stand_beside_those_that_are_built_in() -> None:
    profiles = parse_profiles("f.toml", GOOD, IN_NAMES)
    assert profiles.keys() == BUILT_IN.keys() | {"night", "small"}
    night = policy_named(b"@night,hold=stop", Options(max_stop=3.0), profiles)
    assert (night.memory, night.hold) == ("all", "stop")
    assert (night.max_stop, night.stop_timeout) == (5.0, 0.5)


@pytest.mark.parametrize("data", [b"", b"# nothing\n", b"[profiles]\n"])
def test_a_file_may_have_no_profile(data: bytes) -> None:
    assert parse_profiles("f.toml", data, IN_NAMES) == BUILT_IN


@pytest.mark.parametrize("data", WRONG, ids=lambda data: repr(data[:40]))
def test_an_error_names_file_line_and_key(data: bytes) -> None:
    with pytest.raises(ProfileError) as caught:
        parse_profiles("f.toml", data, IN_NAMES)
    assert WRONG[data] in str(caught.value)
    assert str(caught.value).isprintable()


pieces = st.sampled_from(
    [b"[profiles.", b"a", b"]", b"\n", b"=", b"'all'", b"memory", b".", b"1", b"\xff", b"{", b"["]
)


@given(st.lists(pieces, max_size=15).map(b"".join) | st.binary() | st.text().map(str.encode))
def test_any_file_has_profiles_or_gives_one_line(data: bytes) -> None:
    try:
        profiles = parse_profiles("f.toml", data, IN_NAMES)
    except ProfileError as error:
        assert str(error).isprintable()
        return
    for name in profiles:
        policy_named(b"@" + name.encode(), Options(), profiles)


UNREADABLE = "/proc/self/mem"
"""A regular file: root may open it, and a read of its beginning is EIO."""


@pytest.fixture(params=["directory", "fifo", "device"])
def irregular(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    path = tmp_path / request.param
    match request.param:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "device":
            return "/dev/zero"
    return str(path)


def test_only_a_regular_file_is_read(irregular: str) -> None:
    with pytest.raises(ProfileError) as caught:
        read_profiles(irregular, IN_NAMES)
    assert str(caught.value) == f"{irregular}: it is no regular file"


def test_an_error_of_the_file_names_it() -> None:
    with pytest.raises(OSError) as caught:
        read_profiles(UNREADABLE, IN_NAMES)
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, UNREADABLE)
