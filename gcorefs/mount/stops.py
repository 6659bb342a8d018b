"""One stop of one process, from the first open of a core of it to the last release.

A stop may have several cores, one for each policy (cores.py).  It lasts as long as one of them is
wanted.  Everything here runs in the event loop; what blocks runs in threads.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from math import inf
from typing import Any

import trio

from gcorefs import tuning
from gcorefs.core import Core
from gcorefs.errors import Refusal
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.lifecycle import Phase
from gcorefs.mount.cores import SharedCore
from gcorefs.mount.in_thread import in_thread
from gcorefs.mount.limits import Limits
from gcorefs.mount.log import logger
from gcorefs.mount.options import Options
from gcorefs.mount.pools import Pools
from gcorefs.mount.remote_stop import RemoteStop
from gcorefs.policy import Policy
from gcorefs.process.access import Opener
from gcorefs.process.errors import ProcessError, Reason, told
from gcorefs.stopped import CLOSE_TIMEOUT

_NO_THREAD_NAP = 0.05


class SharedStop:
    def __init__(
        self,
        process: Process,
        opener: Opener,
        options: Options,
        pools: Pools,
        limits: Limits,
    ) -> None:
        self.process = process
        self.opener = opener
        """Who began it, on whose account it is."""
        self.began = time.time_ns()
        self.why_over = ""
        self.cores: dict[Policy, SharedCore] = {}
        self._options = options
        self._pools = pools
        self._limits = limits
        self._stop = RemoteStop(process, opener, options.policy, pools, self._end)
        self._nursery: trio.Nursery | None = None  # of what its cores do while it is held
        self._held_until = inf
        self._holding: trio.CancelScope | None = None
        self._released = trio.Event()
        # Later than that of RemoteStop: the place of this stop is given back by then.
        self._untraced = trio.Event()
        self._finished = trio.Event()
        self._last_read = trio.current_time()

    # What it is.

    @property
    def is_over(self) -> bool:
        """True where nobody may join any more: dead or let go."""
        return self._released.is_set() or self._stop.is_dead

    @property
    def is_let_go(self) -> bool:
        return self._released.is_set()

    @property
    def is_all_filled(self) -> bool:
        """True where the memory of all its cores is copied."""
        made = [core for core in self.cores.values() if core.size is not None]
        return bool(made) and all(core.holder.was_filled for core in made)

    @property
    def is_open(self) -> bool:
        return any(core.is_open for core in self.cores.values())

    @property
    def is_overdue(self) -> bool:
        """True where max_stop was over some time ago, and it was not let go."""
        deadline = self._held_until + tuning.now().overdue
        return not self._released.is_set() and trio.current_time() > deadline

    @property
    def is_tracing(self) -> bool:
        """True until the last thread of the process is let go: a copy is read for longer."""
        return not self._untraced.is_set()

    @property
    def is_finished(self) -> bool:
        return self._finished.is_set()

    async def untraced(self) -> None:
        """Until nobody is traced any more on account of this stop, which is over or a copy."""
        await self._untraced.wait()

    async def finished(self) -> None:
        """Until nobody is traced any more on account of this stop, or for CLOSE_TIMEOUT after its
        end."""
        await self._finished.wait()

    # Its cores.

    def core(self, policy: Policy, opener: Opener) -> SharedCore:
        """The core with that policy, which is begun where there is none."""
        core = self.cores.get(policy)
        if core is None:
            core = SharedCore(self, self._stop, opener, policy, self._limits, self._pools)
            self.cores[policy] = core
            if self._nursery is not None:  # else it is made when the process stands
                self._nursery.start_soon(self._make, core)
        return core

    def touch(self) -> None:
        self._last_read = trio.current_time()

    def hurry(self) -> None:
        if self._holding is not None:
            self._holding.deadline = min(self._holding.deadline, self._open_by)

    def leave(self) -> None:
        if not any(core.is_wanted for core in self.cores.values()):
            self.let_go()

    @property
    def _open_by(self) -> float:
        wanted = (core for core in self.cores.values() if core.is_wanted)
        return max((core.open_by for core in wanted), default=inf)

    # Its life: `run` is its task.

    async def run(self) -> None:
        """Stop the process, hold it until it is released, let go."""
        try:
            first, *others = self.cores.values()
            made = None
            with self._refusals_told(self._fail):
                made = await self._take(first)
            if made is not None:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    for core in others:
                        nursery.start_soon(self._make, core)
                    if await self._settle(first, made):
                        nursery.start_soon(self._copy, first)
                    del made
                    await self._hold()
                    nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            self.let_go()
            for core in self.cores.values():
                if not core.is_ready:  # it was still to be made
                    core.fail(self._why_let_go())
            await self._come_to_an_end()

    async def _take(self, first: SharedCore) -> Core:
        """Stop the process and make its first core, or give it up: what that needs of /proc or of
        a file may never come."""
        await self._prepare(first)
        self._stop.begin(self._options.max_stop)
        return await self._made(first, self._options.stop_timeout + tuning.now().take_timeout)

    async def _prepare(self, core: SharedCore) -> None:
        """Slow work before the stop: a copy makes room for the memory."""
        if core.holder.is_copy:
            with told(self.process.pid, Reason.DIED):
                prepare = partial(core.holder.prepare, self.process.pid)
                await self._pools.block(self.process.pid, core.opener.uid, prepare)

    async def _made(self, core: SharedCore, seconds: float) -> Core:
        with trio.move_on_after(seconds):
            return await self._stop.core(core.policy, core.holder)
        raise ProcessError(Reason.STUCK, self.process.pid, "it could not be recorded in time")

    async def _make(self, core: SharedCore) -> None:
        """One more core of a process that stands."""
        made = None
        with self._refusals_told(partial(self._fail_one, core)):
            await self._prepare(core)
            made = await self._made(core, tuning.now().take_timeout)
        if made is not None and await self._settle(core, made):
            await self._copy(core)

    async def _settle(self, core: SharedCore, made: Core) -> bool:
        """A core is made: have its readers judged and told.  False: it is not for them."""
        with self._refusals_told(partial(self._fail_one, core)):
            await core.settle(made)
        if core.has_failed:
            return False
        self.touch()
        if core.holders.are_about_to_open:
            core.open_by = trio.current_time() + self._options.open_timeout
            self.hurry()
        return True

    async def _copy(self, core: SharedCore) -> None:
        await core.copy()
        if self._stop.life.has_been(Phase.COPIED):
            self._untraced.set()

    @contextlib.contextmanager
    def _refusals_told(self, fail: Callable[[Refusal], None]) -> Iterator[None]:
        """A refusal ends the block and goes to `fail`.  A surprise is one more: it is the readers'
        EIO, not the mount's end."""
        try:
            yield
        except Refusal as error:
            is_let_go = self._released.is_set() and error.reason is Reason.LET_GO
            fail(self._why_let_go() if is_let_go else error.bare())
        except Exception:
            logger.exception("process %d: cannot be dumped", self.process.pid)
            fail(ProcessError(Reason.SURPRISE, self.process.pid))

    def _why_let_go(self) -> ProcessError:
        return ProcessError(Reason.LET_GO, self.process.pid, self.why_over)

    def _fail(self, error: Refusal) -> None:
        for core in self.cores.values():
            core.fail(error)
        self._stop.forget()
        if not self._released.is_set():  # else nobody waits for it any more
            logger.warning("%s", error)

    def _fail_one(self, core: SharedCore, error: Refusal) -> None:
        is_awaited = not self._released.is_set()
        core.fail(error)
        if is_awaited:
            logger.warning("%s", error)
        if all(each.has_failed for each in self.cores.values()):
            self.let_go()

    async def _come_to_an_end(self) -> None:
        """Finish after a bounded time: a tracer that sleeps in the kernel holds up nobody else.

        Then wait for that tracer, until the mount ends.  Its worker stays on the account of the
        opener meanwhile, and no other stop of the process begins.
        """
        try:
            with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await self._close()
            self._finished.set()
            self._log_end()
            if not self._stop.is_untraced:
                await self._close()
        finally:
            self._untraced.set()

    async def _close(self) -> None:
        """Wait until nobody is traced, and free what held the memory.  A thread for that is waited
        for as well."""
        await self._stop.untraced()
        with self._pools.closes.of(self.opener.uid) as limiter:
            while True:
                try:
                    await in_thread(self.process.pid, limiter, self._free)
                except ProcessError:
                    await trio.sleep(_NO_THREAD_NAP)
                else:
                    return

    def _free(self) -> None:
        """In a thread: to free much memory takes long."""
        for core in self.cores.values():
            core.close()
            core.holder.close()
        self._stop.close_memory()

    async def _hold(self) -> None:
        """Until it is released, nobody has read for idle_timeout or opened for open_timeout, or
        max_stop is over."""
        idle = self._options.idle_timeout or inf
        end = trio.current_time() - self._stop.stopped_seconds + (self._options.max_stop or inf)
        self._held_until = end
        self.touch()
        while True:
            with trio.move_on_at(min(self._last_read + idle, end, self._open_by)) as self._holding:
                await self._released.wait()
                return
            now = trio.current_time()
            if now >= self._open_by:
                why = f"its file was not opened for {self._options.open_timeout:g} s"
            elif now >= end:
                why = f"it was stopped for {self._options.max_stop:g} s"
            elif any(core.reads_under_way for core in self.cores.values()):
                self.touch()  # a read that is not answered is a read
                continue
            elif now >= self._last_read + idle:
                why = f"its file was not read for {idle:g} s"
            else:
                continue
            self.let_go(why)
            logger.warning("process %d: let go, %s", self.process.pid, why)
            return

    def let_go(self, why: str = "") -> None:
        """Let the process run on.  Handles keep what was made of the header; memory is EIO."""
        self.why_over = self.why_over or why
        self._stop.let_go()
        self._released.set()
        for core in self.cores.values():
            core.holder.drop()
            core.notify_pollers()

    def forget(self) -> None:
        """Nobody can read a header of it any more."""
        self._stop.forget()
        for core in self.cores.values():
            core.forget()

    def _end(self) -> None:
        """The process died, or is held no longer for another reason: no further open joins."""
        if self.is_all_filled:  # then it does not matter any more
            self._stop.run_on()
        else:
            self.let_go("a thread of it could not be recorded")

    # What is told of it.

    def _log_end(self) -> None:
        for core in self.cores.values():
            core.log_end()
        if late := self._stop.late:
            logger.info(
                "process %d: let go but for thread %s, which is waited for until it has stopped",
                self.process.pid,
                ", ".join(map(str, late)),
            )

    def report(self) -> dict[str, Any]:
        """What `gcorefs status` tells of all its cores."""
        began = datetime.fromtimestamp(self.began / 1e9, UTC)
        return {"began": began.isoformat(timespec="seconds")}
