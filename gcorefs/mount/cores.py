"""One core of a stop, shared by all handles of its inode: who may have it, and who has it.

Everything here runs in the event loop; threads make the blocking calls.
"""

import contextlib
import select
from functools import partial
from math import inf
from typing import Protocol

import trio

from gcorefs import tuning
from gcorefs.core import Core
from gcorefs.errors import Refusal
from gcorefs.hold.choice import Rooms, holder_of
from gcorefs.hold.holder import Holder
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.lifecycle import Phase
from gcorefs.mount.core_bytes import CoreBytes, Reader
from gcorefs.mount.holders import Holders
from gcorefs.mount.keeper import Keeper
from gcorefs.mount.limits import Limits
from gcorefs.mount.log import logger
from gcorefs.mount.options import MountPolicy
from gcorefs.mount.pools import Pools
from gcorefs.mount.remote_stop import RemoteStop
from gcorefs.process import access
from gcorefs.process.access import Opener
from gcorefs.process.errors import ProcessError, Reason


class PollHandle(Protocol):
    def notify(self) -> None: ...


class Handle(Reader):
    """One open file of a core."""

    def __init__(self, core: "SharedCore", opener: Opener, nonblocking: bool) -> None:
        super().__init__(opener, nonblocking)
        self.core = core
        self.poll_handle: PollHandle | None = None


