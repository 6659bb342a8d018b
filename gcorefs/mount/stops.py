"""One stop of one process, from the first open of a core of it to the last release.

A stop may have several cores, one for each policy (cores.py).  It lasts as long as somebody wants
one of them.  Everything here runs in the event loop; threads make the calls that block.
"""

import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from dataclasses import replace
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
from gcorefs.mount import core_report
from gcorefs.mount.cores import SharedCore
from gcorefs.mount.errors import RequestError, RequestReason
from gcorefs.mount.fields import of_refusal
from gcorefs.mount.hold_time import HoldTime
from gcorefs.mount.in_thread import in_thread
from gcorefs.mount.limits import Limits
from gcorefs.mount.log import logger
from gcorefs.mount.max_stop import within
from gcorefs.mount.options import MountPolicy, Options
from gcorefs.mount.pauses import Pauses
from gcorefs.mount.policy_names import difference
from gcorefs.mount.pools import Pools
from gcorefs.mount.remote_stop import RemoteStop
from gcorefs.policy import StopWhom
from gcorefs.process.access import Opener
from gcorefs.process.errors import ProcessError, Reason, told
from gcorefs.stopped import CLOSE_TIMEOUT

_MOST_CORES = 64
"""Cores of one stop."""

_OF_ROOT = 16
"""In addition: no user keeps root from a core of a process."""

_REAP_PATIENCE = 60.0
"""Seconds in which a child ends, also one with much memory.  No other stop begins meanwhile."""

