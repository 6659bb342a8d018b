"""The sizes of parts, and the names that systemd-coredump would give."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.export.coredump import Subject, fields, file_name
from gcorefs.export.objects import LEAST_PART, MOST_PARTS, part_size

SUBJECT = Subject(
    pid=1234, uid=70, gid=71, comm=b"my app", exe=b"/usr/bin/app", cmdline=b"app --x",
    cgroup=b"/system.slice/app.service", boot_id="0" * 32, hostname="db7",
)  # fmt: skip


@given(st.integers(0, 1 << 46))
def test_an_object_has_no_more_parts_than_a_store_takes(expected: int) -> None:
    part = part_size(expected)
    assert part >= LEAST_PART
    assert part % (1 << 20) == 0
    assert part * MOST_PARTS >= 2 * expected


def test_a_small_core_is_sent_in_small_parts() -> None:
    assert part_size(0) == part_size(39 << 30) == LEAST_PART
    assert part_size(100 << 30) == 21 << 20


@pytest.mark.parametrize(
    ("comm", "name"),
    [
        (b"app", "app"), (b"my app", r"my\x20app"), (b"a.b", r"a\x2eb"), (b"a/b", r"a\x2fb"),
        (b"\\", r"\x5c"), (b"\xc3\xa9", r"\xc3\xa9"), (b"a\nb", r"a\x0ab"), (b"", ""),
    ],
)  # fmt: skip
def test_a_name_says_who_and_when(comm: bytes, name: str) -> None:
    subject = SUBJECT.__class__(1234, 70, 71, comm, b"", b"", b"", "0" * 32, "db7")
    assert file_name(subject, 17, ".zst") == f"core.{name}.70.{'0' * 32}.1234.17.zst"


def test_the_entry_has_the_unit() -> None:
    found = fields(SUBJECT, 17, "/x")
    assert (found["COREDUMP_UNIT"], found["COREDUMP_SLICE"]) == (b"app.service", b"system.slice")
    assert "COREDUMP_USER_UNIT" not in found
    cgroup = b"/user.slice/user-0.slice/user@0.service/app.slice/run-1.scope"
    found = fields(Subject(1, 0, 0, b"a", b"", b"", cgroup, "0" * 32, "h"), 17, "/x")
    assert found["COREDUMP_UNIT"] == b"user@0.service"
    assert found["COREDUMP_USER_UNIT"] == b"run-1.scope"
    assert "COREDUMP_EXE" not in found  # an empty field would be a false one
