"""Memory that is copied, so that the process need not stand still while it is read."""

import contextlib
import ctypes
import errno
import gc
import itertools
import json
import os
import resource
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gcorefs import gather_memory
from gcorefs.elfcore.elf import page_up
from gcorefs.elfcore.layout import Source
from gcorefs.elfcore.smaps import parse_smaps
from gcorefs.elfcore.vma import VmFlag
from gcorefs.hold.copy import Copy
from gcorefs.hold.room import RESERVE, Room
from gcorefs.kernel import own_memory
from gcorefs.kernel.proc import address_space, system_files, task_stat, task_status
from gcorefs.policy import Policy
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.kernel_features import kernel_features
from gcorefs.process.memory import Memory
from gcorefs.process.page_providers import MayWait
from gcorefs.tuning import Tuning
from tests import own_tasks
from tests.conftest import Target, wait_until_asleep
from tests.mounted.conftest import AS_NOBODY
from tests.snapshot import Snapshot, find
from tests.tuned import tuned

Spawn = Callable[..., Target]

PAGE = 4096
ALL = 4 << 30
HOLD = ("hold", "held", "held_why")
MEBIBYTE = 1 << 20
UNREADABLE = {"file_short_past_eof"}


@contextlib.contextmanager
def held(target: Target, limit: int = ALL) -> Iterator[Snapshot]:
    """A stopped process whose memory will be copied."""
    snapshot = Snapshot(find(target.pid), policy=Policy(stop_timeout=5.0), room=Room(limit))
    try:
        snapshot.take()
        yield snapshot
    finally:
        snapshot.close()


def whole(snapshot: Snapshot) -> bytes:
    return snapshot.read(0, snapshot.size)


def policy(snapshot: Snapshot) -> dict[str, Any]:
    """What the note says about the hold."""
    header = snapshot.layout.header
    start = header.index(b'{"version":')
    facts, _ = json.JSONDecoder().raw_decode(header[start:].decode("ascii", "replace"))
    return {name: text for name, text in facts["policy"].items() if name in HOLD}


def assert_held(target: Target, snapshot: Snapshot, why: str) -> None:
    """The process is held as with hold=stop, and the note says so."""
    assert why in snapshot.not_copied
    assert not snapshot.is_copied
    assert snapshot.hold == {"hold": "copy", "held": "stop", "held_why": snapshot.not_copied}
    assert target.state_letters() == {"t"}


def await_running(target: Target, snapshot: Snapshot) -> None:
    assert snapshot.is_copied
    snapshot.stop.wait_untraced()
    assert {tracer for _, tracer in target.states().values()} == {0}


@pytest.fixture(params=["memory", "kinds", "reserve", "scattered", "threads"])
def any_target(request: pytest.FixtureRequest, spawn: Spawn, tmp_path: Path) -> Target:
    if request.param == "kinds":
        target: Target = request.getfixturevalue("kinds")()
        return target
    words: dict[str, tuple[object, ...]] = {
        "memory": (tmp_path,),
        "reserve": (1, 3000),
        "scattered": (5000,),
        "threads": (20,),
    }
    return spawn(request.param, *words[request.param])


