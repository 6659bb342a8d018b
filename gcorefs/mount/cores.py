"""One core of a stop, shared by every handle of its inode.

Everything here runs in the event loop; the blocking calls of the core run in threads.  A request
never waits without a bound: a client cannot be killed before its request is answered.
"""

import contextlib
import errno
import select
from functools import partial
from math import inf
from typing import Any, Protocol

import trio

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.core import Core
from gcorefs.elfcore.provenance import MOST_RANGES, as_text
from gcorefs.errors import Refusal
from gcorefs.holder import HoldCopy, Holder, HoldProcess
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.lifecycle import Phase
from gcorefs.mount.holders import Holders
from gcorefs.mount.limits import Limits
from gcorefs.mount.log import logger
from gcorefs.mount.pools import Pools
from gcorefs.mount.readahead import ReadAhead
from gcorefs.mount.reading import Reading
from gcorefs.mount.remote_stop import RemoteStop
from gcorefs.policy import Policy
from gcorefs.process import access, readv
from gcorefs.process.access import Opener
from gcorefs.process.errors import ProcessError, Reason

_NOTHING = memoryview(b"")

_COPY_PATIENCE = 2.0
"""Seconds that reads of memory wait for the copy of it, which they would only slow down."""


class PollHandle(Protocol):
    def notify(self) -> None: ...


class Handle:
    """One open file."""

    def __init__(self, core: "SharedCore", opener: Opener, nonblocking: bool) -> None:
        self.core = core
        self.opener = opener
        self.nonblocking = nonblocking
        self.poll_handle: PollHandle | None = None
        self.reader: ReadAhead | None = None  # from the first read on


class Keeper(Protocol):
    """Who keeps the process stopped for its cores (mount/stops.py)."""

    process: Process
    began: int
    why_over: str
    """Why it was let go, where its readers did not do that themselves."""

    @property
    def is_over(self) -> bool:
        """Nobody may join any more."""

    @property
    def is_let_go(self) -> bool: ...

    @property
    def is_all_filled(self) -> bool:
        """True where the memory of all its cores is copied."""

    def let_go(self, why: str = "") -> None:
        """Let the process run on."""

    def touch(self) -> None:
        """Its file was read just now."""

    def hurry(self) -> None:
        """Its deadline may have come nearer."""

    def leave(self) -> None:
        """The last handle of one of its cores has gone, and nobody is about to open it."""

    def report(self) -> dict[str, Any]: ...


