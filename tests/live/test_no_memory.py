"""If a tracer is out of memory while it holds a process or lets it go, no thread stays stopped."""

from collections.abc import Callable

import pytest

from gcorefs.process.admission import find
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.steps import Step
from gcorefs.stopped import Stop
from gcorefs.tuning import Tuning
from tests.conftest import Target

Spawn = Callable[..., Target]
Tune = Callable[[Tuning], None]


def failing(where: Step, times: int) -> Callable[[Step, int], None]:
    """A `reach` that finds no memory at a step so many times, and later does nothing."""
    left = [None] * times

    def reach(step: Step, pid: int) -> None:
        if step is where and left:
            left.pop()
            raise MemoryError

    return reach


def assert_free(target: Target) -> None:
    states = target.states().values()
    assert {tracer for _, tracer in states} == {0}
    assert not {state for state, _ in states} & set("tT")


def test_a_hold_that_fails_is_no_hold(spawn: Spawn, tune: Tune) -> None:
    """It fails when the tracer is about to sleep, because that is all it does meanwhile."""
    target = spawn("threads", 2)
    tune(Tuning(reach=failing(Step.HOLDING, 1)))
    ended: list[bool] = []
    stop = Stop(find(target.pid), on_end=lambda: ended.append(True))
    try:
        stop.take()
        stop.wait_untraced()
        assert ended == [True]
        # A read from now on would be of a process that runs.
        with pytest.raises(ProcessError) as caught:
            stop.check()
        assert caught.value.reason is Reason.LET_GO
        assert_free(target)
    finally:
        stop.close()


@pytest.mark.parametrize("times", [1, 3, 1000])
def test_threads_are_let_go_without_memory(spawn: Spawn, tune: Tune, times: int) -> None:
    target = spawn("threads", 2)
    tune(Tuning(reach=failing(Step.BEFORE_DETACH, times)))
    stop = Stop(find(target.pid))
    stop.take()
    stop.close()
    assert_free(target)
