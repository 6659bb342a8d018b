"""The short stops of a mount before a stop, without FUSE and without marks of the kernel."""

import contextlib
from collections.abc import Callable, Iterator

import pytest
import trio

from gcorefs.hold.copied import HoldCopy
from gcorefs.hold.copy import Copy
from gcorefs.hold.room import Room
from gcorefs.mount.crew import Crew
from gcorefs.mount.limits import Limits
from gcorefs.mount.options import MountPolicy, Options
from gcorefs.mount.pauses import Pauses
from gcorefs.mount.pools import Pools
from gcorefs.process.admission import find
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.memory import Memory
from gcorefs.worker.zygote import Zygote
from tests.conftest import Target
from tests.live.accounts import assert_free
from tests.live.test_shared_stops import OPENER
from tests.mounted.conftest import eventually, is_free, is_held

Call = Callable[[Memory], None]


class Pausing(HoldCopy):
    """A holder that wants one pause."""

    def __init__(self, call: Call) -> None:
        super().__init__(lambda: Copy(Room(1 << 30)))
        self._call = call

    def pauses(self, pid: int) -> Iterator[Call]:
        yield self._call


async def make(target: Target, policy: MountPolicy, call: Call) -> Pauses:
    with contextlib.closing(Zygote()) as zygote, trio.fail_after(60):
        crew = Crew(zygote)
        pools = Pools(Limits(Options()), crew)
        pauses = Pauses(find(target.pid), OPENER, policy.policy, pools)
        async with trio.open_nursery() as nursery:
            crew.start(nursery)
            try:
                await pauses.make(Pausing(call), policy, lambda: False)
            finally:
                nursery.cancel_scope.cancel()
    return pauses


async def test_the_process_stands_still_in_a_pause(spawn: Callable[..., Target]) -> None:
    target = spawn("threads", 2)
    held = []
    pauses = await make(target, MountPolicy(), lambda memory: held.append(is_held(target.pid)))
    assert (held, pauses.seconds > 0) == ([True], True)
    assert_free(target.pid)


async def test_what_is_seen_when_a_pause_is_over_counts_for_nothing(
    spawn: Callable[..., Target],
) -> None:
    """max_stop ends the pause while the holder still looks at the process."""
    target = spawn("threads", 2)
    with pytest.RaisesGroup(ProcessError) as caught:
        await make(
            target,
            MountPolicy(max_stop=0.2),
            lambda memory: eventually(lambda: is_free(target.pid)),
        )
    (error,) = caught.value.exceptions
    assert isinstance(error, ProcessError)
    assert error.reason is Reason.LET_GO
    assert_free(target.pid)
