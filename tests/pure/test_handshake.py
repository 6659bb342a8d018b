"""The answer to FUSE_INIT, with the flag for look-ups at the same time (fuse.h)."""

import struct

import pytest

from gcorefs.mount.handshake import with_parallel_lookups

PARALLEL_DIROPS = 0x40000
LEN, UNIQUE, INIT, GETATTR = 104, 2, 26, 3
ERROR = struct.pack("<IiQ", 16, -71, UNIQUE)
"""EPROTO has no body."""


def request(flags: int, opcode: int = INIT) -> bytes:
    header = struct.pack("<IIQQIIIHH", LEN, opcode, UNIQUE, 0, 0, 0, 0, 0, 0)
    return (header + struct.pack("<IIII", 7, 45, 131072, flags)).ljust(LEN, b"\0")


def answer(flags: int, unique: int = UNIQUE) -> bytes:
    header = struct.pack("<IiQ", 80, 0, unique)
    body = struct.pack("<IIIIHHII", 7, 31, 131072, flags, 0, 0, 1 << 20, 1)
    return (header + body).ljust(80, b"\xee")


def test_the_flag_is_added_and_nothing_else_changes() -> None:
    asked = request(flags=0x73FFFFFB | PARALLEL_DIROPS)
    with_flag = answer(flags=0x4040B039 | PARALLEL_DIROPS)
    assert with_parallel_lookups(asked, answer(flags=0x4040B039)) == with_flag
    assert with_parallel_lookups(asked, with_flag) == with_flag


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        pytest.param(request(flags=0x39), answer(flags=0x39), id="a kernel before Linux 4.7"),
        pytest.param(request(PARALLEL_DIROPS), ERROR, id="an error"),
        pytest.param(request(PARALLEL_DIROPS), answer(0x39, unique=4), id="to something else"),
        pytest.param(request(PARALLEL_DIROPS, opcode=GETATTR), answer(0x39), id="no FUSE_INIT"),
    ],
)
def test_any_other_answer_is_as_it_was(asked: bytes, answered: bytes) -> None:
    assert with_parallel_lookups(asked, answered) == answered