class SharedCore:
    """The core of one process with one policy."""

    def __init__(
        self,
        keeper: Keeper,
        stop: RemoteStop,
        opener: Opener,
        policy: Policy,
        limits: Limits,
        pools: Pools,
    ) -> None:
        self.keeper = keeper
        self.policy = policy
        self.opener = opener
        """Who was the first to open it, on whose account it is."""
        self.holder: Holder = HoldProcess()
        if policy.hold == "copy":
            self.holder = HoldCopy(limits.copies.room(opener.uid))
        self.holders = Holders()
        self.memory = 0
        """Bytes of its opener's share that it has taken, for its header."""
        self.open_by = inf
        """When it is given up where nobody has opened it."""
        self.reads_under_way = 0
        self._stop = stop
        self._budget = limits.memory
        self._pools = pools
        self._handles: dict[Handle, None] = {}  # in the order of their opens
        self._was_open = self._was_looked_up = False
        self._core: Core | None = None  # once it is ready, and as long as somebody may read it
        self._reading: Reading | None = None
        self._ready = trio.Event()
        self._settled = trio.Event()
        """Set when the memory is copied, or is not going to be."""
        self._settled_by = inf
        self._error: Refusal | None = None
        self._bytes = 0

    # What it is.

    @property
    def process(self) -> Process:
        return self.keeper.process

    @property
    def began(self) -> int:
        """When its stop did, in nanoseconds since the epoch."""
        return self.keeper.began

    @property
    def is_ready(self) -> bool:
        """True once nobody waits any more, whether it came off or not."""
        return self._ready.is_set()

    @property
    def is_over(self) -> bool:
        """True where no further handle may join: failed, dead or let go."""
        return self._error is not None or self.keeper.is_over

    @property
    def is_open(self) -> bool:
        return bool(self._handles)

    @property
    def is_wanted(self) -> bool:
        """True where it is open, or somebody is about to open it."""
        return self.is_open or self.holders.are_about_to_open

    @property
    def is_past(self) -> bool:
        """No further handle may join: it is a copy, and the process is another by now."""
        return self._stop.life.phase is Phase.PAST

    @property
    def has_failed(self) -> bool:
        return self._error is not None

    @property
    def size(self) -> int | None:
        """Bytes of the file, None until the header is built or where it never was."""
        return self._core.size if self._core is not None and self.is_ready else None

    # How it comes to be.

    async def settle(self, core: Core) -> None:
        """Its header is made.  ProcessError: it is not for those who wait for it."""
        memory = core.header_memory
        self._budget.take(self.opener.uid, self.process.pid, memory)
        self.memory = memory
        self._core = core
        pools = self._pools
        self._reading = Reading(core, self.opener.uid, pools.buffers, pools.errands, pools.waits)
        await self._judge_again()
        if not self.holder.is_copy:
            self._settled.set()
        self._settled_by = trio.current_time() + _COPY_PATIENCE
        self._end_waiting()

    def fail(self, error: Refusal) -> None:
        """There is no such core, and whoever waits for it is told why."""
        self._error = error
        self._settled.set()
        self._end_waiting()
        self.forget()

    def _end_waiting(self) -> None:
        self._ready.set()
        self.notify_pollers()

    async def _judge_again(self) -> None:
        """Judge whoever joined, or looked it up, while threads could still run, now that none can.

        The process may have become a set-uid program since.  One who may not see that ends the
        stop for all: splice(2) and private mmap(2) have from the page cache of the inode what
        others read, and nobody is asked (inodes.py).
        """
        judged = {self.opener}  # by the stop itself
        while opener := next((each for each in self.holders.of(None) if each not in judged), None):
            question = partial(access.check, opener, self.process.pid)
            await self._pools.questions.ask(self.process.pid, opener.uid, question)
            judged.add(opener)

    async def copy(self) -> None:
        """Copy its memory, where that is wanted, and let the process go; it is held meanwhile, and
        for good where that fails."""
        if not self.holder.is_copy:
            return
        try:
            await self._copy_in_a_thread()
        finally:
            self._settled.set()

    async def _copy_in_a_thread(self) -> None:
        pid = self.process.pid
        try:
            if self._core is not None:
                await self._pools.block(pid, self.opener.uid, self._core.fill)
            if self.keeper.is_all_filled:
                self._stop.run_on()
                await self._stop.untraced()  # the next stop is not to meet this tracer
        except Refusal as error:
            if error.reason not in (Reason.NO_THREAD, Reason.NO_MEMORY):
                return  # it died or was let go, and is said to have
            if self.holder.is_filled:  # after that was done
                self._stop.run_on()
            else:
                self.holder.give_up(error.reason.text)
        except Exception:  # a surprise is a process that is held, not the mount's end
            logger.exception("process %d: cannot be copied", pid)
            self.holder.give_up(Reason.SURPRISE.text)
        if why := self.holder.not_copied:
            logger.warning("process %d: held, not copied: %s", pid, why)

    def close(self) -> None:
        """Read the process no more."""
        if self._core is not None:
            self._core.close()

    def forget(self) -> None:
        """Nobody can read its header any more."""
        self._core = self._reading = None

    # Who may have it.

    async def is_joinable(self, opener: Opener) -> bool:
        """False where this is a copy that the opener may not see, or that has other bytes than a
        stop now would have.  ESRCH.

        The process runs, and may have become easier to trace.  So nobody sees a copy by what
        it is now: an opener has the credentials of one that was judged at the stop, or may
        trace every process.
        """
        core = self._core
        if core is not None and core.is_copied:
            await self._settled.wait()  # it is being let go just now
        if core is None or not core.is_copied or self.is_past:
            return not self.is_past
        is_unchanged = self.is_for(opener) and await self._pools.questions.ask(
            self.process.pid, opener.uid, core.is_unchanged
        )
        if not is_unchanged:
            self._stop.life.advance(Phase.PAST)
        return is_unchanged

    def is_for(self, opener: Opener) -> bool:
        """True where one who may trace the process now may see this core of it."""
        if not self.holder.is_filled or opener.may_trace_all:
            return True
        return any(map(opener.has_credentials_of, self.holders.of(None)))

    # Its handles.

    def join(self, opener: Opener, nonblocking: bool) -> Handle:
        handle = Handle(self, opener, nonblocking)
        self._handles[handle] = None
        self.holders.open(opener)
        self._was_open = True
        self.open_by = inf
        self.keeper.touch()
        return handle

    def await_open(self, opener: Opener, seconds: float) -> None:
        """Hold it without a handle for so long from now on: `opener` is about to open it.

        Where it has handles the last of them lets the process go all the same.
        """
        self._was_looked_up = True
        if self._handles:
            return
        self.holders.look_up(opener)
        self.open_by = trio.current_time() + seconds
        self.keeper.hurry()

    def leave(self, handle: Handle, open_timeout: float) -> None:
        """The last one to leave lets the process go, unless the file was looked up to be read and
        nobody has: bsdtar opens it once to look for holes, and again to read it."""
        del self._handles[handle]
        self.holders.close(handle.opener)
        if handle.reader is not None:
            handle.reader.close()
        if self._handles:
            return
        if self._was_looked_up and not self._bytes and not self.is_over:
            self.await_open(handle.opener, open_timeout)
        else:
            self.keeper.leave()

    async def is_taken(self) -> bool:
        """True once the size is known; False where the last handle was closed before.

        What the stop failed with; EIO where the process died or somebody let it go.
        """
        await self._ready.wait()
        was_closed = self.keeper.is_let_go and not self.keeper.why_over
        if self._error is not None and not (was_closed and self._error.reason is Reason.LET_GO):
            raise self._error.with_traceback(None)
        if self._stop.is_dead:
            raise ProcessError(Reason.DIED, self.process.pid)
        if self.is_over and not was_closed:
            raise ProcessError(Reason.LET_GO, self.process.pid, self.keeper.why_over)
        return not self.is_over

    async def wait_until_ready(self, seconds: float) -> None:
        """Until the exact size is known or never will be, or for so long."""
        with trio.move_on_after(seconds):
            await self._ready.wait()

    def at_hand(self, handle: Handle, offset: int, length: int) -> memoryview | None:
        """Bytes of the file, as `read` has them, where that takes no waiting for anything.

        They are good until the event loop turns.  None: ask `read`.
        """
        reader, core, reading = handle.reader, self._core, self._reading
        if reader is None or self.is_over or not self._settled.is_set():
            return None
        if core is None or reading is None:
            return None
        length = min(length, core.size - offset)
        if length <= 0:  # without an empty read dd would go on for ever
            return _NOTHING
        data = reading.at_hand(reader, offset, length)
        if data is not None:
            self._bytes += length
            self.keeper.touch()
        return data

    async def read(self, handle: Handle, offset: int, length: int) -> memoryview:
        """Bytes of the file, fewer only at its end and before what could not be had in time,
        good until the event loop turns.  Where they are not at hand.

        EAGAIN: not ready and non-blocking; EIO: died, let go, or not in time; and whatever
        the stop failed with.
        """
        if not self.is_ready and handle.nonblocking:
            raise BlockingIOError(errno.EAGAIN, "not every thread is recorded yet")
        self.reads_under_way += 1
        try:
            await self._ready.wait()
            if self._error is not None:
                raise self._error.with_traceback(None)  # or it grows with every read
            core, reading = self._core, self._reading
            if core is None or reading is None:
                raise ProcessError(Reason.LET_GO, self.process.pid)
            length = min(length, core.size - offset)
            if length <= 0:
                return _NOTHING
            if offset + length > core.layout.memory_offset and not handle.nonblocking:
                with trio.move_on_at(self._settled_by):
                    await self._settled.wait()
            if handle.reader is None:
                handle.reader = reading.reader(self._pools.windows, handle.opener.uid)
            # Once it is over, nothing that was read ahead is to be had any more.
            reader = None if self.is_over else handle.reader
            data = await reading.fetch(reader, offset, length)
            self._bytes += length
            return data
        finally:
            self.reads_under_way -= 1
            self.keeper.touch()

    def poll(self, handle: Handle, poll_handle: PollHandle | None) -> int:
        """Events that are there now; `poll_handle` is told of later ones."""
        if poll_handle is not None:
            handle.poll_handle = poll_handle
        if self._error is not None:
            return select.POLLERR
        if not self.is_ready:
            return 0
        if self.is_over:  # the header can still be read
            return select.POLLIN | select.POLLRDNORM | select.POLLERR
        return select.POLLIN | select.POLLRDNORM

    def notify_pollers(self) -> None:
        for handle in self._handles:
            if handle.poll_handle is not None:
                # The kernel may have forgotten it: whoever polled has gone.
                with contextlib.suppress(OSError):
                    handle.poll_handle.notify()
                handle.poll_handle = None

    # What is told of it.

    def log_end(self) -> None:
        if (core := self._core) is None or self._error is not None:
            return
        starved = f", {core.starved_threads} got no CPU" if core.starved_threads else ""
        logger.info(
            "process %d: %s by process %d (uid %d): %d threads (%d did not stop%s), "
            "ready in %.1f ms, stopped for %.1f ms, %d bytes read, %d pages unreadable%s",
            self.process.pid,
            "opened" if self._was_open else "looked up",
            self.opener.pid,
            self.opener.uid,
            core.threads,
            core.unresponsive_threads,
            starved,
            self._stop.ready_seconds * 1e3,
            self._stop.stopped_seconds * 1e3,
            self._bytes,
            core.unreadable,
            self._how_held(),
        )

    def _how_held(self) -> str:
        if why := self.holder.not_copied:
            return f", held (not copied: {why})"
        return ", copied" if self.holder.was_filled else ""

    def report(self) -> dict[str, Any]:
        """What `gcorefs status` tells of it.  Times in milliseconds.  Also for other threads."""
        state, why = self._state()
        core = self._core
        return {
            "pid": self.process.pid,
            "name": self._stop.comm.decode("utf-8", "replace"),
            "state": state,
            "why": why,
            **self.keeper.report(),
            "threads": core.threads if core is not None else 0,
            "threads_not_stopped": core.unresponsive_threads if core is not None else 0,
            **self.holder.facts(),
            "read_through": core.read_through if core is not None else readv.way(),
            "ready_ms": round(self._stop.ready_seconds * 1e3, 1),
            "stopped_ms": round(self._stop.stopped_seconds * 1e3, 1),
            "bytes_read": self._bytes,
            "pages_unreadable": core.unreadable if core is not None else 0,
            "size": self.size,
        }

    def _state(self) -> tuple[str, str]:
        if self._error is not None:
            return "failed", str(self._error)
        if self._stop.is_dead:
            return "died", ""
        if self.keeper.is_let_go:
            return "let go", self.keeper.why_over
        waits = [] if self._handles else ["waits to be opened"]
        if self.holder.is_filled:
            return "copied", "".join(waits)
        why = [f"not copied: {self.holder.not_copied}"] if self.holder.not_copied else []
        return ("stopped" if self.is_ready else "stopping"), "; ".join(waits + why)

    def attributes(self) -> dict[str, str]:
        """What getfattr(1) shows of its file; nothing before it is ready."""
        core = self._core
        if core is None or not self.is_ready:
            return {}
        return core.provenance.attributes() | {
            **{f"policy.{name}": value for name, value in core.hold.items()},
            "state": self._state()[0],
            # By now: some are seen only when they are read.
            "bytes.unreadable": str(core.unreadable * PAGE_SIZE),
            "unreadable": " ".join(as_text(core.unreadable_ranges[:MOST_RANGES])),
        }
