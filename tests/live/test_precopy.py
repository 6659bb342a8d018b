"""Memory that is copied while the process runs: after the stop every byte is that of the stop.

Most of these tests need a kernel that marks written pages (`make test-vm`).
"""

import contextlib
import itertools
import random
import subprocess
import threading
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcorefs.elfcore.layout import Source
from gcorefs.elfcore.provenance import How
from gcorefs.hold.copy import Copy
from gcorefs.hold.image import Image
from gcorefs.hold.precopied import HoldPrecopy, Rounds
from gcorefs.hold.room import Room
from gcorefs.kernel import pagemap_scan, soft_dirty
from gcorefs.policy import Policy
from gcorefs.process.memory import Memory
from gcorefs.process.pagemap import FRAME, Pagemap
from gcorefs.process.ranges import Ranges
from gcorefs.tuning import Tuning
from tests import own_tasks
from tests.conftest import Target
from tests.families import ksmd
from tests.features import needs_soft_dirty
from tests.mounted.conftest import eventually
from tests.snapshot import Snapshot, find
from tests.tuned import tuned

Spawn = Callable[..., Target]
Pause = Callable[[Memory], None]

PAGE = 4096
CHUNK = 2 << 20
GIVEN_BACK = range(40, 46)
ALL = 4 << 30
SIZE = 32
# A thread may collapse huge pages, which takes long in an emulated machine.  A thread that does not
# stop goes on writing.
PRECOPY = Policy(hold="precopy", stop_timeout=600.0)


class Told(HoldPrecopy):
    """A holder that tells when it has copied all that it copies ahead."""

    def __init__(self, rounds: int, then: Callable[[], object]) -> None:
        super().__init__(lambda: Copy(Room(ALL)), Rounds(rounds, 60.0))
        self._then = then

    def pauses(self, pid: int) -> Iterator[Pause]:
        yield from super().pauses(pid)
        self._then()


@contextlib.contextmanager
def precopied(
    target: Target, then: Callable[[], object] = lambda: None, rounds: int = 1
) -> Iterator[Snapshot]:
    """A process whose memory is copied ahead.  Between that and its stop `then` is called."""
    snapshot = Snapshot(find(target.pid), policy=PRECOPY, holder=Told(rounds, then))
    try:
        snapshot.take()
        yield snapshot
    finally:
        snapshot.close()


def holder(snapshot: Snapshot) -> HoldPrecopy:
    assert isinstance(snapshot.holder, HoldPrecopy)
    return snapshot.holder


def assert_true(snapshot: Snapshot) -> None:
    """All bytes of the copy are those of the process while it stands still."""
    assert {record.how for record in snapshot.records} == {How.STOPPED}
    before = snapshot.read(0, snapshot.size)
    snapshot.copy()
    assert (snapshot.not_copied, snapshot.is_copied) == ("", True)
    snapshot.stop.wait_untraced()
    after = snapshot.read(0, snapshot.size)
    wrong = [
        at
        for at in range(0, len(before), PAGE)
        if differs(before, after, at) and not was_taken(snapshot, before, after, at)
    ]
    if wrong:
        places = ", ".join(where(snapshot, at) for at in wrong[:20])
        held = snapshot.hold, holder(snapshot).rounds
        pytest.fail(f"{len(wrong)} pages are not what they were: {places}; {held}")
    rng = random.Random(1)
    for _ in range(100):
        offset = rng.randrange(snapshot.size)
        length = rng.randrange(1, 3 * PAGE)
        assert snapshot.read(offset, length) == after[offset : offset + length]


def differs(one: bytes, other: bytes, at: int) -> bool:
    return one[at : at + PAGE] != other[at : at + PAGE]


def was_taken(snapshot: Snapshot, before: bytes, after: bytes, at: int) -> bool:
    """The page is one of those that tests/targets/writer.c gives back with MADV_FREE.  The kernel
    takes such a page when it wants memory, at any moment (tests/live/test_lazily_freed.py)."""
    (extent,) = snapshot.layout.extents(at, 1)
    page = extent.at % CHUNK // PAGE
    one_is_gone = bytes(PAGE) in (before[at : at + PAGE], after[at : at + PAGE])
    return extent.source is Source.MEMORY and page in GIVEN_BACK and one_is_gone


def where(snapshot: Snapshot, offset: int) -> str:
    (extent,) = snapshot.layout.extents(offset, 1)
    return f"{extent.source.value} {extent.at:#x}"


