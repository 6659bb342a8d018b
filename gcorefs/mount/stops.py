"""One stop, shared by every handle of an inode, from the first open to the last release.

Everything here runs in the event loop; the snapshot's blocking calls run in threads.  A
request never waits without a bound: a client whose request is already here cannot even be
killed until it is answered.
"""

import contextlib
import errno
import select
import time
from datetime import UTC, datetime
from functools import partial
from math import inf
from typing import Any, Protocol

import trio

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.core import Core
from gcorefs.elfcore.provenance import MOST_RANGES, as_text
from gcorefs.holder import HoldCopy, Holder, HoldProcess
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.mount.buffers import Buffers
from gcorefs.mount.errands import Errands
from gcorefs.mount.holders import Holders
from gcorefs.mount.in_thread import in_thread
from gcorefs.mount.limits import Limiters, Limits
from gcorefs.mount.listing import Questions
from gcorefs.mount.log import logger
from gcorefs.mount.options import Options
from gcorefs.mount.readahead import ReadAhead
from gcorefs.mount.reading import Reading
from gcorefs.mount.windows import Windows
from gcorefs.process import access, readv
from gcorefs.process.access import Opener
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.stopped import CLOSE_TIMEOUT, TAKE_TIMEOUT
from gcorefs.stopped import Stop as StoppedProcess

# Threads that stop processes for one user at one time, and that wait for one server of mapped
# files.  A call that was given up keeps its thread until it ends, and so takes only from its
# own user, or from those that would wait for the same server.
_MOST_TAKES = 50
_MOST_WAITS = 8

_NOTHING = memoryview(b"")

_NO_THREAD_NAP = 0.05

_OVERDUE = 5.0
"""Seconds past max_stop after which a process that is still held should long have been let go."""

_COPY_PATIENCE = 2.0
"""Seconds that reads of memory wait for the copy of it, which they would only slow down."""


class PollHandle(Protocol):
    def notify(self) -> None: ...


class Handle:
    """One open file."""

    def __init__(self, stop: "Stop", opener: Opener, nonblocking: bool) -> None:
        self.stop = stop
        self.opener = opener
        self.nonblocking = nonblocking
        self.poll_handle: PollHandle | None = None
        self.reader: ReadAhead | None = None  # from the first read on


class Workers:
    """The threads that stops do their blocking work in, and their buffers: one set a mount."""

    def __init__(self, limits: Limits) -> None:
        self.takes = Limiters(_MOST_TAKES)
        self.closes = Limiters(_MOST_TAKES)
        self.buffers = Buffers()
        self.windows = Windows(limits.read_ahead, self.buffers)
        self.errands = Errands()
        self.questions = Questions()
        self.waits = Limiters(_MOST_WAITS)