def test_what_is_copied_is_what_would_have_been_read(
    any_target: Target, tune: Callable[[Tuning], None]
) -> None:
    # In many pieces, few of which end where a mapping does.
    tune(Tuning(copy_piece=5 * PAGE))
    Path(f"/proc/{any_target.pid}/coredump_filter").write_text("0x7f")
    with held(any_target) as snapshot:
        before = whole(snapshot)
        lost = snapshot.unreadable_ranges
        snapshot.copy()
        assert snapshot.not_copied == ""
        await_running(any_target, snapshot)
        assert whole(snapshot) == before
        assert snapshot.unreadable_ranges == lost
        step = max(7001, snapshot.size // 50)
        for offset in range(0, snapshot.size, step):
            assert snapshot.read(offset, 7000) == before[offset : offset + 7000]
        assert policy(snapshot) == {"hold": "copy", "held": "copy"}


def test_a_kernel_that_populates_no_memory_in_advance_copies_too(
    spawn: Spawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def populate(_: memoryview) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(own_memory, "populate", populate)
    target = spawn("memory", tmp_path)
    with held(target) as snapshot:
        before = whole(snapshot)
        snapshot.copy()
        await_running(target, snapshot)
        assert whole(snapshot) == before


def test_pages_that_cannot_be_read_are_counted_by_the_copy(
    spawn: Spawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather_memory, "unreadable", lambda *_: [])  # no page is known beforehand
    target = spawn("memory", tmp_path)
    Path(f"/proc/{target.pid}/coredump_filter").write_text("0x7f")
    regions = {region["name"]: region for region in target.truth["regions"]}
    expected = sorted(
        (int(regions[name]["start"], 16), int(regions[name]["end"], 16))
        for name in UNREADABLE & regions.keys()
    )
    with held(target) as snapshot:
        assert snapshot.unreadable == 0
        snapshot.copy()
        await_running(target, snapshot)
        assert snapshot.unreadable_ranges == expected


def word(snapshot: Snapshot, address: str) -> int:
    """The word at an address, in the file."""
    layout = snapshot.layout
    for extent in layout.extents(0, layout.size):
        if extent.source is Source.MEMORY and 0 <= int(address, 16) - extent.at < extent.length:
            data = snapshot.read(extent.offset + int(address, 16) - extent.at, 8)
            return int.from_bytes(data, "little")
    raise LookupError(address)


def test_the_process_runs_while_it_is_read(spawn: Spawn) -> None:
    target = spawn("counter")
    with held(target) as snapshot:
        then = word(snapshot, target.truth["finished"])
        snapshot.copy()
        await_running(target, snapshot)
        first = target.ask("report")["iterations"]
        deadline = time.monotonic() + 200
        while (later := target.ask("report"))["iterations"] <= first:
            assert time.monotonic() < deadline, "it stands still"
        assert later["errors"] == 0
        assert word(snapshot, target.truth["finished"]) == then < later["iterations"]
        a, b = target.truth["a"], target.truth["b"]
        pairs = target.truth["pairs"]
        # One instant: the copy has the old content (targets/counter.c).
        data = whole(snapshot)
        start = data_offset(snapshot, a)
        words = struct.unpack_from(f"<{2 * pairs}Q", data, start)
        assert int(b, 16) - int(a, 16) == 8 * pairs
        begun = word(snapshot, target.truth["begun"])
        assert then <= sum(words[:pairs]) <= begun
        assert then <= sum(words[pairs:]) <= begun
        assert begun - then in (0, 1)


def data_offset(snapshot: Snapshot, address: str) -> int:
    layout = snapshot.layout
    for extent in layout.extents(0, layout.size):
        if extent.source is Source.MEMORY and 0 <= int(address, 16) - extent.at < extent.length:
            offset: int = extent.offset + int(address, 16) - extent.at
            return offset
    raise LookupError(address)


def test_a_death_after_the_copy_does_not_matter(spawn: Spawn) -> None:
    target = spawn("threads", 5)
    ended = threading.Event()
    snapshot = Snapshot(find(target.pid), on_end=ended.set, room=Room(ALL))
    try:
        snapshot.take()
        before = whole(snapshot)
        snapshot.copy()
        await_running(target, snapshot)
        target.kill()
        assert whole(snapshot) == before
        assert (snapshot.is_dead, ended.is_set()) == (False, False)
    finally:
        snapshot.close()


def test_a_death_between_the_copy_and_letting_go_does_not_matter(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = spawn("threads", 5)
    ended = threading.Event()
    snapshot = Snapshot(find(target.pid), on_end=ended.set, room=Room(ALL))
    try:
        snapshot.take()
        before = whole(snapshot)
        with monkeypatch.context() as patch:
            patch.setattr(snapshot.stop, "run_on", lambda: None)
            snapshot.copy()
            target.kill()
            assert ended.wait(200)
        assert (snapshot.is_dead, snapshot.is_copied) == (False, True)
        assert whole(snapshot) == before
    finally:
        snapshot.close()


class Brake:
    """Stops Memory.read_places at its nth call until the test lets it go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        original, calls = Memory.read_places, itertools.count(1)

        def read_places(memory: Memory, *arguments: Any) -> None:
            if next(calls) == nth:
                self.reached.set()
                assert self.go.wait(200)
            original(memory, *arguments)

        monkeypatch.setattr(Memory, "read_places", read_places)


def test_a_death_during_the_copy_is_the_error_that_it_is_without(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch, tune: Callable[[Tuning], None]
) -> None:
    tune(Tuning(copy_piece=64 * PAGE))
    target = spawn("bulk", 16)
    with held(target) as snapshot:
        brake = Brake(monkeypatch, 4)
        thread, errors = in_a_thread(snapshot.copy)
        assert brake.reached.wait(200)
        target.kill()
        deadline = time.monotonic() + 200
        while not snapshot.is_dead:
            assert time.monotonic() < deadline, "nobody saw it die"
        brake.go.set()
        thread.join(200)
        assert [error.reason for error in errors] == [Reason.DIED]
        assert (snapshot.is_dead, snapshot.is_copied) == (True, False)
        with pytest.raises(ProcessError) as caught:
            snapshot.read(snapshot.layout.memory_offset, 1)
        assert (caught.value.errno, caught.value.reason) == (errno.EIO, Reason.DIED)


def in_a_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[Any]]:
    errors: list[Any] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:  # for the test to look at
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


def test_a_read_that_the_copy_overtakes_has_its_bytes_from_there(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = spawn("counter")
    with held(target) as snapshot:
        offset = data_offset(snapshot, target.truth["a"])
        expected = snapshot.read(offset, 1 << 20)
        found: list[bytes] = []
        brake = Brake(monkeypatch, 1)
        thread, errors = in_a_thread(lambda: found.append(snapshot.read(offset, 1 << 20)))
        assert brake.reached.wait(200)
        snapshot.copy()
        await_running(target, snapshot)
        before = target.ask("report")["iterations"]
        while target.ask("report")["iterations"] < before + 100_000:
            pass  # the memory has other bytes now
        brake.go.set()
        thread.join(200)
        assert errors == []
        assert found == [expected]


def test_a_core_over_the_limit_is_held(spawn: Spawn) -> None:
    target = spawn("bulk", 16)
    with held(target, limit=16 * MEBIBYTE) as snapshot:
        before = whole(snapshot)
        snapshot.copy()
        assert_held(target, snapshot, "MiB are over copy_limit")
        assert policy(snapshot) == snapshot.hold
        assert whole(snapshot) == before


def test_a_core_just_within_the_limit_is_copied(spawn: Spawn) -> None:
    target = spawn("bulk", 16)
    wait_until_asleep(target.pid)  # till then its memory may grow
    with held(target) as snapshot:
        layout = snapshot.layout
        size = layout.zeros_offset - layout.memory_offset
    for limit, expected in ((size - 1, False), (size, True)):
        with held(target, limit=limit) as snapshot:
            snapshot.copy()
            assert snapshot.is_copied is expected


def test_memory_is_left_to_others(spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    target = spawn("bulk", 16)
    available = RESERVE + 16 * MEBIBYTE
    monkeypatch.setattr(system_files, "available_memory", lambda: available)
    with held(target) as snapshot:
        snapshot.copy()
        assert_held(target, snapshot, "memory is short for its ")
        assert policy(snapshot) == snapshot.hold
    available += 16 * MEBIBYTE
    with held(target) as snapshot:
        snapshot.copy()
        await_running(target, snapshot)


def test_what_the_machine_has_is_what_the_kernel_says() -> None:
    text = Path("/proc/meminfo").read_text()
    before = int(text.split("MemAvailable:")[1].split()[0]) * 1024
    assert abs(system_files.available_memory() - before) < before / 2


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EFAULT])
def test_a_copy_that_fails_half_way_is_a_process_that_is_held(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    target = spawn("bulk", 64)
    with held(target) as snapshot:
        before = whole(snapshot)
        resident = resident_memory()
        original, calls = Memory.read_places, itertools.count(1)

        def read_places(memory: Memory, *arguments: Any) -> None:
            if next(calls) == 3:
                raise OSError(number, os.strerror(number))
            original(memory, *arguments)

        with monkeypatch.context() as patch, tuned(Tuning(copy_piece=1 << 20)):
            patch.setattr(Memory, "read_places", read_places)
            snapshot.copy()
        assert_held(target, snapshot, os.strerror(number))
        # The header was made before.
        assert policy(snapshot) == {"hold": "copy", "held": "copy"}
        assert whole(snapshot) == before
        assert resident_memory() < without_room(resident, 64)


def test_a_copy_that_does_not_come_on_is_given_up_and_its_memory_free(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = spawn("bulk", 64)
    with held(target) as snapshot:
        before = whole(snapshot)
        resident = resident_memory()
        sooner = Tuning(copy_piece=1 << 20, copy_timeout=0.3)
        with monkeypatch.context() as patch, tuned(sooner):
            brake = Brake(patch, 3)
            snapshot.copy()
        try:
            assert_held(target, snapshot, "could not be read in time")
            assert resident_memory() < without_room(resident, 64)  # though a thread is still in it
            assert whole(snapshot) == before
        finally:
            brake.go.set()
            while "gcorefs-copy" in own_tasks.names():
                time.sleep(0.001)


def without_room(resident: int, mebibytes: int) -> int:
    """More than is resident without the room for a copy, and less than with what was copied to it.

    `resident`: before the copy.  That includes the room if the kernel can populate it.
    """
    room = mebibytes if kernel_features()["MADV_POPULATE_WRITE"] else 0
    return resident - (room - 1) * MEBIBYTE


def resident_memory() -> int:
    """Bytes that only we have and use; free bytes on the heap may be given back at any time.

    RssAnon of /proc/PID/status is inaccurate (proc(5)); smaps_rollup counts the pages.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    return int(dict(line.split(":") for line in lines)["Anonymous"].split()[0]) * 1024


def test_there_may_be_no_address_space_for_it(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = spawn("bulk", 64)
    status = task_status.status(os.getpid())
    used = int(status["VmSize"].split()[0]) * 1024
    limits = resource.getrlimit(resource.RLIMIT_AS)
    # Threads need address space for their stacks.
    resource.setrlimit(resource.RLIMIT_AS, (used + 48 * MEBIBYTE, limits[1]))
    monkeypatch.setattr(threading, "stack_size", lambda *_: 0)
    try:
        with held(target) as snapshot:
            snapshot.copy()
            assert_held(target, snapshot, "there is no room for it")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_a_copy_does_not_wait_for_a_page_of_a_handler(spawn: Spawn) -> None:
    target = spawn("uffd")
    with held(target) as snapshot:
        offset = data_offset(snapshot, target.truth["start"])
        snapshot.copy()
        assert_held(target, snapshot, "a page is not in memory, and somebody must supply it")
        # Pages that are in memory can be read.
        start = int(target.truth["start"], 16)
        assert int.from_bytes(snapshot.read(offset, 8), "little") == start
        with pytest.raises(MayWait):
            snapshot.read_into(offset, memoryview(bytearray(2 * PAGE)), ())
    # The read asked for the page in vain; now its handler runs and supplies it at once.
    assert target.ask("touch 1") == {"word": hex(start + PAGE)}


def test_memory_that_is_copied_is_freed_with_its_last_view(spawn: Spawn) -> None:
    target = spawn("bulk", 256)
    before = resident_memory()
    room = Counting(ALL)
    snapshot = Snapshot(find(target.pid), room=room)
    snapshot.take()
    snapshot.copy()
    await_running(target, snapshot)
    size = snapshot.layout.zeros_offset - snapshot.layout.memory_offset
    assert room.taken == page_up(size)
    assert resident_memory() - before >= size
    view = snapshot.view(snapshot.layout.memory_offset, PAGE)
    assert view is not None
    data = bytes(view)
    snapshot.close()
    assert (bytes(view), room.taken) == (data, page_up(size))
    with pytest.raises(ProcessError) as caught:
        snapshot.read(snapshot.layout.memory_offset, 1)
    assert caught.value.reason is Reason.LET_GO
    assert snapshot.read(0, 4) == b"\x7fELF"
    del view
    assert room.taken == 0
    assert resident_memory() - before < 16 * MEBIBYTE


class Counting(Room):
    taken = 0

    def take(self, amount: int, more: int) -> None:
        super().take(amount, more)
        self.taken += more

    def give_back(self, amount: int) -> None:
        self.taken -= amount


@pytest.mark.parametrize("room_for", [0, 1, 100])
def test_room_is_made_as_large_as_it_turns_out_to_be(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch, room_for: int
) -> None:
    # The estimate is too small, or too large.
    target = spawn("bulk", 16)
    original = Copy.prepare
    monkeypatch.setattr(Copy, "prepare", lambda own, _: original(own, room_for * MEBIBYTE))
    room = Counting(ALL)
    snapshot = Snapshot(find(target.pid), room=room)
    try:
        snapshot.take()
        before = whole(snapshot)
        snapshot.copy()
        await_running(target, snapshot)
        layout = snapshot.layout
        assert room.taken == page_up(layout.zeros_offset - layout.memory_offset)
        assert whole(snapshot) == before
    finally:
        snapshot.close()


@pytest.mark.usefixtures("nothing_is_collected")
@pytest.mark.parametrize(("piece", "nth"), [(64, 1), (2, 1), (2, 8)])
def test_a_copy_that_is_given_up_is_never_used(
    piece: int,
    nth: int,
    spawn: Spawn,
    monkeypatch: pytest.MonkeyPatch,
    tune: Callable[[Tuning], None],
) -> None:
    tune(Tuning(copy_piece=piece * MEBIBYTE))
    target = spawn("bulk", 16)
    room = Counting(ALL)
    snapshot = Snapshot(find(target.pid), room=room)
    snapshot.take()
    brake = Brake(monkeypatch, nth)
    thread, errors = in_a_thread(snapshot.copy)
    assert brake.reached.wait(200)
    snapshot.close()
    brake.go.set()
    thread.join(200)
    assert [error.reason for error in errors] == [Reason.LET_GO]
    assert not snapshot.is_copied
    with pytest.raises(ProcessError):
        snapshot.read(snapshot.layout.memory_offset, 1)
    errors.clear()
    assert room.taken == 0


def test_a_copy_is_in_no_core_of_ours_and_in_no_child(spawn: Spawn) -> None:
    target = spawn("bulk", 64)
    with held(target) as snapshot:
        snapshot.copy()
        await_running(target, snapshot)
        view = snapshot.view(snapshot.layout.memory_offset, 1)
        assert view is not None
        assert view.readonly
        large = [
            vma.vm_flags
            for vma in parse_smaps(address_space.read_mm(os.getpid(), "smaps"))
            if vma.size >= 64 * MEBIBYTE and VmFlag.HUGEPAGE in vma.vm_flags
        ]
        assert large
        assert all(VmFlag.DONTDUMP | VmFlag.DONTCOPY in flags for flags in large)


OTHER_PROGRAM = """
import ctypes, os, sys
if os.getuid():
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
print('{"pid": %d}' % os.getpid(), flush=True)
for line in sys.stdin:
    if line == "exec\\n":
        os.execvp("sleep", ["sleep", "1000"])
    if line == "user\\n":
        os.setresuid(65534, 65534, 65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE
    print("{}", flush=True)
"""


@pytest.mark.parametrize("change", ["exec", "user", "dumpable", "death"])
def test_a_copy_knows_when_it_is_of_another_program(change: str) -> None:
    user = AS_NOBODY if change == "dumpable" else ()
    target = Target([*user, "/usr/bin/python3", "-c", OTHER_PROGRAM])
    try:
        with held(target) as snapshot:
            before = whole(snapshot)
            snapshot.copy()
            await_running(target, snapshot)
            assert snapshot.is_unchanged()
            if change in ("user", "dumpable"):
                target.ask(change)
                assert not snapshot.is_unchanged()
            elif change == "exec":
                target.tell("exec")
                while task_stat.stat(target.pid).comm != b"sleep":
                    pass
                assert not snapshot.is_unchanged()
            else:
                target.kill()
                with contextlib.suppress(ProcessError):  # GONE
                    assert not snapshot.is_unchanged()
            assert whole(snapshot) == before
    finally:
        target.kill()


def test_a_copy_does_not_belong_to_the_next_program_even_if_the_memory_lives_on(
    spawn: Callable[..., Target],
) -> None:
    """A child shares the old memory, and keeps it alive after the execve(2) of its parent."""
    target = spawn("sharer")
    with held(target) as snapshot:
        snapshot.copy()
        await_running(target, snapshot)
        assert snapshot.is_unchanged()
        target.tell("exec")
        while task_stat.stat(target.pid).comm != b"sleep":
            pass
        assert not snapshot.is_unchanged()
