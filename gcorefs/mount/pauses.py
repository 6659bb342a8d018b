"""Short stops before a stop, in which a holder looks at the process (hold=precopy).

Each is a stop of its own, with a worker and with all checks of a stop.  The process runs between
them, and a thread copies its memory ahead.
"""

from collections.abc import Callable
from functools import partial
from math import inf
from typing import TypeVar

import trio

from gcorefs import tuning
from gcorefs.hold.holder import Holder
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.mount.max_stop import within
from gcorefs.mount.options import MountPolicy
from gcorefs.mount.pools import Pools
from gcorefs.mount.remote_stop import RemoteStop
from gcorefs.policy import Policy
from gcorefs.process.access import Opener
from gcorefs.process.errors import ProcessError, Reason, told
from gcorefs.process.memory import Memory

T = TypeVar("T")


class Pauses:
    def __init__(self, process: Process, opener: Opener, policy: Policy, pools: Pools) -> None:
        self.seconds = 0.0
        """How long the process stood still in all of them."""
        self._process = process
        self._opener = opener
        self._policy = policy
        self._pools = pools

    async def make(
        self, holder: Holder, policy: MountPolicy, is_let_go: Callable[[], bool]
    ) -> None:
        """Make all pauses that the holder wants.  ProcessError: as a stop."""
        pid = self._process.pid
        pauses = holder.pauses(pid)
        while (call := await self._block(partial(next, pauses, None))) is not None:
            if is_let_go():
                raise ProcessError(Reason.LET_GO, pid)
            await self._make(call, policy)

    async def _block(self, call: Callable[[], T]) -> T:
        pid = self._process.pid
        with told(pid, Reason.DIED):
            return await self._pools.block(pid, self._opener.uid, call)

    async def _make(self, call: Callable[[Memory], None], policy: MountPolicy) -> None:
        stop = RemoteStop(self._process, self._opener, self._policy, self._pools, _nothing)
        try:
            await stop.begin(policy.max_stop)
            most = policy.max_stop or inf
            await within(lambda: most, stop, stop.let_go, partial(self._look, stop, call, policy))
        finally:
            stop.let_go()
            with trio.CancelScope(shield=True):
                await stop.untraced()
            self.seconds += stop.stopped_seconds

    async def _look(
        self, stop: RemoteStop, call: Callable[[Memory], None], policy: MountPolicy
    ) -> None:
        memory = None
        with trio.move_on_after(policy.stop_timeout + tuning.now().take_timeout):
            memory = await stop.memory()
        if memory is None:
            raise ProcessError(Reason.STUCK, self._process.pid, "it could not be recorded in time")
        await self._block(partial(call, memory))
        stop.check()  # what was seen is true only if the process has stood still all the time


def _nothing() -> None:
    pass
