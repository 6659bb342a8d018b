"""How much a mount promises to its users, by what the machine and its control groups have."""

import os
import resource

import pytest

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.mount.affordable import affordable, threads_of_a_user
from gcorefs.mount.options import Options
from gcorefs.process import cgroups
from gcorefs.process.cgroups import Limit

MIB, GIB = 1 << 20, 1 << 30


class Machine:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files = 65536
        self.memory = 64 * GIB
        self.memory_limits: list[Limit] = []
        self.task_limits: list[Limit] = []
        monkeypatch.setattr(resource, "getrlimit", lambda name: (1024, self.files))
        monkeypatch.setattr(resource, "setrlimit", lambda name, values: None)
        monkeypatch.setattr(os, "sysconf", lambda name: self.memory // PAGE_SIZE)
        monkeypatch.setattr(cgroups, "memory_limits", lambda: self.memory_limits)
        monkeypatch.setattr(cgroups, "task_limits", lambda: self.task_limits)

    def stops(self) -> tuple[int, int]:
        found = affordable(Options())
        return found.user_stops, found.max_stops

    def memory_of_users(self) -> tuple[int, int, int, int]:
        found = affordable(Options())
        return (
            found.user_memory,
            found.max_memory,
            found.user_read_ahead,
            found.max_read_ahead,
        )


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_a_large_machine_affords_all(machine: Machine) -> None:
    asked = Options(copy_limit=1000)
    assert affordable(asked) == asked
    machine.memory_limits = [Limit(40 * GIB, 0)]
    machine.task_limits = [Limit(10_000, 5_000)]
    assert affordable(asked) == asked


@pytest.mark.parametrize(
    ("files", "stops"), [(65536, (256, 1024)), (4096, (240, 720)), (288, (2, 6)), (64, (1, 3))]
)
def test_each_stop_takes_descriptors(machine: Machine, files: int, stops: tuple[int, int]) -> None:
    machine.files = files
    assert machine.stops() == stops


@pytest.mark.parametrize(
    ("left", "stops"), [(5000, (256, 1024)), (3000, (246, 738)), (97, (4, 12)), (0, (1, 3))]
)
def test_each_stop_takes_tasks_of_every_group(
    machine: Machine, left: int, stops: tuple[int, int]
) -> None:
    machine.task_limits = [Limit(100_000, 90_000), Limit(5000, left), Limit(10_000, 9_999)]
    assert machine.stops() == stops


@pytest.mark.parametrize(
    ("size", "stops", "memory"),
    [
        (64 * GIB, (256, 1024), (512, 2048, 64, 256)),
        (4 * GIB, (36, 110), (512, 512, 64, 256)),
        (512 * MIB, (4, 14), (64, 64, 32, 32)),
        (64 * MIB, (1, 3), (8, 8, 4, 4)),
        (1, (1, 3), (1, 1, 1, 1)),
    ],
)
def test_each_takes_memory_of_the_machine_and_of_every_group(
    machine: Machine, size: int, stops: tuple[int, int], memory: tuple[int, int, int, int]
) -> None:
    machine.memory = size
    assert (machine.stops(), machine.memory_of_users()) == (stops, memory)
    machine.memory = 64 * GIB
    machine.memory_limits = [Limit(1 << 63, 0), Limit(size, 0), Limit(100 * GIB, 0)]
    assert (machine.stops(), machine.memory_of_users()) == (stops, memory)


def test_nobody_is_warned_of_tasks_that_memory_does_not_let_be(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    """A small virtual machine with the usual TasksMax= of systemd."""
    machine.memory = GIB
    machine.task_limits = [Limit(1147, 1100)]
    assert machine.stops() == (9, 27)
    assert not caplog.records
    machine.task_limits = [Limit(100, 90)]
    assert machine.stops() == (3, 11)
    (record,) = caplog.records
    assert "100 tasks" in record.getMessage()


@pytest.mark.parametrize(("left", "threads"), [(5000, 100), (1200, 100), (600, 50), (0, 2)])
def test_threads_that_wait_for_one_user_take_a_quarter_of_the_tasks(
    machine: Machine, left: int, threads: int
) -> None:
    assert threads_of_a_user() == 100
    machine.task_limits = [Limit(100_000, 90_000), Limit(5000, left)]
    assert threads_of_a_user() == threads


def test_what_is_asked_for_is_not_exceeded(machine: Machine) -> None:
    machine.memory = GIB
    few = Options(user_stops=3, max_stops=2, user_memory=1, max_memory=2)
    found = affordable(few)
    assert (found.user_stops, found.max_stops) == (3, 2)
    assert (found.user_memory, found.max_memory) == (1, 2)


def test_copies_do_not_fill_a_control_group(machine: Machine) -> None:
    before = affordable(Options()).copy_limit
    machine.memory_limits = [Limit(1 << 63, 0)]
    assert affordable(Options()).copy_limit == before
    machine.memory_limits = [Limit(256 * MIB, 0)]
    assert affordable(Options()).copy_limit == 32