class Stop:
    def __init__(
        self,
        process: Process,
        opener: Opener,
        options: Options,
        workers: Workers,
        limits: Limits,
    ) -> None:
        self.process = process
        self.opener = opener
        """Who began it, on whose account it is."""
        self.began = time.time_ns()
        self.memory = 0
        """Bytes of its opener's share that it has taken, for its header."""
        self.is_past = False
        """No further handle may join: it is a copy, and the process is another by now."""
        self._budget = limits.memory
        self._why_over = ""
        self._options = options
        self._workers = workers
        self._token = trio.lowlevel.current_trio_token()
        self._stopped = StoppedProcess(process, opener, options.policy, self._on_end)
        self._holder: Holder = HoldProcess()
        if options.hold == "copy":
            self._holder = HoldCopy(limits.copies.room(opener.uid))
        self._core: Core | None = None  # once it is ready, and as long as somebody may read it
        self.holders = Holders()
        self._handles: dict[Handle, None] = {}  # in the order of their opens
        self._open_by = self._held_until = inf
        self._was_open = self._was_looked_up = False
        self._holding: trio.CancelScope | None = None
        self._reading: Reading | None = None
        self._ready = trio.Event()
        self._released = trio.Event()
        self._finished = trio.Event()
        self._settled = trio.Event()
        """Set when the memory is copied, or is not going to be."""
        self._settled_by = inf
        self._error: ProcessError | None = None
        self._last_read = trio.current_time()
        self._reads_under_way = 0
        self._bytes = 0

    # What it is.

    @property
    def is_ready(self) -> bool:
        """True once nobody waits any more, whether it came off or not."""
        return self._ready.is_set()

    @property
    def is_over(self) -> bool:
        """True where no further handle may join: failed, dead or let go."""
        return self._error is not None or self._released.is_set() or self._stopped.is_dead

    @property
    def is_open(self) -> bool:
        return bool(self._handles)

    @property
    def size(self) -> int | None:
        """Bytes of the file, None until the header is built or where it never was."""
        return self._core.size if self._core is not None and self.is_ready else None

    # Its life: `run` is its task.

    async def run(self) -> None:
        """Take the snapshot, hold it until it is released, let go."""
        try:
            try:
                await self._take()
                await self._judge_again()
            except ProcessError as error:
                self._error = ProcessError(error.reason, error.pid, error.detail)
            except Exception:  # a surprise is the readers' EIO, not the mount's end
                logger.exception("process %d: cannot be dumped", self.process.pid)
                self._error = ProcessError(Reason.SURPRISE, self.process.pid)
            if self._error is not None or self._options.hold == "stop":
                self._settled.set()
            self._settled_by = trio.current_time() + _COPY_PATIENCE
            self._ready.set()
            self._notify_pollers()
            if self._error is None:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._copy)
                    await self._hold()
                    nursery.cancel_scope.cancel()
            else:
                self._forget()
                if not self._released.is_set():  # else nobody waits for it any more
                    logger.warning("%s", self._error)
        finally:
            self.let_go()
            # Bounded, for a tracer that sleeps in the kernel can hold up nobody but itself.
            with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await self._close()
            self._finished.set()
            self._log_end()

    async def _close(self) -> None:
        """Wait until nobody is traced.  A thread for that is waited for as well."""
        with self._workers.closes.of(self.opener.uid) as limiter:
            while True:
                try:
                    await in_thread(self.process.pid, limiter, self._close_all)
                except ProcessError:
                    await trio.sleep(_NO_THREAD_NAP)
                else:
                    return

    async def _take(self) -> None:
        """Take the snapshot, or give it up: what it needs of /proc or of a file may never come."""
        with trio.move_on_after(self._options.stop_timeout + TAKE_TIMEOUT):
            with self._workers.takes.of(self.opener.uid) as limiter:
                core = await in_thread(self.process.pid, limiter, self._take_core)
            memory = core.header_memory
            self._budget.take(self.opener.uid, self.process.pid, memory)
            self.memory = memory
            self._core = core
            workers = self._workers
            self._reading = Reading(
                core, self.opener.uid, workers.buffers, workers.errands, workers.waits
            )
            return
        raise ProcessError(Reason.STUCK, self.process.pid, "it could not be recorded in time")

    def _take_core(self) -> Core:
        """In a thread."""
        self._stopped.take(self._holder.prepare)
        return self._stopped.core(holder=self._holder)

    def _close_all(self) -> None:
        """In a thread."""
        self._holder.close()
        self._stopped.close()

    async def _judge_again(self) -> None:
        """Judge whoever joined, or looked it up, while threads could still run, now that none can.

        The process may have become a set-uid program since.  One who may not see that ends the
        stop for all: splice(2) and private mmap(2) have from the page cache of the inode what
        others read, and nobody is asked (inodes.py).
        """
        judged = {self.opener}  # by the snapshot itself
        while opener := next((each for each in self.holders.of(None) if each not in judged), None):
            question = partial(access.check, opener, self.process.pid)
            await self._workers.questions.ask(self.process.pid, opener.uid, question)
            judged.add(opener)

    async def _copy(self) -> None:
        """Copy its memory, where that is wanted, and let it go; held meanwhile, and for good
        where that fails."""
        if self._options.hold == "stop":
            return
        try:
            await self._copy_in_a_thread()
        finally:
            self._settled.set()

    async def _copy_in_a_thread(self) -> None:
        try:
            with self._workers.takes.of(self.opener.uid) as limiter:
                await in_thread(self.process.pid, limiter, self._copy_to_its_end)
        except ProcessError as error:
            if error.reason is not Reason.NO_THREAD:  # it died or was let go, and is said to have
                return
            self._holder.give_up(error.reason.text)
        except Exception:  # a surprise is a process that is held, not the mount's end
            logger.exception("process %d: cannot be copied", self.process.pid)
            self._holder.give_up(Reason.SURPRISE.text)
        if why := self._holder.not_copied:
            logger.warning("process %d: held, not copied: %s", self.process.pid, why)

    def _copy_to_its_end(self) -> None:
        """In a thread."""
        if self._core is not None and self._stopped.copy(self._core):
            self._stopped.run_on()
            self._stopped.wait_untraced()  # the next stop is not to meet this tracer

    async def is_joinable(self, opener: Opener) -> bool:
        """False where this is a copy that the opener may not see, or that has other bytes than a
        stop now would have.  ESRCH.

        The process runs, and may have become easier to trace.  So nobody sees a copy by what
        it is now: an opener has the credentials of one that was judged at the stop, or may
        trace every process.
        """
        core = self._core
        if core is not None and core.is_copied and not self.is_past:
            question = core.is_unchanged
            self.is_past = not (
                self.is_for(opener)
                and await self._workers.questions.ask(self.process.pid, opener.uid, question)
            )
        return not self.is_past

    def is_for(self, opener: Opener) -> bool:
        """True where one who may trace the process now may see this stop of it."""
        if not self._holder.is_filled or opener.may_trace_all:
            return True
        return any(map(opener.has_credentials_of, self.holders.of(None)))

    async def _hold(self) -> None:
        """Until it is released, nobody has read for idle_timeout or opened for open_timeout, or
        max_stop is over."""
        idle = self._options.idle_timeout or inf
        end = trio.current_time() - self._stopped.stopped_seconds + (self._options.max_stop or inf)
        self._held_until = end
        self._touch()
        if self.holders.are_about_to_open:
            self._open_by = trio.current_time() + self._options.open_timeout
        while True:
            with trio.move_on_at(min(self._last_read + idle, end, self._open_by)) as self._holding:
                await self._released.wait()
                return
            now = trio.current_time()
            if now >= self._open_by:
                why = f"its file was not opened for {self._options.open_timeout:g} s"
            elif now >= end:
                why = f"it was stopped for {self._options.max_stop:g} s"
            elif self._reads_under_way:  # a read that is not answered is a read
                self._touch()
                continue
            elif now >= self._last_read + idle:
                why = f"its file was not read for {idle:g} s"
            else:
                continue
            self.let_go(why)
            logger.warning("process %d: let go, %s", self.process.pid, why)
            return

    @property
    def is_overdue(self) -> bool:
        """True where max_stop was over some time ago, and it was not let go."""
        return not self._released.is_set() and trio.current_time() > self._held_until + _OVERDUE

    def let_go(self, why: str = "") -> None:
        """Let the process run on.  Handles keep what was made of the header; memory is EIO."""
        self._why_over = self._why_over or why
        self._stopped.let_go()
        self._holder.drop()
        self._released.set()
        self._notify_pollers()

    def forget(self) -> None:
        """Nobody can read its header any more."""
        self._forget()

    def _forget(self) -> None:
        self._stopped.forget()
        self._core = self._reading = None

    @property
    def is_finished(self) -> bool:
        return self._finished.is_set()

    @property
    def is_tracing(self) -> bool:
        """True until the last thread of the process is let go: a copy is read for longer."""
        is_copied = self._holder.is_filled and self._settled.is_set()
        return not (self.is_finished or is_copied)

    async def untraced(self) -> None:
        """Until nobody is traced any more on account of this stop, which is over or a copy."""
        await (self._settled if self._holder.is_filled else self._finished).wait()

    async def finished(self) -> None:
        """Until nobody is traced any more on account of this stop."""
        await self._finished.wait()

    def _log_end(self) -> None:
        if (core := self._core) is not None and self._error is None:
            logger.info(
                "process %d: %s by process %d (uid %d): %d threads (%d did not stop%s), "
                "ready in %.1f ms, stopped for %.1f ms, %d bytes read, %d pages unreadable%s",
                self.process.pid,
                "opened" if self._was_open else "looked up",
                self.opener.pid,
                self.opener.uid,
                core.threads,
                core.unresponsive_threads,
                f", {starved} got no CPU" if (starved := core.starved_threads) else "",
                self._stopped.ready_seconds * 1e3,
                self._stopped.stopped_seconds * 1e3,
                self._bytes,
                core.unreadable,
                self._how_held(),
            )

        if late := self._stopped.late:
            logger.info(
                "process %d: let go but for thread %s, which is waited for until it has stopped",
                self.process.pid,
                ", ".join(map(str, late)),
            )

    def _how_held(self) -> str:
        if why := self._holder.not_copied:
            return f", held (not copied: {why})"
        return ", copied" if self._holder.was_filled else ""

    def report(self) -> dict[str, Any]:
        """What `gcorefs status` tells of it.  Times in milliseconds.  Also for other threads."""
        state, why = self._state()
        core = self._core
        return {
            "pid": self.process.pid,
            "name": self._stopped.comm.decode("utf-8", "replace"),
            "state": state,
            "why": why,
            "began": datetime.fromtimestamp(self.began / 1e9, UTC).isoformat(timespec="seconds"),
            "threads": core.threads if core is not None else 0,
            "threads_not_stopped": core.unresponsive_threads if core is not None else 0,
            **self._holder.facts(),
            "read_through": core.read_through if core is not None else readv.way(),
            "ready_ms": round(self._stopped.ready_seconds * 1e3, 1),
            "stopped_ms": round(self._stopped.stopped_seconds * 1e3, 1),
            "bytes_read": self._bytes,
            "pages_unreadable": core.unreadable if core is not None else 0,
            "size": self.size,
        }

    def _state(self) -> tuple[str, str]:
        if self._error is not None:
            return "failed", str(self._error)
        if self._stopped.is_dead:
            return "died", ""
        if self._released.is_set():
            return "let go", self._why_over
        waits = [] if self._handles else ["waits to be opened"]
        if self._holder.is_filled:
            return "copied", "".join(waits)
        why = [f"not copied: {self._holder.not_copied}"] if self._holder.not_copied else []
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

    # Its handles.

    def join(self, opener: Opener, nonblocking: bool) -> Handle:
        handle = Handle(self, opener, nonblocking)
        self._handles[handle] = None
        self.holders.open(opener)
        self._was_open = True
        self._open_by = inf
        self._touch()
        return handle

    def await_open(self, opener: Opener) -> None:
        """Hold it without a handle for open_timeout from now on: `opener` is about to open it.

        Where it has handles the last of them lets the process go all the same.
        """
        self._was_looked_up = True
        if self._handles:
            return
        self.holders.look_up(opener)
        self._open_by = trio.current_time() + self._options.open_timeout
        if self._holding is not None:
            self._holding.deadline = min(self._holding.deadline, self._open_by)

    def leave(self, handle: Handle) -> None:
        """The last one to leave lets the process go, unless the file was looked up to be read and
        nobody has: bsdtar opens it once to look for holes, and again to read it."""
        del self._handles[handle]
        self.holders.close(handle.opener)
        if handle.reader is not None:
            handle.reader.close()
        if self._handles:
            return
        if self._was_looked_up and not self._bytes and not self.is_over:
            self.await_open(handle.opener)
        else:
            self.let_go()

    async def is_taken(self) -> bool:
        """True once the size is known; False where the last handle was closed before.

        What the stop failed with; EIO where the process died or somebody let it go.
        """
        await self._ready.wait()
        was_closed = self._released.is_set() and not self._why_over
        if self._error is not None and not (was_closed and self._error.reason is Reason.LET_GO):
            raise self._error.with_traceback(None)
        if self._stopped.is_dead:
            raise ProcessError(Reason.DIED, self.process.pid)
        if self.is_over and not was_closed:
            raise ProcessError(Reason.LET_GO, self.process.pid, self._why_over)
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
            self._touch()
        return data

    async def read(self, handle: Handle, offset: int, length: int) -> memoryview:
        """Bytes of the file, fewer only at its end and before what could not be had in time,
        good until the event loop turns.  Where they are not at hand.

        EAGAIN: not ready and non-blocking; EIO: died, let go, or not in time; and whatever
        the stop failed with.
        """
        if not self.is_ready and handle.nonblocking:
            raise BlockingIOError(errno.EAGAIN, "not every thread is recorded yet")
        self._reads_under_way += 1
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
                handle.reader = reading.reader(self._workers.windows, handle.opener.uid)
            # Once it is over, nothing that was read ahead is to be had any more.
            reader = None if self.is_over else handle.reader
            data = await reading.fetch(reader, offset, length)
            self._bytes += length
            return data
        finally:
            self._reads_under_way -= 1
            self._touch()

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

    def _notify_pollers(self) -> None:
        for handle in self._handles:
            if handle.poll_handle is not None:
                # The kernel may have forgotten it: whoever polled has gone.
                with contextlib.suppress(OSError):
                    handle.poll_handle.notify()
                handle.poll_handle = None

    def _on_end(self) -> None:
        """The process died, or is held no longer for another reason: no further open joins."""
        # In the tracer's thread.
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._end)

    def _end(self) -> None:
        if not self._holder.is_filled:  # else it does not matter any more
            self.let_go("a thread of it could not be recorded")

    def _touch(self) -> None:
        self._last_read = trio.current_time()
