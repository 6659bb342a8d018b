"""The options of /proc in mountinfo, and the users that they exempt."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.kernel.proc.procfile import FormatError
from gcorefs.process.access import Opener
from gcorefs.process.hidepid import ProcOptions, parse_options

ROOT = b"20 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n"
PROC = b"22 20 0:21 / /proc rw,nosuid shared:5 master:1 - proc proc rw%s\n"


@pytest.mark.parametrize(
    ("words", "options", "hides"),
    [
        (b"", ProcOptions("off", 0), False),
        (b",hidepid=0", ProcOptions("0", 0), False),
        (b",hidepid=off", ProcOptions("off", 0), False),
        (b",hidepid=1", ProcOptions("1", 0), True),
        (b",gid=1000,hidepid=2", ProcOptions("2", 1000), True),
        (b",gid=5,hidepid=noaccess", ProcOptions("noaccess", 5), True),
        (b",hidepid=invisible,subset=pid", ProcOptions("invisible", 0), True),
        (b",hidepid=ptraceable", ProcOptions("ptraceable", 0), True),
        (b",hidepid=a-later-word", ProcOptions("a-later-word", 0), True),
        (b",subset=pid", ProcOptions("off", 0), False),
    ],
)
def test_options_of_proc(words: bytes, options: ProcOptions, hides: bool) -> None:
    assert parse_options(ROOT + PROC % words) == options
    assert options.hides is hides


def test_the_last_mount_is_on_top() -> None:
    below = ROOT + PROC % b",hidepid=2" + PROC.replace(b"/proc ", b"/proc/sys ") % b",hidepid=1"
    assert parse_options(below) == ProcOptions("2", 0)
    assert parse_options(below + PROC % b"") == ProcOptions("off", 0)


@pytest.mark.parametrize("text", [b"", ROOT, PROC % b",gid=x", b"22 20 0:21 / /proc rw - proc\n"])
def test_what_is_no_mountinfo_with_proc_is_refused(text: bytes) -> None:
    with pytest.raises(FormatError):
        parse_options(text)


@given(st.binary())
def test_any_text_is_parsed_or_refused(text: bytes) -> None:
    for each in (text, PROC % text, b"1 2 0:3 / /proc " + text):
        with contextlib.suppress(FormatError):
            parse_options(each)


@pytest.mark.parametrize(("hidepid", "exempts"), [("2", True), ("1", True), ("ptraceable", False)])
def test_members_of_the_group_see_all_unless_only_tracing_counts(
    hidepid: str, exempts: bool
) -> None:
    options = ProcOptions(hidepid, 7)
    assert options.exempts(Opener(1, 2, 7, (), 0)) is exempts
    assert options.exempts(Opener(1, 2, 3, (4, 7), 0)) is exempts
    assert not options.exempts(Opener(1, 2, 3, (4,), 0))
