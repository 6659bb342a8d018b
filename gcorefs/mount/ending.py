"""The end of a stop: until no thread of its process is traced any more, and its child is reaped.

Others wait for that: the next stop of the process must not meet this tracer.  Everything here runs
in the event loop; threads make the calls that block.
"""

from collections.abc import Awaitable, Callable, Collection

import trio

from gcorefs.mount import core_report
from gcorefs.mount.cores import SharedCore
from gcorefs.mount.in_thread import in_thread
from gcorefs.mount.log import logger
from gcorefs.mount.pools import Pools
from gcorefs.mount.remote_stop import RemoteStop
from gcorefs.process.errors import ProcessError
from gcorefs.stopped import CLOSE_TIMEOUT

_REAP_PATIENCE = 60.0
"""Seconds in which a child ends, also one with much memory.  No other stop begins meanwhile."""

_NO_THREAD_NAP = 0.05
"""Seconds until the next try, if no thread can be started."""


class Ending:
    """That of one stop."""

    def __init__(self, stop: RemoteStop, began: int, uid: int, pools: Pools) -> None:
        """`began`: when the stop began, in nanoseconds since the epoch; `uid`: the user for whom it
        counts."""
        self._stop = stop
        self._began = began
        self._uid = uid
        self._pools = pools
        # Set later than the event in RemoteStop, when the worker is free for the next stop.
        self._untraced = trio.Event()
        self._reaped = trio.Event()
        self._reaped.set()
        self._finished = trio.Event()

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

    def precedes(self, other: "Ending") -> bool:
        """True if `other` has to wait for this one before its process reaps a child."""
        is_first = not self.is_reaping or self._began < other._began
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

    def tell_untraced(self) -> None:
        """Its memory is copied, and it traces no thread any more."""
        self._untraced.set()

    async def finish(self, cores: Collection[SharedCore]) -> None:
        """Set `_finished` within CLOSE_TIMEOUT, even if the tracer sleeps in the kernel: the end of
        the mount must not wait for that tracer.

        Then wait for the tracer until the mount ends.  Meanwhile its worker counts for the opener,
        and no other stop of the process begins.
        """
        try:
            with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await self._close(cores)
            self._finished.set()
            self._log(cores)
            if not self._stop.is_untraced:
                await self._close(cores)
        finally:
            if not self._stop.child.is_own:
                self._stop.child.end()
            self._untraced.set()

    async def _close(self, cores: Collection[SharedCore]) -> None:
        """Wait until no thread is traced, and free the memory of the cores.  If no thread can be
        started for that, try again."""
        await self._stop.untraced()
        with self._pools.closes.of(self._uid) as limiter:
            while True:
                try:
                    await in_thread(self._stop.process.pid, limiter, self._free, cores)
                except ProcessError:
                    await trio.sleep(_NO_THREAD_NAP)
                else:
                    return

    def _free(self, cores: Collection[SharedCore]) -> None:
        """Call this in a thread: it takes long to free much memory."""
        for core in cores:
            core.close()
            core.holder.close()
        self._stop.close_memory()

    def _log(self, cores: Collection[SharedCore]) -> None:
        for core in cores:
            core_report.log_end(core)
        if late := self._stop.late:
            logger.info(
                "process %d: let go, except threads that have not stopped yet: %s",
                self._stop.process.pid,
                ", ".join(map(str, late)),
            )

    async def end_child(self, others_untraced: Callable[[], Awaitable[None]]) -> None:
        """End a child that the process has to reap, after `finish`: the process is stopped for
        that, and that must not meet another stop.

        `others_untraced`: waits for the stops that there are.  Those that come wait for this one.
        """
        if self._stop.child.is_own:
            self._reaped = trio.Event()
            try:
                self._stop.child.kill()
                await others_untraced()
                self._stop.child.end()
                with trio.move_on_after(_REAP_PATIENCE):
                    await self._stop.child.gone()
            finally:
                self._reaped.set()