_NO_THREAD_NAP = 0.05
"""Seconds until the next try, if no thread can be started."""


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
        self._nursery: trio.Nursery | None = None  # makes and copies cores during the hold
        self._time = HoldTime(options.open_timeout)
        self._hold_scope: trio.CancelScope | None = None
        self._released = trio.Event()
        # Set later than the event in RemoteStop, when the worker is free for the next stop.
        self._untraced = trio.Event()
        self._reaped = trio.Event()
        self._reaped.set()
        self._finished = trio.Event()

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
        deadline = self._time.end(self._holding) + tuning.now().overdue
        return not self._released.is_set() and trio.current_time() > deadline

    @property
    def is_tracing(self) -> bool:
        """True until the last thread of the process is let go, and while the process is stopped, or
        about to be, for a child of it.  A copy can be read between the two."""
        return not self._untraced.is_set() or self.is_reaping

    @property
    def is_reaping(self) -> bool:
        """True while the process is to reap a child that it was made to fork (hold=fork)."""
        return not self._reaped.is_set()

    @property
    def is_finished(self) -> bool:
        return self._finished.is_set()

    def precedes(self, other: "SharedStop") -> bool:
        """True if `other` has to wait for this one before its process reaps a child."""
        is_first = not self.is_reaping or self.began < other.began
        return self is not other and self.is_tracing and is_first

    async def preceded(self) -> None:
        """Wait until it may precede others no more: its threads are let go, or its child is reaped.

        Not `untraced`, which waits for both: two stops that wait for each other's child would
        never end.
        """
        await (self._reaped if self._untraced.is_set() else self._untraced).wait()

    async def untraced(self) -> None:
        """Wait until this stop traces no thread any more.  Call it if the stop is over, or if its
        memory is copied."""
        await self._untraced.wait()
        await self._reaped.wait()

    async def finished(self) -> None:
        """Wait until this stop traces no thread any more, but for CLOSE_TIMEOUT at most after its
        end."""
        await self._finished.wait()

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

    @property
    def _wanted(self) -> list[SharedCore]:
        """The cores for which the process is held."""
        return [core for core in self.cores.values() if core.is_wanted and not core.has_failed]

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

    @property
    def _holding(self) -> Collection[SharedCore]:
        """The cores whose time counts."""
        return self._wanted or self.cores.values()

    def touch(self) -> None:
        self._time.touch()

    def hurry(self) -> None:
        if self._hold_scope is not None:
            self._hold_scope.deadline = min(
                self._hold_scope.deadline, self._time.deadline(self._holding)[0]
            )

    def leave(self) -> None:
        if self._wanted:
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
        if all(core.holder.was_filled for core in self._wanted):
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
        self._untraced.set()

    # The life of the stop: one task calls `run`.

    async def run(self) -> None:
        """Stop the process, hold it until its release, and let it go."""
        try:
            first = next(iter(self.cores.values()))
            made = None
            with self._refusals_told(partial(self._fail_first, first)):
                made = await self._take(first)
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
            await self._finish()

    async def _take(self, first: SharedCore) -> Core:
        """Stop the process and make its first core.  ProcessError STUCK: /proc or a file that the
        core needs has not answered in time."""
        await self._prepare(first)
        await self._stop.begin(first.policy.max_stop)
        seconds = first.policy.stop_timeout + tuning.now().take_timeout
        if self.whom in ("each", "none"):  # nobody stands still for long
            return await self._make(first, seconds)
        return await within(
            self._max_stop, self._stop, self._end_max_stop, partial(self._make, first, seconds)
        )

    def _max_stop(self) -> float:
        return max(core.policy.max_stop or inf for core in self._holding)

    def _end_max_stop(self) -> None:
        self._let_go_late(f"it was stopped for {self._max_stop():g} s")

    def _let_go_late(self, why: str) -> None:
        self.let_go(why)
        logger.warning("process %d: let go, %s", self.process.pid, why)

    async def _prepare(self, core: SharedCore) -> None:
        """Make room for a copy of the memory.  This is slow, so it happens before the stop.  A disk
        may never answer."""
        if core.holder.is_copy:
            prepare = partial(core.holder.prepare, self.process.pid)
            with trio.move_on_after(tuning.now().take_timeout) as scope:
                with told(self.process.pid, Reason.DIED):
                    await self._pools.block(self.process.pid, core.opener.uid, prepare)
            if scope.cancelled_caught:
                core.holder.give_up("there was no room for it in time")
        if not self._has_stopped:
            await self._pauses.make(core.holder, core.policy, self._released.is_set)

    async def _make(self, core: SharedCore, seconds: float) -> Core:
        with trio.move_on_after(seconds):
            return await self._stop.core(core.policy, core.holder)
        raise ProcessError(Reason.STUCK, self.process.pid, "it could not be recorded in time")

    async def _add(self, core: SharedCore) -> None:
        """Make one more core of a process that stands still."""
        made = None
        with self._refusals_told(partial(self._fail_one, core)):
            await self._prepare(core)
            made = await self._make(core, tuning.now().take_timeout)
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
            self._untraced.set()

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

    async def _finish(self) -> None:
        """Set `_finished` within CLOSE_TIMEOUT, even if the tracer sleeps in the kernel: the end of
        the mount must not wait for that tracer.

        Then wait for the tracer until the mount ends.  Meanwhile its worker counts for the opener,
        and no other stop of the process begins.
        """
        try:
            with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await self._close()
            self._finished.set()
            self._log_end()
            if not self._stop.is_untraced:
                await self._close()
        finally:
            if not self._stop.has_own_child:
                self._stop.end_child()
            self._untraced.set()

    async def end_child(self, others_untraced: Callable[[], Awaitable[None]]) -> None:
        """End a child that the process has to reap, after `run`: the process is stopped for that,
        and that must not meet another stop.

        `others_untraced`: waits for the stops that there are.  Those that come wait for this one.
        """
        if self._stop.has_own_child:
            self._reaped = trio.Event()
            try:
                self._stop.kill_child()
                await others_untraced()
                self._stop.end_child()
                with trio.move_on_after(_REAP_PATIENCE):
                    await self._stop.child_ended()
            finally:
                self._reaped.set()

    async def _close(self) -> None:
        """Wait until no thread is traced, and free the memory of the cores.  If no thread can be
        started for that, try again."""
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
        """Call this in a thread: it takes long to free much memory."""
        for core in self.cores.values():
            core.close()
            core.holder.close()
        self._stop.close_memory()

    async def _hold(self) -> None:
        """Hold the process until its release, and let it go if idle_timeout, open_timeout or
        max_stop ends before."""
        self._time.begin(self._stop.stopped_seconds)
        while True:
            with trio.move_on_at(self._time.deadline(self._holding)[0]) as self._hold_scope:
                await self._released.wait()
                return
            if any(core.bytes.reads_under_way for core in self.cores.values()):
                self.touch()  # a reader that waits for its bytes is not idle
            deadline, why = self._time.deadline(self._holding)
            if trio.current_time() < deadline:
                continue
            self._let_go_late(why)
            return

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

    # What the log and `gcorefs status` say of the stop.

    def _log_end(self) -> None:
        for core in self.cores.values():
            core_report.log_end(core)
        if late := self._stop.late:
            logger.info(
                "process %d: let go, except threads that have not stopped yet: %s",
                self.process.pid,
                ", ".join(map(str, late)),
            )

    def policy_text(self, policy: MountPolicy) -> str:
        return difference(policy, self._options)

    def report(self) -> dict[str, Any]:
        """The fields of `gcorefs status` that all cores of the stop have in common."""
        began = datetime.fromtimestamp(self.began / 1e9, UTC)
        return {"began": began.isoformat(timespec="seconds")}
