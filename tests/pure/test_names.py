"""Names and pids that anybody may send: a pid as /proc writes it, or none."""

from hypothesis import given
from hypothesis import strategies as st

from gcorefs.mount.names import pid_of, pid_written


@given(st.integers(1, 999_999_999))
def test_a_pid_is_a_pid_with_a_newline_or_without(pid: int) -> None:
    assert pid_of(b"%d" % pid) == pid_written(b"%d" % pid) == pid_written(b"%d\n" % pid) == pid


@given(st.binary() | st.from_regex(rb"[0-9 +\-_\n.x]{1,12}"))
def test_nothing_else_is(data: bytes) -> None:
    for found, text in ((pid_of(data), data), (pid_written(data), data.removesuffix(b"\n"))):
        assert found == 0 or text == b"%d" % found
        assert found < 10**9


def test_what_only_looks_like_a_pid_is_none() -> None:
    wrong = (b"", b"0", b"01", b"+1", b"-1", b" 1", b"1 ", b"1_0", b"1e3", b"1\n\n", b"\xd9\xa1")
    assert [pid_written(each) for each in wrong] == [0] * len(wrong)
    assert pid_of(b"1\n") == 0
