"""Every stop of the mount: who begins it, who joins it, when it is forgotten."""

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from functools import partial

import pyfuse3
import trio
from pyfuse3 import FlagT, FUSEError

from gcorefs.kernel.proc.task_stat import Process
from gcorefs.mount.cores import Handle, SharedCore
from gcorefs.mount.door import Door, asked, first_door, joiners_door
from gcorefs.mount.inodes import Inode
from gcorefs.mount.limits import Limits
from gcorefs.mount.log import logger
from gcorefs.mount.options import MountPolicy, Options
from gcorefs.mount.pools import Pools
from gcorefs.mount.rings import closes_ring
from gcorefs.mount.stops import SharedStop
from gcorefs.process.access import Opener
from gcorefs.process.errors import ProcessError, Reason

_BEING_LET_GO = "it is still being let go"
_SETTLE_TIMEOUT = 10.0

_LOOK_UP_PATIENCE = 0.1
"""Seconds that a look-up waits for a core.  rename(2) locks two directories, one of which may be
the root of the mount, before it looks names up and asks for permission (fs/namei.c, do_renameat2).
All who look up a new name there wait meanwhile.  stat(2) asks for the attributes later, without a
lock."""

_MOST_TRIES = 100


class Held:
    """The stops of one mount, from their first open to the last release of their files."""

    def __init__(self, options: Options, limits: Limits, pools: Pools) -> None:
        self._options = options
        self._limits = limits
        self._pools = pools
        self._to_open = partial(first_door, pools.crew), joiners_door
        self._to_ask = asked(self._to_open[0]), asked(joiners_door)
        self._nursery: trio.Nursery | None = None
        self._stops: dict[SharedStop, None] = {}
        self._cores: dict[SharedCore, tuple[SharedStop, Inode]] = {}
        self._is_closing = False

    def start(self, nursery: trio.Nursery) -> None:
        """Run the stops in `nursery`."""
        self._nursery = nursery
        self._pools.crew.start(nursery)

    def all(self) -> Sequence[SharedStop]:
        """The stops that are under way, and those that are over but still have an open file."""
        return tuple(self._stops)

    def cores(self) -> Sequence[SharedCore]:
        """The cores of all these stops.  Other threads may call this too."""
        return tuple(self._cores)

    async def let_all_go(self) -> None:
        """Begin no more stops, and end all stops."""
        self._is_closing = True
        stops = self.all()
        for stop in stops:
            stop.let_go("the mount ends")
        for stop in stops:
            await stop.ending.finished()

    async def open(self, inode: Inode, flags: FlagT, ctx: pyfuse3.RequestContext) -> Handle:
        """A handle of the core of `inode`.  The core is begun if there is none."""
        core, opener = await self._enter(inode, ctx, self._to_open)
        return core.join(opener, bool(flags & os.O_NONBLOCK))

    async def request(self, inode: Inode, ctx: pyfuse3.RequestContext) -> None:
        """Begin the core of `inode`, if there is none, and wait a moment until its size is known.

        The process is held until somebody opens the file, within open_timeout.  Raises all errors
        of open(2), and those of the first read(2) if they come so soon.
        """
        for _ in range(_MOST_TRIES):  # again if others closed their last handle meanwhile
            core, opener = await self._enter(inode, ctx, self._to_ask)
            core.await_open(opener, self._options.open_timeout)
            is_past = False
            with trio.move_on_after(_LOOK_UP_PATIENCE):
                is_past = not await core.is_taken()
            if not is_past:
                # The time counts from now, because the wait may have been long.
                core.await_open(opener, self._options.open_timeout)
                return
        raise FUSEError(errno.ESTALE)

    async def await_requested(self, inode: Inode, ctx: pyfuse3.RequestContext) -> None:
        """If the caller's user has requested the core of `inode`, wait until its size is known.

        Raises the errors of the first read(2); ESTALE: request it again.
        """
        core = inode.core
        if core is None or core.is_ready or not core.holders.were_asked_by(ctx.uid):
            return
        with self._limits.requests.lent(ctx.uid, inode.process.pid):
            if not await core.is_taken():
                raise FUSEError(errno.ESTALE)

    def leave(self, handle: Handle) -> None:
        handle.core.leave(handle, self._options.open_timeout)
        if handle.core in self._cores:
            stop, _ = self._cores[handle.core]
            self._drop(stop)

    async def _enter(
        self, inode: Inode, ctx: pyfuse3.RequestContext, doors: tuple[Door, Door]
    ) -> tuple[SharedCore, Opener]:
        """The core of `inode` and its new opener.  The core stays alive until the next await."""
        for _ in range(_MOST_TRIES):  # again if a stop ended while the door was asked
            found = await self._try(inode, ctx, doors)
            if found is not None:
                return found
        raise FUSEError(errno.ESTALE)

    async def _try(
        self, inode: Inode, ctx: pyfuse3.RequestContext, doors: tuple[Door, Door]
    ) -> tuple[SharedCore, Opener] | None:
        await self._settle(inode)
        process, core = inode.process, inode.core
        was_ready = core is not None and core.is_ready
        is_first = core is None and not inode.is_outsiders and inode.policy.stop == "all"
        door = doors[0 if is_first else 1]
        question = partial(door, process, ctx.pid, ctx.uid, ctx.gid)
        opener = await self._pools.questions.ask(process.pid, ctx.uid, question)
        if inode.is_outsiders:  # the opener may see it by now: the kernel looks the name up again
            await self._part_with_copies(process, opener)
            raise FUSEError(errno.ESTALE)
        if core is not None and not await core.is_joinable(opener):
            if not core.is_open:  # nobody has bytes of it: the inode may get other bytes
                core.keeper.let_go()
            return None
        # No await from here to the join: a stop that is alive now is still alive at the join.
        if inode.policy.is_held_open and self._closes_ring(opener, process):
            raise ProcessError(Reason.RING, process.pid)
        if self._is_closing:
            raise FUSEError(errno.ENODEV)
        if inode.core is not core and inode.core is not None:
            return None  # somebody else has begun a stop meanwhile: ask again, to join it
        if core is None or inode.core is None:
            stop = self._under_way(inode)
            if stop is not None and not stop.serves(inode.policy.stop):
                return None  # again, when no thread is traced any more
            if stop is not None and not self._is_free(stop, inode.policy):
                raise FUSEError(errno.ESTALE)  # it has another inode now: look the name up again
            core = self._begin(stop or self._begin_stop(inode, opener), inode, opener)
        elif core.is_ready and not was_ready:
            return None  # judged while threads could still run; the stop does not judge again
        return None if core.is_over else (core, opener)

    def _closes_ring(self, opener: Opener, process: Process) -> bool:
        held = [
            core
            for core, (_, inode) in self._cores.items()
            if inode.policy.is_held_open and not core.is_over
        ]
        if all(core.process.pid != opener.pid for core in held):  # as nearly always
            return False
        readers = [
            (core.process.pid, [each.pid for each in core.holders.of(None)]) for core in held
        ]
        return closes_ring(opener.pid, process.pid, readers)

    async def _part_with_copies(self, process: Process, opener: Opener) -> None:
        """If `opener` may not see a copy, only those who have the copy open keep its inode."""
        for core in [each for each in self._cores if each.process == process]:
            await core.is_joinable(opener)

    async def _settle(self, inode: Inode) -> None:
        """Wait for the end of a stop that is being let go, or of one that the policy cannot join: a
        new stop must not meet its tracer."""
        process = inode.process
        stop = self._under_way(inode)
        is_joining = inode.core is not None and not inode.core.is_over
        is_joinable = stop is not None and stop.serves(inode.policy.stop)
        if stop is not None and (stop.is_over or not (is_joinable or is_joining)):
            with trio.move_on_after(_SETTLE_TIMEOUT):
                await stop.ending.untraced()
            if stop.ending.is_tracing:
                why = f"it is held with stop={stop.whom}" if stop.takes_cores else _BEING_LET_GO
                raise ProcessError(Reason.HELD, process.pid, why)
        if inode.is_retired:
            raise FUSEError(errno.ESTALE)  # the kernel looks the name up again
        if inode.core is not None and inode.core.is_over:
            inode.core = None

    def _under_way(self, inode: Inode) -> SharedStop | None:
        """The stop of a process that still holds threads or lets them go: one that traces them, or,
        for a policy that does not, a look.  There is at most one of each."""
        process, is_look = inode.process, inode.policy.stop == "none"
        found = [
            each
            for each in self._stops
            if each.process == process and each.is_look == is_look and each.ending.is_tracing
        ]
        # One that is to reap a child waits for the one that holds the process.
        return min(found, key=lambda each: each.ending.is_reaping, default=None)

    def _begin_stop(self, inode: Inode, opener: Opener) -> SharedStop:
        process = inode.process
        self._limits.stops.take(opener.uid, process.pid)
        stop = SharedStop(process, opener, inode.policy, self._options, self._pools, self._limits)
        self._stops[stop] = None
        assert self._nursery is not None
        self._nursery.start_soon(self._run, stop)  # runs after this task has begun its first core
        return stop

    def _is_free(self, stop: SharedStop, policy: MountPolicy) -> bool:
        """True if the stop has no core with this policy.  A core that has failed, and that nobody
        has open any more, makes room for another try."""
        core = stop.cores.get(policy)
        if core is not None and core.has_failed and not core.is_wanted:
            self._forget(stop.cores.pop(policy))
        return policy not in stop.cores

    def _begin(self, stop: SharedStop, inode: Inode, opener: Opener) -> SharedCore:
        core = inode.core = stop.core(inode.policy, opener)
        self._cores[core] = stop, inode
        return core

    async def _run(self, stop: SharedStop) -> None:
        try:
            with _surprises_logged(stop):
                await stop.run()
            with _surprises_logged(stop):
                await stop.ending.end_child(partial(self._others_untraced, stop))
        finally:
            self._drop(stop)

    async def _others_untraced(self, stop: SharedStop) -> None:
        """Wait until no other stop holds the process, or is to reap a child before this one."""
        while found := [
            each
            for each in self._stops
            if each.process == stop.process
            and each.ending.precedes(stop.ending)
            and not each.is_look
        ]:
            await found[0].ending.preceded()

    def _drop(self, stop: SharedStop) -> None:
        """Forget a stop that is over if nobody can read a header of it any more.

        The kernel may remember the inodes as long as it has free memory.
        """
        is_over = stop.ending.is_finished and not stop.ending.is_tracing
        if not is_over or stop.is_open or stop not in self._stops:
            return
        del self._stops[stop]
        for core in stop.cores.values():
            self._forget(core)
        stop.forget()
        self._limits.stops.give_back(stop.opener.uid)

    def _forget(self, core: SharedCore) -> None:
        _, inode = self._cores.pop(core)
        if inode.core is core:
            inode.core = None
        self._limits.memory.give_back(core.opener.uid, core.memory)


@contextlib.contextmanager
def _surprises_logged(stop: SharedStop) -> Iterator[None]:
    """A surprise in one stop must not end the mount."""
    try:
        yield
    except Exception:
        logger.exception("process %d: the stop ended", stop.process.pid)
