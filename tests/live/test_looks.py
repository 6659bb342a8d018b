"""What the conditions of `gcorefs watch --when` see of a process, and when."""

import os
import select
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gcorefs.process.cgroups import memory_event_files
from gcorefs.triggers.group_events import Counter, GroupEvents
from gcorefs.triggers.looks import Cpu, Uninterruptible, look_at, resident
from gcorefs.triggers.words import conditions
from tests.cgroups import Freezer, memory_group
from tests.conftest import Target

Spawn = Callable[..., Target]


def seen(pid: int, text: str, now: float = 0.0) -> str:
    (condition,) = conditions(text)
    with closing(look_at(pid, condition)) as look:
        return look.look(now)


def test_rss_is_that_of_statm(spawn: Spawn) -> None:
    target = spawn("swell")
    before = resident(target.pid)
    truth = target.ask("memory 64")["resident"]
    found = resident(target.pid)
    assert found - before >= 63 << 20
    assert abs(found - truth) < 1 << 20  # the kernel's counts are not exact (proc_pid_statm(5))
    assert seen(target.pid, "rss>32M") == f"rss is {found >> 20} MiB"
    assert seen(target.pid, "rss>1G") == ""


def test_threads_are_counted(spawn: Spawn) -> None:
    target = spawn("swell")
    count = target.ask("threads 5")["threads"]
    assert seen(target.pid, f"threads>{count - 1}") == f"threads are {count}"
    assert seen(target.pid, f"threads>{count}") == ""


def test_cpu_is_a_mean_over_all_of_its_time(spawn: Spawn) -> None:
    target = spawn("swell")
    (condition,) = conditions("cpu>1%/10s")
    cpu = Cpu(target.pid, condition)
    # The clock of the looks is the test's own: it needs not wait for ten seconds.
    assert cpu.look(0) == ""
    clock = ~target.pid << 3 | 2
    before = time.clock_gettime(clock)
    target.ask("spin")
    deadline = time.monotonic() + 60
    while time.clock_gettime(clock) - before < 0.3:
        assert time.monotonic() < deadline
    target.ask("rest")
    assert cpu.look(9.9) == ""
    told = cpu.look(10)
    assert told.startswith("cpu was ")
    assert told.endswith("% for 10 s")
    used = time.clock_gettime(clock) - before
    assert abs(int(told.split()[2].rstrip("%")) - 100 * used / 10) <= 1
    # What happened before the last ten seconds does not count.
    assert cpu.look(20) == ""


def test_a_thread_in_state_d_counts_from_the_look_that_sees_it(spawn: Spawn) -> None:
    target = spawn("vforker")
    (condition,) = conditions("D>30s")
    look = Uninterruptible(target.pid, condition)
    assert look.look(1000) == ""
    assert look.look(1030) == ""
    assert look.look(1031) == "1 thread in state D, the longest for 31 s"
    target.ask("release")
    deadline = time.monotonic() + 60
    while "D" in target.state_letters():
        assert time.monotonic() < deadline
    assert look.look(2000) == ""


def test_another_sleep_is_not_the_same_one(spawn: Spawn) -> None:
    target = spawn("vforker")
    (condition,) = conditions("D>30s")
    look = Uninterruptible(target.pid, condition)
    assert look.look(1000) == ""
    tid = target.truth["vfork_tid"]
    # A thread that runs for a moment and sleeps again has other counts of switches.  SIGSTOP and
    # SIGCONT do that for none of this kind, so the look is told of another thread in its place.
    assert tid in look.asleep
    look.asleep[tid] = (look.asleep[tid][0], b"0 0")
    assert look.look(1031) == ""
    assert look.look(1060) == ""
    assert look.look(1062) != ""


@pytest.mark.parametrize("text", ["rss>1", "threads>1", "D>1s", "cpu>1%"])
def test_a_process_that_has_ended(spawn: Spawn, text: str) -> None:
    target = spawn("swell")
    (condition,) = conditions(text)
    look = look_at(target.pid, condition)
    target.kill()
    with pytest.raises(ProcessLookupError):
        look.look(0)


@pytest.fixture
def freezer() -> Iterator[Freezer]:
    freezer = Freezer("v2")
    yield freezer
    freezer.remove()


def test_the_kernel_wakes_who_polls_a_count(spawn: Spawn, freezer: Freezer) -> None:
    """cgroup.events works as memory.events.local does, and is in every group of version 2."""
    target = spawn("threads", 1)
    freezer.add(target.pid)
    with closing(Counter(str(freezer.path / "cgroup.events"), "frozen")) as counter:
        poll = select.poll()
        poll.register(counter.file, select.POLLPRI)
        assert poll.poll(0) == []
        freezer.freeze()
        assert [file for file, _ in poll.poll(60_000)] == [counter.file]
        assert counter.has_grown()
        assert not counter.has_grown()
        assert poll.poll(0) == []
        freezer.thaw()
        assert not counter.has_grown()


def test_a_group_that_is_gone_tells_nothing(freezer: Freezer) -> None:
    path = freezer.path / "below"
    path.mkdir()
    with closing(Counter(str(path / "cgroup.events"), "populated")) as counter:
        path.rmdir()
        assert not counter.has_grown()
        assert not counter.is_there


def test_memory_high_needs_a_group_that_counts_it(spawn: Spawn) -> None:
    target = spawn("threads", 1)
    if memory_event_files(target.pid):
        with closing(GroupEvents(target.pid, "memory.high")) as events:
            assert events.look(0) == ""
        return
    with pytest.raises(OSError, match=r"memory.high: .*no control group of version 2"):
        GroupEvents(target.pid, "memory.high")


def test_memory_high_is_told_once_for_each_time(spawn: Spawn) -> None:
    with memory_group() as group:
        if not (Path(group.path) / "memory.high").exists():
            pytest.skip("the memory controller is not in version 2 of cgroups")
        target = spawn("swell")
        group.add(target.pid)
        with closing(GroupEvents(target.pid, "memory.high")) as events:
            assert events.look(0) == ""
            (Path(group.path) / "memory.high").write_text(str(8 << 20))
            target.tell("memory 32")
            poll = select.poll()
            for file in events.files():
                poll.register(file, select.POLLPRI)
            assert poll.poll(60_000)
            assert events.look(0) == f"memory.high of {group.path} was met"
            (Path(group.path) / "memory.high").write_text("max")
            target.line()
            events.look(0)
            assert events.look(0) == ""
            # In the topmost group nothing is counted.
            (group.path.parent / "cgroup.procs").write_text(str(target.pid))
            assert events.look(0) == ""
            assert events.files() == []
            group.add(target.pid)
            assert events.look(0) == ""
            assert events.files()
        os.kill(target.pid, 9)
        target.popen.wait(60)
