"""The answer to FUSE_INIT, with the flag for look-ups at the same time, and without a limit of
background requests (fuse.h)."""

import struct

import pytest

from gcorefs.mount.handshake import improved

PARALLEL_DIROPS = 0x40000
LEN, UNIQUE, INIT, GETATTR = 104, 2, 26, 3
NO_LIMIT = 0xFFFF
ERROR = struct.pack("<IiQ", 16, -71, UNIQUE)
"""EPROTO has no body."""


def request(flags: int, opcode: int = INIT) -> bytes:
    header = struct.pack("<IIQQIIIHH", LEN, opcode, UNIQUE, 0, 0, 0, 0, 0, 0)
    return (header + struct.pack("<IIII", 7, 45, 131072, flags)).ljust(LEN, b"\0")


def answer(flags: int, unique: int = UNIQUE, most: int = 0) -> bytes:
    header = struct.pack("<IiQ", 80, 0, unique)
    body = struct.pack("<IIIIHHII", 7, 31, 131072, flags, most, most, 1 << 20, 1)
    return (header + body).ljust(80, b"\xee")


def test_flag_and_limit_are_set_and_nothing_else_changes() -> None:
    asked = request(flags=0x73FFFFFB | PARALLEL_DIROPS)
    with_flag = answer(flags=0x4040B039 | PARALLEL_DIROPS, most=NO_LIMIT)
    assert improved(asked, answer(flags=0x4040B039)) == with_flag
    assert improved(asked, with_flag) == with_flag


def test_a_flag_that_the_kernel_does_not_offer_is_not_set() -> None:
    """It is from Linux 4.7."""
    assert improved(request(flags=0x39), answer(flags=0x39)) == answer(0x39, most=NO_LIMIT)


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        pytest.param(request(PARALLEL_DIROPS), ERROR, id="an error"),
        pytest.param(request(PARALLEL_DIROPS), answer(0x39, unique=4), id="to something else"),
        pytest.param(request(PARALLEL_DIROPS, opcode=GETATTR), answer(0x39), id="no FUSE_INIT"),
    ],
)
def test_any_other_answer_is_as_it_was(asked: bytes, answered: bytes) -> None:
    assert improved(asked, answered) == answered