def test_without_marks_of_the_kernel_it_is_a_copy(spawn: Spawn) -> None:
    if soft_dirty.is_supported():
        pytest.skip("this kernel marks the pages that a process writes")
    target = spawn("writer", SIZE)
    with precopied(target) as snapshot:
        why = "the kernel does not mark the pages that a process writes (soft-dirty)"
        assert snapshot.hold == {"hold": "precopy", "held": "copy", "held_why": why}
        assert holder(snapshot).rounds == 0
        assert_true(snapshot)


def test_a_look_at_a_copy_does_not_put_its_parts_in_order(spawn: Spawn) -> None:
    """That takes long if there are many, and the event loop of a mount looks."""
    with precopied(spawn("scattered", 500)) as snapshot:
        snapshot.copy()
        place = snapshot.layout.memory_offset
        assert snapshot.view(place, PAGE) is None
        data = snapshot.read(place, PAGE)
        assert snapshot.view(place, PAGE) == data


def test_what_an_idle_process_has_is_copied_ahead(spawn: Spawn) -> None:
    needs_soft_dirty()
    target = spawn("writer", SIZE)
    with precopied(target) as snapshot:
        assert snapshot.hold == {"hold": "precopy", "held": "precopy"}
        assert holder(snapshot).rounds == 1
        assert holder(snapshot).copied_ahead >= SIZE << 20
        assert_true(snapshot)
        assert holder(snapshot).copied_in_stop < 2 << 20


CHANGES = [
    "write 100", "all", "move", "renew", "dontneed", "free", "fork", "collapse", "protect", "grow",
    "supply",
]  # fmt: skip


@pytest.mark.parametrize("change", [*CHANGES, "collapse,split", "move,move,renew,dontneed,write 9"])
@pytest.mark.parametrize("rounds", [1, 3])
def test_what_changes_between_the_rounds_is_copied_in_the_stop(
    spawn: Spawn, change: str, rounds: int
) -> None:
    needs_soft_dirty()
    target = spawn("writer", SIZE)

    def then() -> None:
        for command in change.split(","):
            assert target.ask(command) == {"did": command.split()[0]}

    with precopied(target, then, rounds) as snapshot:
        assert snapshot.hold["held"] == "precopy"
        assert_true(snapshot)


@pytest.mark.parametrize("has_scan", [True, False])
def test_a_process_that_never_rests_is_copied_as_it_stands(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch, has_scan: bool
) -> None:
    needs_soft_dirty()
    if not has_scan:
        monkeypatch.setattr(pagemap_scan, "scan", lambda *_: None)
    target = spawn("writer", 2 * SIZE)
    assert target.ask("busy 2")
    for _ in range(5):
        with precopied(target, rounds=3) as snapshot:
            assert_true(snapshot)
    assert target.ask("quiet")


@pytest.mark.parametrize("has_scan", [True, False])
def test_a_page_of_zeros_that_comes_back_is_not_what_was_copied(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch, has_scan: bool
) -> None:
    """It has the same frame at each address, and no mark."""
    needs_soft_dirty()
    if not has_scan:
        monkeypatch.setattr(pagemap_scan, "scan", lambda *_: None)
    target = spawn("writer", SIZE)
    original, calls = Image.note_frames, itertools.count()

    def note_frames(image: Image, ranges: Ranges, pagemap: Pagemap) -> None:
        is_first = next(calls) == 0
        if is_first:
            assert target.ask("zeros") == {"did": "zeros"}
        original(image, ranges, pagemap)
        if is_first:
            assert target.ask("fill") == {"did": "fill"}

    monkeypatch.setattr(Image, "note_frames", note_frames)
    with precopied(target, lambda: target.ask("zeros")) as snapshot:
        assert next(calls) > 0
        assert_true(snapshot)


def test_bytes_that_a_debugger_writes_are_copied(spawn: Spawn) -> None:
    needs_soft_dirty()
    target = spawn("writer", SIZE)
    address = int(target.truth["arena"], 16) + 5 * PAGE

    def poke() -> None:
        with open(f"/proc/{target.pid}/mem", "r+b", 0) as memory:
            memory.seek(address)
            memory.write(b"poked by another process")

    with precopied(target, poke) as snapshot:
        assert_true(snapshot)
        (extent,) = [
            extent
            for extent in snapshot.layout.extents(0, snapshot.size)
            if extent.source is Source.MEMORY and extent.at <= address < extent.at + extent.length
        ]
        data = snapshot.read(extent.offset + address - extent.at, 24)
        assert data == b"poked by another process"


def test_direct_reads_of_a_file_are_copied(spawn: Spawn, tmp_path: Path) -> None:
    needs_soft_dirty()
    path = tmp_path / "file"
    path.write_bytes(random.Random(1).randbytes(16 * PAGE))
    target = spawn("writer", SIZE)
    with precopied(target, lambda: target.ask(f"direct {path}")) as snapshot:
        assert_true(snapshot)


