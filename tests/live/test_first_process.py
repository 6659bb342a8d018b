"""The first process of a pid namespace: no signal from inside stops it, held or not."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest

from gcorefs.kernel.proc import task_stat, tasks
from gcorefs.sources.first_process import is_first
from gcorefs.steps import Step
from gcorefs.tuning import Tuning
from tests.live.accounts import await_free, held
from tests.mounted.conftest import eventually

Tune = Callable[[Tuning], None]

FIRST = ["unshare", "--pid", "--fork", "--kill-child", "sleep", "1000"]


@pytest.fixture
def first() -> Iterator[int]:
    """Its pid, as we number it."""
    with subprocess.Popen(FIRST) as starter:
        try:
            eventually(lambda: bool(tasks.children(starter.pid)))
            (pid,) = tasks.children(starter.pid)
            eventually(lambda: task_stat.stat(pid).comm == b"sleep")
            eventually(lambda: task_stat.stat(pid).state == "S")
            yield pid
        finally:
            starter.kill()


def stop_from_inside(first: int) -> None:
    command = ["nsenter", "--target", str(first), "--pid", "kill", "-STOP", "1"]
    subprocess.run(command, check=True, timeout=60)


def test_only_the_first_is_that(first: int) -> None:
    assert is_first(first)
    assert not is_first(os.getpid())


def test_no_stop_from_inside_is_left_over(first: int) -> None:
    with held(first):
        stop_from_inside(first)
    await_free(first)
    eventually(lambda: task_stat.stat(first).state == "S")


def test_one_that_comes_while_it_is_being_stopped_is_not_passed_on(first: int, tune: Tune) -> None:
    sent: list[int] = []

    def send(step: Step, pid: int) -> None:
        if step is Step.SEIZED_ALL and not sent:
            sent.append(pid)
            stop_from_inside(first)

    tune(Tuning(reach=send))
    with held(first):
        pass
    await_free(first)
    assert sent == [first]
    eventually(lambda: task_stat.stat(first).state == "S")


def test_one_from_outside_stops_it_as_ever(first: int) -> None:
    with held(first):
        os.kill(first, signal.SIGSTOP)
    eventually(lambda: task_stat.stat(first).state == "T")
    os.kill(first, signal.SIGCONT)
    eventually(lambda: task_stat.stat(first).state == "S")


def test_one_that_was_stopped_before_stays_so(first: int) -> None:
    os.kill(first, signal.SIGSTOP)
    eventually(lambda: task_stat.stat(first).state == "T")
    with held(first):
        stop_from_inside(first)
    eventually(lambda: task_stat.stat(first).state == "T")
    os.kill(first, signal.SIGCONT)
    eventually(lambda: task_stat.stat(first).state == "S")
