"""Makes the cores of one stop.  Whatever never answers, nobody waits for it without end.

Everything here runs in the event loop; threads make the calls that block.
"""

from collections.abc import Callable
from functools import partial

import trio

from gcorefs import tuning
from gcorefs.core import Core
from gcorefs.lifecycle import Phase
from gcorefs.mount.cores import SharedCore
from gcorefs.mount.max_stop import within
from gcorefs.mount.pauses import Pauses
from gcorefs.mount.pools import Pools
from gcorefs.mount.remote_stop import RemoteStop
from gcorefs.process.errors import ProcessError, Reason, told


class Making:
    """For one stop.  Room for a copy of the memory comes before each core."""

    def __init__(self, stop: RemoteStop, pauses: Pauses, pools: Pools) -> None:
        self._stop = stop
        self._pauses = pauses
        self._pools = pools

    async def first(
        self, core: SharedCore, most: Callable[[], float], end: Callable[[], None]
    ) -> Core:
        """Stop the process and make its first core.  `end` is called if the process has stood still
        for `most()` seconds before that.

        ProcessError STUCK: /proc or a file that the core needs has not answered in time.
        """
        await self._prepare(core)
        await self._stop.begin(core.policy.max_stop)
        make = partial(self._make, core, core.policy.stop_timeout + tuning.now().take_timeout)
        if core.policy.stop in ("each", "none"):  # nobody stands still for long
            return await make()
        return await within(most, self._stop, end, make)

    async def further(self, core: SharedCore) -> Core:
        """Make one more core of a process that stands still.  ProcessError: as `first`."""
        await self._prepare(core)
        return await self._make(core, tuning.now().take_timeout)

    async def _prepare(self, core: SharedCore) -> None:
        """Make room for a copy of the memory.  This is slow, so it happens before the stop.  A disk
        may never answer."""
        pid = self._stop.process.pid
        if core.holder.is_copy:
            prepare = partial(core.holder.prepare, pid)
            with trio.move_on_after(tuning.now().take_timeout) as scope:
                with told(pid, Reason.DIED):
                    await self._pools.block(pid, core.opener.uid, prepare)
            if scope.cancelled_caught:
                core.holder.give_up("there was no room for it in time")
        life = self._stop.life
        if not life.has_been(Phase.HELD):
            await self._pauses.make(core.holder, core.policy, lambda: life.is_let_go)

    async def _make(self, core: SharedCore, seconds: float) -> Core:
        with trio.move_on_after(seconds):
            return await self._stop.core(core.policy, core.holder)
        raise ProcessError(Reason.STUCK, self._stop.process.pid, "it could not be recorded in time")
