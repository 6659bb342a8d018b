"""One stop of one process, from the first open of a core of it to the last release.

A stop may have several cores, one for each policy (cores.py).  It lasts as long as somebody wants
one of them.  Everything here runs in the event loop; threads make the calls that block.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import trio

from gcorefs.core import Core
from gcorefs.errors import Refusal
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.lifecycle import Phase
from gcorefs.mount import core_report
from gcorefs.mount.cores import SharedCore
from gcorefs.mount.ending import Ending
from gcorefs.mount.errors import RequestError, RequestReason
from gcorefs.mount.fields import of_refusal
from gcorefs.mount.hold_time import HoldTime
from gcorefs.mount.limits import Limits
from gcorefs.mount.log import logger
from gcorefs.mount.making import Making
from gcorefs.mount.options import MountPolicy, Options
from gcorefs.mount.pauses import Pauses
from gcorefs.mount.policy_names import difference
from gcorefs.mount.pools import Pools
from gcorefs.mount.remote_stop import RemoteStop
from gcorefs.policy import StopWhom
from gcorefs.process.access import Opener
from gcorefs.process.errors import ProcessError, Reason

_MOST_CORES = 64
"""Cores of one stop."""

_OF_ROOT = 16
"""In addition: no user keeps root from a core of a process."""


class SharedStop:
    def __init__(
        self,
        process: Process,
        opener: Opener,
        policy: MountPolicy,
        options: Options,
        pools: Pools,
        limits: Limits,
    ) -> None:
        """`policy`: that of the first core.  It says how long threads may take to stop."""
        self.process = process
        self.whom: StopWhom = policy.stop
        self.opener = opener
        """The opener that began the stop.  The stop counts for this user."""
        self.began = time.time_ns()
        self.why_over = ""
        """Why the process was let go; empty if the last reader closed the file."""
        self.cores: dict[MountPolicy, SharedCore] = {}
        self._options = options
        self._pools = pools
        self._limits = limits
        # Each core says for itself whether it accepts threads that do not stop.
        taken = replace(policy.policy, unresponsive="partial")
        self._stop = RemoteStop(process, opener, taken, pools, self._on_end)
        self._pauses = Pauses(process, opener, taken, pools)
        self._making = Making(self._stop, self._pauses, pools)
        self._nursery: trio.Nursery | None = None  # makes and copies cores during the hold
        self._time = HoldTime(self.cores.values(), options.open_timeout)
        self._released = trio.Event()
        self.ending = Ending(self._stop, self.began, opener.uid, pools)
        """What other stops of the process wait for."""

    # The state of the stop.

    @property
    def is_over(self) -> bool:
        """True if nobody may join any more: the process died or was let go."""
        return self._released.is_set() or self._stop.is_dead

    @property
    def is_let_go(self) -> bool:
        return self._released.is_set()

    @property
    def is_all_filled(self) -> bool:
        """True if the memory of every finished core is copied."""
        made = [core for core in self.cores.values() if core.size is not None]
        return bool(made) and all(core.holder.was_filled for core in made)

    @property
    def may_run_on(self) -> bool:
        """True if no core needs the process to stand still: none that is made, and none that
        somebody waits for."""
        is_making = any(core.is_wanted and not core.is_ready for core in self.cores.values())
        return self.is_all_filled and not is_making

    @property
    def is_open(self) -> bool:
        return any(core.is_open for core in self.cores.values())

    @property
    def is_overdue(self) -> bool:
        """True if max_stop ended some time ago, and the process has not been let go."""
        return not self._released.is_set() and self._time.is_overdue

    # Its cores.

    @property
    def takes_cores(self) -> bool:
        """False if no core can be begun any more."""
        return not self.is_over and not self._stop.life.has_been(Phase.COPIED)

    def serves(self, whom: StopWhom) -> bool:
        """True if a core by a policy that stops these threads can be begun.  If all threads stand
        still, nothing is left to do for any policy."""
        return self.takes_cores and self.whom in ("all", whom)

    @property
    def paused_seconds(self) -> float:
        """How long the process stood still in pauses before the stop."""
        return self._pauses.seconds

    @property
    def is_look(self) -> bool:
        """True if no thread is traced, so that other stops may go on beside it."""
        return self.whom == "none"

    def core(self, policy: MountPolicy, opener: Opener) -> SharedCore:
        """The core with this policy.  If there is none, `opener` begins one.

        RequestError: there are too many.  A core takes memory of the worker until the stop ends.
        """
        core = self.cores.get(policy)
        if core is None:
            if len(self.cores) >= _MOST_CORES + _OF_ROOT * (opener.uid == 0):
                raise RequestError(RequestReason.CORES, self.process.pid, f"uid {opener.uid}")
            core = SharedCore(self, self._stop, opener, policy, self._limits, self._pools)
            self.cores[policy] = core
            if self._nursery is not None:  # else `run` makes it when the process stands still
                self._nursery.start_soon(self._add, core)
        return core

    def touch(self) -> None:
        self._time.touch()

    def hurry(self) -> None:
        self._time.hurry()

    def leave(self) -> None:
        if self._time.wanted:
            self._hold_for_nobody()
            self.hurry()
        else:
            self.let_go()

    def _hold_for_nobody(self) -> None:
        """Let the process run on if all that is still wanted of it is copied.  A core that nobody
        has open any more needs a new stop then."""
        rest = [core for core in self.cores.values() if not core.has_failed]
        if self._nursery is None or not self.takes_cores or not all(core.is_ready for core in rest):
            return
        if all(core.holder.was_filled for core in self._time.wanted):
            for core in rest:
                if not core.holder.was_filled:
                    core_report.log_end(core)
                    core.fail(self._why_let_go())
            self.run_on()
            self._nursery.start_soon(self._have_run_on)

    def run_on(self) -> None:
        """Let the process run on.  Copied memory stays readable.

        A core that is not made yet never will be.  Nobody has it open, and whoever opens it from
        now on gets one of another stop.
        """
        self._stop.run_on()
        for core in self.cores.values():
            if not core.is_ready:
                core.fail(self._why_let_go())

    async def _have_run_on(self) -> None:
        await self._stop.untraced()
        self.ending.tell_untraced()

    # The life of the stop: one task calls `run`.

    async def run(self) -> None:
        """Stop the process, hold it until its release, and let it go."""
        try:
            first = next(iter(self.cores.values()))
            made = None
            with self._refusals_told(partial(self._fail_first, first)):
                made = await self._making.first(first, self._time.max_stop, self._end_max_stop)
            if made is not None or (self._has_stopped and not self._have_all_failed):
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    for core in self.cores.values():  # some were begun during the stop
                        if core is not first:
                            nursery.start_soon(self._add, core)
                    if made is not None and await self._settle(first, made):
                        nursery.start_soon(self._copy, first)
                    del made
                    await self._hold()
                    nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            self.let_go()
            for core in self.cores.values():
                if not core.is_ready:  # nobody makes it any more
                    core.fail(self._why_let_go())
            await self.ending.finish(self.cores.values())

    def _end_max_stop(self) -> None:
        self._let_go_late(f"it was stopped for {self._time.max_stop():g} s")

    def _let_go_late(self, why: str) -> None:
        self.let_go(why)
        logger.warning("process %d: let go, %s", self.process.pid, why)

    async def _add(self, core: SharedCore) -> None:
        """Make one more core of a process that stands still."""
        made = None
        with self._refusals_told(partial(self._fail_one, core)):
            made = await self._making.further(core)
        if made is not None and await self._settle(core, made):
            await self._copy(core)
        elif self.may_run_on:  # the others have waited for this one
            self.run_on()
            await self._have_run_on()

    async def _settle(self, core: SharedCore, made: Core) -> bool:
        """Judge the readers of a core that is made, and wake them.  False: they may not see it."""
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
            self.ending.tell_untraced()

    @contextlib.contextmanager
    def _refusals_told(self, fail: Callable[[Refusal], None]) -> Iterator[None]:
        """If the block raises a refusal, pass it to `fail`.  Any other exception becomes EIO for
        the readers, because it must not end the mount."""
        try:
            yield
        except Refusal as error:
            is_let_go = self._released.is_set() and error.reason is Reason.LET_GO
            # Bare in any case, or it is part of a cycle (errors.told).
            refusal = error.bare()
            fail(self._why_let_go() if is_let_go else refusal)
        except Exception as error:
            logger.exception("process %d: cannot be dumped", self.process.pid)
            error.with_traceback(None)
            fail(ProcessError(Reason.SURPRISE, self.process.pid))

    def _why_let_go(self) -> ProcessError:
        return ProcessError(Reason.LET_GO, self.process.pid, self.why_over)

    @property
    def _has_stopped(self) -> bool:
        return self._stop.life.has_been(Phase.HELD)

    def _fail_first(self, first: SharedCore, error: Refusal) -> None:
        """`first` cannot be made.  Others may be, if the process stands still."""
        if self._has_stopped and len(self.cores) > 1:
            self._fail_one(first, error)
        else:
            self._fail(error)

    @property
    def _have_all_failed(self) -> bool:
        return all(core.has_failed for core in self.cores.values())

    def _fail(self, error: Refusal) -> None:
        for core in self.cores.values():
            core.fail(error)
        self._stop.forget()
        if not self._released.is_set():  # else no reader waits any more
            logger.warning("%s", error, extra={"fields": of_refusal(error)})

    def _fail_one(self, core: SharedCore, error: Refusal) -> None:
        is_awaited = not (self._released.is_set() or core.has_failed)
        core.fail(error)
        if is_awaited:
            logger.warning("%s", error, extra={"fields": of_refusal(error)})
        if self._have_all_failed:
            self.let_go()
        else:
            self.hurry()

    async def _hold(self) -> None:
        """Hold the process until its release, and let it go if its time ends before."""
        if why := await self._time.run_out(self._stop.stopped_seconds, self._released):
            self._let_go_late(why)

    def let_go(self, why: str = "") -> None:
        """Let the process run on.  Its open files still have the part of the header that is made;
        memory is EIO from now on."""
        self.why_over = self.why_over or why
        self._stop.let_go()
        self._released.set()
        for core in self.cores.values():
            core.holder.drop()
            core.notify_pollers()

    def forget(self) -> None:
        """Drop the headers, which nobody can read any more."""
        self._stop.forget()
        for core in self.cores.values():
            core.forget()

    def _on_end(self) -> None:
        """The process died, or nobody may join the stop any more for another reason."""
        if self.is_all_filled:  # the copies are complete
            self._stop.run_on()
        else:
            self.let_go(self._stop.why_ended)

    def policy_text(self, policy: MountPolicy) -> str:
        """What the log and `gcorefs status` say of a policy."""
        return difference(policy, self._options)