class SharedCore:
    """The core of one process with one policy."""

    def __init__(
        self,
        keeper: Keeper,
        stop: RemoteStop,
        opener: Opener,
        policy: MountPolicy,
        limits: Limits,
        pools: Pools,
    ) -> None:
        self.keeper = keeper
        self.stop = stop
        self.policy = policy
        self.opener = opener
        """The first opener.  The core counts for this user."""
        self.holder: Holder = holder_of(
            policy,
            Rooms(partial(limits.copies.room, opener.uid), partial(limits.spools.room, opener.uid)),
        )
        self.holders = Holders()
        self.bytes = CoreBytes(keeper, opener.uid, pools)
        self.memory = 0
        """Bytes of the opener's share that its header takes."""
        self.open_by = inf
        """When to give the core up if nobody has opened it."""
        self.was_open = False
        self._budget = limits.memory
        self._pools = pools
        self._handles: dict[Handle, None] = {}  # in the order of their opens

    # The state of the core.

    @property
    def process(self) -> Process:
        return self.keeper.process

    @property
    def began(self) -> int:
        """When the stop began, in nanoseconds since the epoch."""
        return self.keeper.began

    @property
    def is_ready(self) -> bool:
        """True once nobody waits any more, because the core is made or has failed."""
        return self.bytes.is_ready

    @property
    def is_over(self) -> bool:
        """True if no further handle may join: the core failed, or the process died or was let
        go."""
        return self.bytes.is_over

    @property
    def is_open(self) -> bool:
        return bool(self._handles)

    @property
    def is_wanted(self) -> bool:
        """True if it is open, or if somebody is about to open it."""
        return self.is_open or self.holders.are_about_to_open

    @property
    def is_past(self) -> bool:
        """True if no further handle may join, because it is a copy and the process has changed."""
        return self.stop.life.phase is Phase.PAST

    @property
    def has_failed(self) -> bool:
        return self.bytes.error is not None

    @property
    def size(self) -> int | None:
        """Bytes of the file; None if there is no header, or none yet."""
        return self.bytes.size

    # The life of the core.

    async def settle(self, core: Core) -> None:
        """Take the core, whose header is made.  ProcessError: those who wait may not see it."""
        memory = core.header_memory
        self._budget.take(self.opener.uid, self.process.pid, memory)
        self.memory = memory
        self.bytes.begin(core)
        await self._judge_again()
        if not self.holder.is_copy:
            self.bytes.settle()
        self.bytes.open()
        self.notify_pollers()

    def fail(self, error: Refusal) -> None:
        """There is no such core.  Tell everybody who waits for it why."""
        self.bytes.fail(error)
        self.notify_pollers()

    async def _judge_again(self) -> None:
        """Judge everybody who joined or looked up the core before the process stood still.

        The process may have become a set-uid program since they were judged.  One opener who may
        not see that ends the stop for all of them, because their bytes go through one page cache:
        splice(2) and a private mmap(2) of one opener get what another has read (inodes.py).

        A user may have a thousand openers, and the process stands still meanwhile: each set of
        credentials is judged once.
        """
        judged = {self.opener.credentials}  # the stop itself has judged these again
        while others := {each.credentials for each in self.holders.of(None)} - judged:
            opener = others.pop()
            question = partial(access.check, opener, self.process.pid)
            await self._pools.questions.ask(self.process.pid, opener.uid, question)
            judged.add(opener)

    async def copy(self) -> None:
        """If the policy wants a copy, copy the memory and let the process go.

        The process is held until then.  If it cannot be copied it stays held.
        """
        if not self.holder.is_copy:
            return
        try:
            await self._copy_in_a_thread()
        finally:
            self.bytes.settle()

    async def _copy_in_a_thread(self) -> None:
        pid = self.process.pid
        try:
            if self.bytes.core is not None:
                await self._pools.block(pid, self.opener.uid, self.bytes.core.fill)
            if self.keeper.may_run_on:
                self.keeper.run_on()
                await self.stop.untraced()  # the next stop must not meet this tracer
        except Refusal as error:
            if error.reason not in (Reason.NO_THREAD, Reason.NO_MEMORY):
                return  # the process died or was let go, and its readers get that error
            if not self.holder.is_filled:
                self.holder.give_up(error.reason.text)
            elif self.keeper.may_run_on:  # the copy was complete before the error
                self.keeper.run_on()
        except Exception:  # a surprise must not end the mount: the process is held instead
            logger.exception("process %d: cannot be copied", pid)
            self.holder.give_up(Reason.SURPRISE.text)
        if why := self.holder.not_copied:
            logger.warning("process %d: held, not copied: %s", pid, why)

    def close(self) -> None:
        """Read the process no more."""
        if self.bytes.core is not None:
            self.bytes.core.close()

    def forget(self) -> None:
        """Drop the header, which nobody can read any more."""
        self.bytes.forget()

    # Who may have it.

    async def is_joinable(self, opener: Opener) -> bool:
        """False if the core is a copy, and either `opener` may not see it or a core made now would
        have other bytes.  ESRCH.

        A copied process runs, and may have become easier to trace.  So what the process is now
        gives nobody the right to see the copy: the opener must have the credentials of one who was
        judged at the stop, or must be allowed to trace every process.
        """
        core = self.bytes.core
        if core is not None and core.is_copied:
            # The process is about to be let go.  A tracer that sleeps in the kernel may never do
            # that, but the copy is complete already.
            with trio.move_on_after(tuning.now().read_timeout):
                await self.bytes.settled()
        if core is None or not core.is_copied or self.is_past:
            return not self.is_past
        is_unchanged = self.is_for(opener) and await self._pools.questions.ask(
            self.process.pid, opener.uid, core.is_unchanged
        )
        if not is_unchanged:
            self.stop.life.advance(Phase.PAST)
        return is_unchanged

    def is_for(self, opener: Opener) -> bool:
        """True if an opener who may trace the process now may see this core of it."""
        if not self.holder.is_filled or opener.may_trace_all:
            return True
        return any(map(opener.has_credentials_of, self.holders.of(None)))

    # Who has it.

    def join(self, opener: Opener, nonblocking: bool) -> Handle:
        handle = Handle(self, opener, nonblocking)
        self._handles[handle] = None
        self.holders.open(opener)
        self.was_open = True
        self.open_by = inf
        self.keeper.touch()
        return handle

    def await_open(self, opener: Opener, seconds: float) -> None:
        """Hold the core for so long from now on without a handle: `opener` is about to open it.

        If the core is open, its last handle lets the process go all the same.
        """
        self.holders.ask(opener.uid)
        if self._handles:
            return
        self.holders.look_up(opener)
        self.open_by = trio.current_time() + seconds
        self.keeper.hurry()

    def leave(self, handle: Handle, open_timeout: float) -> None:
        """Close `handle`.  The last one to leave lets the process go.

        If the file was looked up and nobody has read it yet, wait for one more open: bsdtar opens a
        file once to look for holes, and again to read it.
        """
        del self._handles[handle]
        self.holders.close(handle.opener)
        if handle.ahead is not None:
            handle.ahead.close()
        if self._handles:
            return
        if self.holders.were_asked and not self.bytes.served and not self.is_over:
            self.await_open(handle.opener, open_timeout)
        else:
            self.keeper.leave()

    async def is_taken(self) -> bool:
        """Wait until the size is known.  False if the last handle was closed before.

        Raises the error of the stop; EIO if the process died or somebody let it go.
        """
        await self.bytes.ready()
        was_closed = self.keeper.is_let_go and not self.keeper.why_over
        error = self.bytes.error
        if error is not None and not (was_closed and error.reason is Reason.LET_GO):
            raise error.with_traceback(None)
        if self.stop.is_dead:
            raise ProcessError(Reason.DIED, self.process.pid)
        if self.is_over and not was_closed:
            raise ProcessError(Reason.LET_GO, self.process.pid, self.keeper.why_over)
        return not self.is_over

    async def wait_until_ready(self, seconds: float) -> None:
        """Wait until the exact size is known or never will be, but for `seconds` at most."""
        with trio.move_on_after(seconds):
            await self.bytes.ready()

    # poll(2).

    def poll(self, handle: Handle, poll_handle: PollHandle | None) -> int:
        """The events that are there now.  Notify `poll_handle` of later ones."""
        if poll_handle is not None:
            handle.poll_handle = poll_handle
        if self.has_failed:
            return select.POLLERR
        if not self.is_ready:
            return 0
        if self.is_over:  # the header can still be read
            return select.POLLIN | select.POLLRDNORM | select.POLLERR
        return select.POLLIN | select.POLLRDNORM

    def notify_pollers(self) -> None:
        for handle in self._handles:
            if handle.poll_handle is not None:
                # The kernel may have forgotten the poll handle because its poller has gone.
                with contextlib.suppress(OSError):
                    handle.poll_handle.notify()
                handle.poll_handle = None