def test_a_fixed_buffer_of_io_uring_is_copied(spawn: Spawn, tmp_path: Path) -> None:
    """Its pages are pinned, and the kernel keeps the marks of pinned pages."""
    needs_soft_dirty()
    path = tmp_path / "file"
    path.write_bytes(random.Random(1).randbytes(16 * PAGE))
    target = spawn("writer", SIZE)
    assert target.ask("ring")
    with precopied(target, lambda: target.ask(f"fixed {path}"), rounds=3) as snapshot:
        if soft_dirty.direct_reads_pin():
            assert (snapshot.hold["held"], holder(snapshot).rounds) == ("precopy", 1)
        else:
            why = "the kernel does not mark what asynchronous I/O writes"
            assert snapshot.hold["held_why"] == why
        assert_true(snapshot)


@pytest.mark.alone
@pytest.mark.usefixtures("swap")
@pytest.mark.parametrize("is_before", [True, False])
def test_pages_that_are_swapped_out_are_copied(spawn: Spawn, is_before: bool) -> None:
    needs_soft_dirty()
    target = spawn("writer", SIZE)
    if is_before:
        assert target.ask("swap")
    with precopied(target, lambda: target.ask("swap"), rounds=2) as snapshot:
        assert_true(snapshot)


@pytest.mark.alone
@pytest.mark.parametrize("is_unmerged", [False, True])
def test_pages_that_ksm_has_merged_are_copied(spawn: Spawn, is_unmerged: bool) -> None:
    """On Linux 6.12 such a page has no mark, although it was written."""
    needs_soft_dirty()
    target = spawn("writer", SIZE)
    pagemap = Pagemap(target.pid)

    def are_merged() -> bool:
        entries = array("Q", pagemap.entries(int(target.truth["merged"], 16), 2 * PAGE))
        return entries[0] & FRAME == entries[1] & FRAME

    def then() -> None:
        target.ask("merge")
        eventually(are_merged)
        if is_unmerged:
            target.ask("unmerge")

    with ksmd(), precopied(target, then) as snapshot:
        assert_true(snapshot)


@pytest.mark.parametrize("step", [(Image, "note_frames"), (Memory, "read_places")])
def test_a_copy_ahead_that_is_late_spoils_nothing(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch, step: tuple[type, str]
) -> None:
    """Its thread waits for a lock of the process, or for a page, until the process runs on."""
    needs_soft_dirty()
    target = spawn("writer", SIZE)
    go = threading.Event()
    original = getattr(*step)

    def wait(*arguments: object) -> None:
        go.wait(200)
        original(*arguments)

    try:
        with monkeypatch.context() as patch, tuned(Tuning(copy_timeout=0.3)):
            patch.setattr(*step, wait)
            snapshot = Snapshot(find(target.pid), policy=PRECOPY, holder=Told(1, patch.undo))
            snapshot.take()
        why = "its memory could not be read in time"
        assert snapshot.hold == {"hold": "precopy", "held": "copy", "held_why": why}
        before = snapshot.read(0, snapshot.size)
        snapshot.copy()
        assert (snapshot.not_copied, snapshot.is_copied) == ("", True)
        snapshot.stop.wait_untraced()
        assert target.ask("all") == {"did": "all"}
    finally:
        go.set()
    eventually(lambda: "gcorefs-copy" not in own_tasks.names())
    assert snapshot.read(0, snapshot.size) == before
    snapshot.close()


def test_if_somebody_else_clears_the_marks_all_is_copied_in_the_stop(spawn: Spawn) -> None:
    needs_soft_dirty()
    target = spawn("writer", SIZE)

    def then() -> None:
        target.ask("write 100")
        soft_dirty.clear(target.pid)

    with precopied(target, then) as snapshot:
        assert_true(snapshot)
        why = "somebody else has cleared the marks of the kernel (clear_refs)"
        assert snapshot.hold == {"hold": "precopy", "held": "copy", "held_why": why}


def test_another_program_has_nothing_of_the_image(spawn: Spawn) -> None:
    needs_soft_dirty()
    with subprocess.Popen(["sh", "-c", "read x; exec sleep 1000"], stdin=subprocess.PIPE) as shell:
        try:
            process = find(shell.pid)

            def then() -> None:
                assert shell.stdin is not None
                shell.stdin.write(b"\n")
                shell.stdin.flush()
                while Path(f"/proc/{shell.pid}/comm").read_bytes() != b"sleep\n":
                    pass

            snapshot = Snapshot(process, policy=PRECOPY, holder=Told(1, then))
            try:
                snapshot.take()
                assert_true(snapshot)
            finally:
                snapshot.close()
        finally:
            shell.kill()
