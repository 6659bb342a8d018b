"""Short work that another thread does while the event loop waits in place.

A page of another process is nearly always read within microseconds, and a reader waits for it.  But
the read takes mmap_lock of that process, which others may hold for as long as they like
(mm/process_vm_access.c, process_vm_rw_single_vec).  So the event loop never reads it itself.  It
gives the read to a thread that is always there, and waits at most a millisecond for the answer.  If
the read is not done by then, it is late: it goes on, a task may wait for it, and the loop turns.

Measured with 4 KiB of another process, in microseconds (medians, two cores): 7 in the event loop
itself; 23 with a pair of eventfd(2) and a wait in place; 50 to 65 with locks, with queues, or with
an eventfd that trio waits for; 70 with a busy wait; 110 with trio's run_sync_soon; 190 with trio's
threads.  A write to an eventfd releases the interpreter lock before the other thread wakes.  A lock
or a queue wakes the thread first, and it then waits for the interpreter lock.
"""

import contextlib
import os
import select
import time
from collections.abc import Callable

import trio

from gcorefs.mount.buffers import LARGEST_REQUEST, fresh
from gcorefs.process.threads import start_thread

_PATIENCE = 0.001
"""Seconds that the event loop waits in place: the shortest time-out of epoll_wait(2)."""

_BACK_OFF = 0.1
"""Seconds without a wait in place for a user after something of theirs was late.  So a user whose
reads are always late wastes a hundredth of the event loop's time."""

_MOST_IDLE = 4

_ONE = (1).to_bytes(8, "little")

Work = Callable[[memoryview], bool]
"""Fills a buffer, in a thread.  False if it would have to wait.  OSError."""


class Errand:
    """One piece of work.  It begins with the handover and ends when its runner is given back."""

    def __init__(self, runner: "_Runner", work: Work, length: int) -> None:
        self.is_done = False
        self.is_over = False
        """True if its runner works for somebody else, or will."""
        self.is_awaited = False
        """True if a task will take the result.  Only one task may."""
        self.token: trio.lowlevel.TrioToken | None = None
        """The event loop that is told the end; None while the event loop waits in place."""
        self._runner = runner
        self._work = work
        self._length = length
        self._is_filled = False
        self._failure: list[BaseException] = []
        self._arrived: trio.Event | None = None

    def run(self, buffer: memoryview) -> None:
        """Do the work, in the runner's thread."""
        try:
            self._is_filled = self._work(buffer[: self._length])
        except BaseException as error:  # handed to the caller of `take`
            self._failure.append(error)
        finally:
            self.is_done = True

    def arrive(self) -> None:
        """It is done.  Called in the event loop."""
        if self._arrived is not None:
            self._arrived.set()
        if not self.is_awaited:
            self._give_back()

    async def arrival(self) -> None:
        """Wait until it is done.  It goes on if the caller gives up."""
        self.is_awaited = True
        self._arrived = trio.Event()
        try:
            await self._arrived.wait()
        except BaseException:
            self.is_awaited = False
            if self._arrived.is_set():
                self._give_back()
            raise

    def take(self) -> memoryview | None:
        """The bytes, good until the event loop turns; None if the work would have to wait.

        Call it once, after the work is done.  Raises the exception of the work.
        """
        self._give_back()
        if self._failure:  # pop it: its traceback refers to this frame, which makes a cycle
            raise self._failure.pop().with_traceback(None)
        return self._runner.buffer[: self._length] if self._is_filled else None

    def _give_back(self) -> None:
        if not self.is_over:
            self.is_over = True
            self._runner.give_back()


class _Runner:
    """A thread that does one errand at a time, and the buffer that it fills."""

    def __init__(self, give_back: Callable[["_Runner"], None]) -> None:
        """NoThread; EMFILE."""
        self._go = self._done = -1
        self.buffer = memoryview(fresh(LARGEST_REQUEST))
        self._give_back = give_back
        self._errand: Errand | None = None
        self._go = os.eventfd(0)
        self._done = os.eventfd(0)
        # Edge-triggered: nobody needs to read the counter.
        self._epoll = select.epoll(1)
        self._epoll.register(self._done, select.EPOLLIN | select.EPOLLET)
        start_thread("gcorefs-errands", self._run)

    def __del__(self) -> None:
        for descriptor in (self._go, self._done):
            if descriptor >= 0:
                os.close(descriptor)

    def begin(self, work: Work, length: int) -> Errand:
        errand = self._errand = Errand(self, work, length)
        os.write(self._go, _ONE)
        return errand

    def wait(self, errand: Errand) -> None:
        """Wait until it is done, but only for a moment."""
        while not errand.is_done:  # the edge may be from the previous errand
            if not self._epoll.poll(_PATIENCE, 1):
                return

    def give_back(self) -> None:
        self._errand = None
        self._give_back(self)

    def end(self) -> None:
        os.write(self._go, _ONE)  # without an errand: the thread ends

    def _run(self) -> None:
        while os.read(self._go, len(_ONE)) and (errand := self._errand) is not None:
            errand.run(self.buffer)
            os.write(self._done, _ONE)
            # In this order; Errands has the reverse order.  So one of the two sees the other.
            if errand.token is not None:
                with contextlib.suppress(trio.RunFinishedError):
                    errand.token.run_sync_soon(errand.arrive)
            del errand  # frees what it refers to


class Errands:
    """The runners of one mount: one for each errand that is under way, and a few spare ones."""

    def __init__(self) -> None:
        self._idle: list[_Runner] = []
        self._late_until: dict[int, float] = {}

    def begin(self, uid: int, work: Work, length: int) -> Errand:
        """Give `work` to a thread for the user `uid`, and wait a moment for it, unless work of that
        user was late a moment ago.  `is_done` is False if that was too short.  NoThread, EMFILE.
        """
        runner = self._idle.pop() if self._idle else _Runner(self._take_back)
        errand = runner.begin(work, length)
        if self._may_wait(uid):
            runner.wait(errand)
            if not errand.is_done:
                self._late_until[uid] = time.monotonic() + _BACK_OFF
        if not errand.is_done:
            errand.token = trio.lowlevel.current_trio_token()
            if errand.is_done:
                errand.token.run_sync_soon(errand.arrive)
        return errand

    def _may_wait(self, uid: int) -> bool:
        until = self._late_until.get(uid)
        if until is not None and time.monotonic() < until:
            return False
        self._late_until.pop(uid, None)
        return True

    def _take_back(self, runner: _Runner) -> None:
        if len(self._idle) < _MOST_IDLE:
            self._idle.append(runner)
        else:
            runner.end()
