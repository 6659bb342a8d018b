"""One stop of one process, without a mount."""

from collections.abc import Callable

from gcorefs.snapshot import Snapshot, find
from tests.conftest import Target


def test_every_thread_is_recorded_and_let_go(spawn: Callable[..., Target]) -> None:
    target = spawn("threads", 20)
    before = set(target.states())
    snapshot = Snapshot(find(target.pid))
    try:
        snapshot.take()
        assert snapshot.threads == 21
        assert {state for state, _ in target.states().values()} == {"t"}
    finally:
        snapshot.close()
    assert set(target.states()) == before
    assert {tracer for _, tracer in target.states().values()} == {0}
    assert target.ask("ping") == {"pong": 1}
