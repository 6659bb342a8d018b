"""If a tracer is out of memory while it holds a process or lets it go, no thread stays stopped."""

from collections.abc import Callable
from typing import Any

import pytest

from gcorefs.kernel import wait4
from gcorefs.process.admission import find
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.sources.tracees import Tracees
from gcorefs.stopped import Stop
from tests.conftest import Target

Spawn = Callable[..., Target]


def fail(owner: Any, name: str, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let so many calls fail for lack of memory; later calls work as before."""
    call, left = getattr(owner, name), [None] * times

    def failing(*arguments: Any) -> Any:
        if left:
            left.pop()
            raise MemoryError
        return call(*arguments)

    monkeypatch.setattr(owner, name, failing)


def assert_free(target: Target) -> None:
    states = target.states().values()
    assert {tracer for _, tracer in states} == {0}
    assert not {state for state, _ in states} & set("tT")


def test_a_hold_that_fails_is_no_hold(spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    target = spawn("threads", 2)
    fail(wait4, "await_status", 1, monkeypatch)
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
def test_threads_are_let_go_without_memory(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    target = spawn("threads", 2)
    stop = Stop(find(target.pid))
    stop.take()
    fail(Tracees, "detach_stopped", times, monkeypatch)
    stop.close()
    assert_free(target)
