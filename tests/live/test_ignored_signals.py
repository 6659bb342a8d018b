"""A signal that the program ignores interrupts nobody, although it does not stay ignored.

The kernel does not discard a signal at a thread with a tracer (kernel/signal.c, sig_task_ignored).
If that thread stands still, the kernel wakes another one for the signal (complete_signal).
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from gcorefs.kernel.proc import task_stat
from gcorefs.process.admission import find
from gcorefs.steps import Step
from gcorefs.stopped import Stop
from gcorefs.tuning import Tuning
from tests.conftest import Target

Spawn = Callable[..., Target]
Tune = Callable[[Tuning], None]

THREADS = 16


@contextmanager
def held(pid: int) -> Iterator[None]:
    stop = Stop(find(pid))
    try:
        stop.take()
        yield
    finally:
        stop.close()


@pytest.fixture
def target(spawn: Spawn) -> Target:
    """Threads whose EINTR nobody may see; the last thread has children."""
    return spawn("forker", THREADS, 2 * THREADS)


def end_one(children: list[int]) -> None:
    """End one child.  On return its parent has its SIGCHLD."""
    if children:
        child = children.pop()
        os.kill(child, signal.SIGKILL)
        while not task_stat.stat(child).is_dead:
            pass


def test_the_end_of_a_child_interrupts_no_thread_that_was_let_go(
    target: Target, tune: Tune
) -> None:
    children = [*target.truth["children"]]

    def reach(step: Step, pid: int) -> None:
        if step is Step.DETACHED_ONE:
            end_one(children)

    tune(Tuning(reach=reach))
    with held(target.pid):
        pass
    assert len(children) == THREADS - 2  # one for each thread
    assert target.ask("interrupted") == {"interrupted": 0}


def test_the_end_of_a_child_interrupts_no_thread_that_was_just_born(
    target: Target, tune: Tune
) -> None:
    children = [*target.truth["children"]]
    made: list[object] = []

    def reach(step: Step, pid: int) -> None:
        if step is Step.SEIZED_ALL and not made:
            made.append(target.ask("thread"))
        if step is Step.RECORDED_ONE:
            end_one(children)

    tune(Tuning(reach=reach))
    with held(target.pid):
        pass
    assert made == [{"made": 1}]
    assert len(children) == THREADS - 3  # one for each thread
    assert target.ask("interrupted") == {"interrupted": 0}


def test_a_signal_to_the_process_interrupts_no_thread_that_was_let_go(
    target: Target, tune: Tune
) -> None:
    sent = []

    def reach(step: Step, pid: int) -> None:
        if step is Step.DETACHED_ONE:
            os.kill(pid, signal.SIGWINCH)
            sent.append(pid)

    tune(Tuning(reach=reach))
    with held(target.pid):
        pass
    assert len(sent) == THREADS + 2
    assert target.ask("interrupted") == {"interrupted": 0}
