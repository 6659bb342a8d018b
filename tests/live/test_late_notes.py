"""The end of the header is made after the core is ready, with the same bytes as if made before."""

import errno
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import trio
import trio.testing

from gcorefs.hold.room import Room
from gcorefs.kernel.proc import task_stat
from gcorefs.mount.buffers import LARGEST_REQUEST, Buffers
from gcorefs.mount.errands import Errands
from gcorefs.mount.limits import Limiters
from gcorefs.mount.reading import Reading
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.steps import Step
from gcorefs.tuning import Tuning
from tests.conftest import Target
from tests.live.accounts import held
from tests.snapshot import Snapshot

Spawn = Callable[..., Target]

MANY = 2 * Tuning().many_threads


class Held:
    """The times of threads become available when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = threading.Event()
        self.go = threading.Event()
        self._task_times = task_stat.task_times
        monkeypatch.setattr(task_stat, "task_times", self._held)

    def _held(self, pid: int, tids: Sequence[int]) -> Any:
        self.asked.set()
        assert self.go.wait(200)
        return self._task_times(pid, tids)


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    times = Held(monkeypatch)
    yield times
    times.go.set()


def statuses(snapshot: Snapshot) -> tuple[int, int]:
    """Offset and length of the notes."""
    layout = snapshot.layout
    return layout.notes_offset, layout.memory_offset - layout.notes_offset


@pytest.mark.parametrize("is_late", [True, False], ids=["late", "early"])
def test_every_status_has_its_place(
    spawn: Spawn,
    monkeypatch: pytest.MonkeyPatch,
    tune: Callable[[Tuning], None],
    is_late: bool,
) -> None:
    if not is_late:
        tune(Tuning(many_threads=MANY + 2))
    target = spawn("threads", MANY)
    asked: list[threading.Thread] = []
    task_times = task_stat.task_times

    def note_who_asks(pid: int, tids: Sequence[int]) -> Any:
        asked.append(threading.current_thread())
        return task_times(pid, tids)

    monkeypatch.setattr(task_stat, "task_times", note_who_asks)
    with held(target.pid) as snapshot:
        found = [*descriptors(snapshot)]
        expected = task_times(target.pid, [record.tid for record in snapshot.records])
    assert (threading.current_thread() in asked) is not is_late
    assert len(found) == MANY + 1
    for status, record, times in zip(found, snapshot.records, expected, strict=True):
        assert int.from_bytes(status[32:36], "little") == record.tid
        assert status[48:112] == timevals(times)
        assert status[112:328] == record.registers.general


def descriptors(snapshot: Snapshot) -> Iterator[bytes]:
    """The descriptors of the PRSTATUS notes, one for each thread."""
    mark = b"\x05\0\0\0\x50\x01\0\0\x01\0\0\0CORE\0\0\0\0"
    header = snapshot.layout.header
    for status in header.split(mark)[1:]:
        yield status[:336]


def timevals(ticks: Sequence[int]) -> bytes:
    words = [word for count in ticks for word in divmod(count * 10**6 // task_stat.TICKS, 10**6)]
    return b"".join(word.to_bytes(8, "little") for word in words)


def test_what_is_not_made_is_waited_for_and_nothing_else(spawn: Spawn, times: Held) -> None:
    target = spawn("threads", MANY)
    with held(target.pid) as snapshot:
        assert times.asked.wait(200)
        offset, length = statuses(snapshot)
        buffer = memoryview(bytearray(length))
        # The event loop must never wait.
        assert snapshot.read_here(0, buffer[:offset])
        assert bytes(buffer[:4]) == b"\x7fELF"
        assert not snapshot.read_here(offset, buffer)
        assert snapshot.read(snapshot.layout.memory_offset, 4096)
        found: list[bytes] = []
        reader = threading.Thread(target=lambda: found.append(snapshot.read(offset, length)))
        reader.start()
        assert (reader.is_alive(), found) == (True, [])
        times.go.set()
        reader.join(200)
        assert found == [snapshot.layout.header[offset:]]
        snapshot.core.finish(20)
        assert snapshot.read_here(offset, buffer)
        assert found == [bytes(buffer)]


async def test_nobody_else_waits_for_it(spawn: Spawn, times: Held) -> None:
    target = spawn("threads", MANY)
    with held(target.pid) as snapshot:
        assert await trio.to_thread.run_sync(times.asked.wait, 20)
        offset, length = statuses(snapshot)
        length = min(length, LARGEST_REQUEST)
        reading = Reading(snapshot.core, 0, Buffers(), Errands(), Limiters(1))
        found: list[bytes] = []

        async def read_notes() -> None:
            found.append(bytes(await reading.fetch(None, offset, length)))

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_notes)
                await trio.testing.wait_all_tasks_blocked()
                assert bytes(await reading.fetch(None, 0, 4)) == b"\x7fELF"
                assert await reading.fetch(None, snapshot.layout.memory_offset, 4096)
                assert found == []
                times.go.set()
        assert found == [snapshot.layout.header[offset : offset + length]]


@pytest.mark.parametrize("end", ["killed", "let go"])
def test_what_cannot_be_made_any_more_is_an_error(spawn: Spawn, times: Held, end: str) -> None:
    target = spawn("threads", MANY)
    with held(target.pid) as snapshot:
        assert times.asked.wait(200)
        if end == "killed":
            target.kill()
        else:
            snapshot.let_go()
            snapshot.stop.wait_untraced()
        times.go.set()
        offset, length = statuses(snapshot)
        for _ in range(2):
            with pytest.raises(ProcessError) as caught:
                snapshot.read(offset, length)
            assert caught.value.errno == errno.EIO
            assert caught.value.reason is (Reason.DIED if end == "killed" else Reason.LET_GO)
        with pytest.raises(ProcessError):
            snapshot.read_here(offset, memoryview(bytearray(length)))
        assert snapshot.read(0, 4) == b"\x7fELF"


def test_a_copied_process_is_not_let_go_before_its_header_is_made(
    spawn: Spawn, times: Held, tune: Callable[[Tuning], None]
) -> None:
    is_filled = threading.Event()

    def reach(step: Step, _: int) -> None:
        if step is Step.FILLED:
            is_filled.set()

    tune(Tuning(reach=reach))
    target = spawn("threads", MANY)
    with held(target.pid, room=Room(1 << 30)) as snapshot:
        copier = threading.Thread(target=snapshot.copy)
        copier.start()
        assert is_filled.wait(200)
        assert target.state_letters() == {"t"}
        times.go.set()
        copier.join(200)
        assert snapshot.is_copied
        offset, length = statuses(snapshot)
        assert snapshot.read(offset, length) == snapshot.layout.header[offset:]


def test_times_of_a_few_threads_are_there_from_the_start(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = spawn("threads", 3)
    with held(target.pid) as snapshot:
        monkeypatch.setattr(task_stat, "task_times", None)
        assert snapshot.read(0, 4096)
        offset, length = statuses(snapshot)
        assert snapshot.read_here(offset, memoryview(bytearray(length)))
