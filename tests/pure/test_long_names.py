"""Names of mappings that are longer than any that a program should have."""

from array import array
from collections.abc import Callable, Iterator
from itertools import chain, repeat

import pytest

from gcorefs.elfcore.smaps import parse_pieces
from gcorefs.elfcore.vm_bits import VmBits
from gcorefs.elfcore.vma import Vma, VmFlag
from gcorefs.elfcore.vma_rows import Maps
from tests.pure.smaps import entry, make_vma

PIECE = 256 << 10
PATH_MAX = 4096  # limits.h
Read = Callable[[list[Vma]], list[Vma]]
LONGEST = 1 << 20
MOST = 16 << 20
"""Bytes of all long names of a process: fs/coredump.c, CORE_FILE_NOTE_SIZE_MAX."""
BITS = VmBits([(1 << bit, flag) for bit, flag in enumerate(VmFlag)])


def mappings(names: list[bytes]) -> list[Vma]:
    return [
        make_vma(2 * at << 12, (2 * at + 1) << 12, name=name, dev="fe:00", inode=at)
        for at, name in enumerate(names, 1)
    ]


def from_smaps(vmas: list[Vma]) -> list[Vma]:
    text = b"".join(map(entry, vmas))
    return parse_pieces(text[at : at + PIECE] for at in range(0, len(text), PIECE))


def from_maps(vmas: list[Vma]) -> list[Vma]:
    reader = Maps(BITS)
    text = b"".join(entry(vma).partition(b"\n")[0] + b"\n" for vma in vmas)
    rows = [array("Q", (vma.start, vma.end, 0, 0)) for vma in vmas]
    for at in range(0, len(text), PIECE):
        piece = text[at : at + PIECE]
        ended, rows = rows[: piece.count(b"\n")], rows[piece.count(b"\n") :]
        reader.add(piece, array("Q", chain.from_iterable(ended)))
    return reader.vmas()


def path(length: int, number: int = 0) -> bytes:
    return (b"/%d" % number).ljust(length, b"d")


@pytest.mark.parametrize("read", [from_smaps, from_maps])
@pytest.mark.parametrize("length", [PATH_MAX, 9_000, PIECE, LONGEST - 80, LONGEST + 11, 9 * PIECE])
def test_only_a_very_long_name_is_cut_and_those_around_it_are_whole(
    read: Read, length: int
) -> None:
    names = [b"/bin/program", path(length), path(length, 1), b"/lib/libc.so.6"]
    vmas = mappings(names)
    found = read(vmas)
    assert [(vma.start, vma.end) for vma in found] == [(vma.start, vma.end) for vma in vmas]
    assert found[0].name == names[0]
    assert found[3].name == names[3]
    for vma, name in zip(found[1:3], names[1:3], strict=True):
        assert name == vma.name or (len(name) > LONGEST - 80 and name.startswith(vma.name))
        assert min(len(name), LONGEST - 80) <= len(vma.name) <= LONGEST


@pytest.mark.parametrize("read", [from_smaps, from_maps])
def test_all_names_together_have_a_limit(read: Read) -> None:
    found = read(mappings([path(PATH_MAX, number) for number in range(10_000)]))
    assert len({vma.name for vma in found}) == 10_000
    assert MOST <= sum(len(vma.name) for vma in found) < MOST + 10_000 * 512
    assert len(found[0].name) == PATH_MAX


def endless(first: bytes) -> Iterator[bytes]:
    """A line of 256 MiB."""
    yield first
    yield from repeat(b"d" * PIECE, 1024)


def test_a_line_may_take_any_number_of_pieces() -> None:
    """In steps, each of which copied all before it, this would take minutes."""
    whole = entry(make_vma(0x1000, 0x2000, name=b"/", dev="fe:00", inode=1))
    line, _, keys = whole.partition(b"\n")
    (vma,) = parse_pieces(chain(endless(line), [b"\n" + keys]))
    assert vma.name.startswith(b"/ddd")
    reader = Maps(BITS)
    for piece in endless(line):
        reader.add(piece, array("Q"))
    reader.add(b"\n", array("Q", (0x1000, 0x2000, 0, 0)))
    assert reader.vmas()[0].name == vma.name
