"""Short pieces of work that the event loop has another thread do, and waits for in place.

A page of another process is there within microseconds, nearly always, and a reader waits for it.
But whoever asks the kernel for it takes mmap_lock of that process, which others may hold for as
long as they like (mm/process_vm_access.c, process_vm_rw_single_vec), so the event loop never asks.
It hands the read over to a thread that is always there, and waits for the answer for a millisecond
at most.  What is not done by then is late: it goes on, a task may wait for it, and the loop turns.

Measured with 4 KiB of another process, in microseconds (medians, two cores): 7 in the event loop
itself; 23 with a pair of eventfd(2) and a wait in place; 50 to 65 with locks, with queues, or with
an eventfd that trio waits for; 70 with a busy wait; 110 with trio's run_sync_soon; 190 with trio's
threads.  A write to an eventfd lets go of the interpreter lock before the other thread wakes; a
lock or a queue wakes it first, and it then waits for the interpreter.
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
"""Seconds that the event loop waits in place: the least that epoll_wait(2) knows."""

_BACK_OFF = 0.1
"""Seconds for which nothing of a user is waited for in place once something was late: one who
has everything come late wastes a hundredth of the event loop's time."""

_MOST_IDLE = 4

_ONE = (1).to_bytes(8, "little")

Work = Callable[[memoryview], bool]
"""Fills a buffer, in a thread.  False where that would take waiting.  OSError."""


class Errand:
    """One piece of work, from when it is handed over until its runner is given back."""

    def __init__(self, runner: "_Runner", work: Work, length: int) -> None:
        self.is_done = False
        self.is_over = False
        """Its runner is at work for somebody else, or will be."""
        self.is_awaited = False
        """Somebody will take the result: one at a time."""
        self.token: trio.lowlevel.TrioToken | None = None
        """Of the event loop that is to be told; None while it waits in place."""
        self._runner = runner
        self._work = work
        self._length = length
        self._is_filled = False
        self._error: BaseException | None = None
        self._arrived: trio.Event | None = None

    def run(self, buffer: memoryview) -> None:
        """In the runner's thread."""
        try:
            self._is_filled = self._work(buffer[: self._length])
        except BaseException as error:  # handed to whoever takes the result
            self._error = error
        finally:
            self.is_done = True

    def arrive(self) -> None:
        """In the event loop, once it is done."""
        if self._arrived is not None:
            self._arrived.set()
        if not self.is_awaited:
            self._give_back()

    async def arrival(self) -> None:
        """Until it is done.  One who gives up leaves it to itself."""
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
        """What was read, good until the event loop turns; None where that would take waiting.

        Once it is done, and at most once.  Raises what the work raised.
        """
        self._give_back()
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error.with_traceback(None)
            finally:
                del error  # this frame is in its traceback: nothing is to go in a circle
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
        # Edge-triggered: nobody has to read the counter.
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
        """Until it is done, or for a moment."""
        while not errand.is_done:  # the edge may be that of the errand before
            if not self._epoll.poll(_PATIENCE, 1):
                return

    def give_back(self) -> None:
        self._errand = None
        self._give_back(self)

    def end(self) -> None:
        os.write(self._go, _ONE)  # and no errand

    def _run(self) -> None:
        while os.read(self._go, len(_ONE)) and (errand := self._errand) is not None:
            errand.run(self.buffer)
            os.write(self._done, _ONE)
            # In this order, and the reverse in Errands: one of the two sees the other.
            if errand.token is not None:
                with contextlib.suppress(trio.RunFinishedError):
                    errand.token.run_sync_soon(errand.arrive)
            del errand  # and what it holds


class Errands:
    """The runners of one mount: as many as there are errands under way, and a few."""

    def __init__(self) -> None:
        self._idle: list[_Runner] = []
        self._late_until: dict[int, float] = {}

    def begin(self, uid: int, work: Work, length: int) -> Errand:
        """Hand `work` over for the user `uid`, and wait for a moment, if nothing of theirs was late
        just before.  Where that is too short it is not `is_done`.  NoThread, EMFILE.
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
