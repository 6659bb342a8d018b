"""Memory that processes share stays shared, to the page, however it is read."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from gcorefs.hold.room import Room
from tests.conftest import Target, more_huge_pages
from tests.families import MIB, PAGE, Family, ksmd
from tests.snapshot import Snapshot, find
from tests.turns import alone

Spawn = Callable[..., Target]
Read = Callable[[Snapshot, int, int], bytes]

pytestmark = pytest.mark.usefixtures("each_source")

SIZE = 16 * MIB


def in_windows(snapshot: Snapshot, offset: int, length: int) -> bytes:
    return b"".join(snapshot.read(offset + at, MIB) for at in range(0, length, MIB))


def in_odd_pieces(snapshot: Snapshot, offset: int, length: int) -> bytes:
    """Pieces that neither begin nor end at a page boundary."""
    step = 3 * PAGE + 100
    borders = [*range(offset, offset + length, step), offset + length]
    return b"".join(snapshot.read(start, end - start) for start, end in pairwise(borders))


def at_once(snapshot: Snapshot, offset: int, length: int) -> bytes:
    """As the mount's event loop reads random pages."""
    data = bytearray(length)
    for at in range(0, length, PAGE):
        assert snapshot.read_at_once(offset + at, memoryview(data)[at : at + PAGE])
    return bytes(data)


def copied(snapshot: Snapshot, offset: int, length: int) -> bytes:
    snapshot.copy()
    assert snapshot.is_copied, snapshot.not_copied
    return snapshot.read(offset, length)


_ALL = [in_windows, in_odd_pieces, at_once, copied]
READS = pytest.mark.parametrize("read", _ALL)
# Pages that a file must supply are not read at once.
WAYS = [(memory, read) for memory in ("small", "data", "thp", "moved") for read in _ALL]
WAYS.remove(("data", at_once))


def dumped(family: Family, read: Read) -> bytes:
    """The family's memory in a core of the child."""
    snapshot = Snapshot(find(family.target.pid), room=Room(4 << 30) if read is copied else None)
    try:
        snapshot.take()
        (offset,) = (
            extent.offset + family.start - extent.at
            for extent in snapshot.layout.extents(0, snapshot.size)
            if extent.at <= family.start < extent.at + extent.length
        )
        return read(snapshot, offset, family.end - family.start)
    finally:
        snapshot.close()


def assert_unhurt(family: Family, read: Read) -> None:
    before = family.counts()
    assert dumped(family, read) == family.expected()
    assert family.counts() == before
    if len(family.pids) > 1:
        assert family.target.ask("parent") == {"intact": True}


def shared(family: Family, key: str) -> list[int]:
    """Its bytes that smaps counts as shared, by process."""
    return [sizes[key] << 10 for sizes in family.sizes()]


@pytest.mark.parametrize(("memory", "read"), WAYS)
def test_what_a_fork_shares_stays_shared(spawn: Spawn, memory: str, read: Read) -> None:
    family = Family(spawn, memory, "keeps", SIZE)
    assert shared(family, "Shared_Dirty") == [SIZE, SIZE]
    assert_unhurt(family, read)


@pytest.mark.parametrize(("memory", "read"), [way for way in WAYS if way[0] in ("small", "data")])
def test_what_is_the_childs_own_is_read_beside_it(spawn: Spawn, memory: str, read: Read) -> None:
    family = Family(spawn, memory, "keeps", SIZE)
    family.target.ask("write")
    assert shared(family, "Shared_Dirty") == [SIZE // 2, SIZE // 2]
    assert_unhurt(family, read)


@READS
@pytest.mark.parametrize("memory", ["thp", "moved"])
def test_huge_pages_if_the_parent_has_one_half(spawn: Spawn, memory: str, read: Read) -> None:
    # Each huge page is one folio.  A read of the half that only the child maps would copy it too.
    family = Family(spawn, memory, "halves", SIZE)
    assert shared(family, "Shared_Dirty") == [SIZE // 2, SIZE // 2]
    assert shared(family, "Private_Dirty") == [SIZE // 2, 0]
    assert_unhurt(family, read)


@pytest.mark.parametrize(("memory", "read"), WAYS)
def test_what_only_the_child_has_left_costs_nothing(spawn: Spawn, memory: str, read: Read) -> None:
    family = Family(spawn, memory, "drops", SIZE)
    before = family.counts()[1], shared(family, "Pss"), shared(family, "AnonHugePages")
    assert dumped(family, read) == family.expected()
    assert (family.counts()[1], shared(family, "Pss"), shared(family, "AnonHugePages")) == before


@alone
@READS
def test_huge_pages_that_were_set_aside_stay_shared(spawn: Spawn, read: Read) -> None:
    with more_huge_pages(2 * SIZE // (2 * MIB)):  # with room for a copy
        family = Family(spawn, "hugetlb", "keeps", SIZE)
        assert shared(family, "Shared_Hugetlb") == [SIZE, SIZE]
        assert_unhurt(family, read)
        family.target.kill()


@pytest.fixture
def stop_merging() -> Iterator[Callable[[], object]]:
    with ksmd() as stop:
        yield stop


@READS
@pytest.mark.parametrize("parent", ["keeps", "alone"])
def test_what_was_merged_stays_merged(
    spawn: Spawn, stop_merging: Callable[[], object], parent: str, read: Read
) -> None:
    family = Family(spawn, "ksm", parent, SIZE)
    stop_merging()
    assert shared(family, "KSM")[0] == SIZE
    assert_unhurt(family, read)


@READS
def test_a_merged_page_that_nobody_else_has_any_more(
    spawn: Spawn, stop_merging: Callable[[], object], read: Read
) -> None:
    family = Family(spawn, "ksm", "alone", SIZE)
    stop_merging()
    family.target.ask("write")
    # pagemap shows the second half as if only the process had it.
    assert family.target.ask("pages")["exclusive"] == SIZE // PAGE
    assert shared(family, "KSM") == [SIZE // 2]
    assert_unhurt(family, read)


@pytest.mark.parametrize("read", [in_windows, in_odd_pieces, copied])
def test_what_is_swapped_out_is_read_and_stays_shared(spawn: Spawn, swap: None, read: Read) -> None:
    size = 8 * MIB
    family = Family(spawn, "swapped", "keeps", size)
    assert family.target.ask("pages")["swapped"] == size // PAGE
    assert shared(family, "SwapPss") == [size // 2, size // 2]
    assert dumped(family, read) == family.expected()
    # The child maps the pages that were read in.  When the parent reads, it maps the same pages.
    assert [sizes["Swap"] << 10 for sizes in family.sizes()] == [0, size]
    assert family.target.ask("parent") == {"intact": True}
    assert shared(family, "Rss") == [size, size]
    assert shared(family, "Pss") == [size // 2, size // 2]
