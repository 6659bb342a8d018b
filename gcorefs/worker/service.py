"""What a worker does with each message.

The main thread receives the messages of the server, a second thread carries out the stop, and the
tracer has a thread of its own (sources/tracer.py).  If the server ends, or if the process stands
still for too long, the main thread lets the process go.
"""

import contextlib
import gc
import os
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from math import inf
from queue import SimpleQueue

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore.header_store import Pieces
from gcorefs.errors import Why
from gcorefs.hold.uncopied import HoldProcess
from gcorefs.kernel import own_memory
from gcorefs.process import bounded_questions
from gcorefs.process.child_memory import NotForked
from gcorefs.process.errors import ProcessError, Reason, is_no_memory, limit_met, named
from gcorefs.process.late import LATE
from gcorefs.process.mem import MemFile
from gcorefs.process.threads import NoThread, start_thread
from gcorefs.process.worker_threads import Worker
from gcorefs.stopped import Stop
from gcorefs.worker import messages as say
from gcorefs.worker.channel import Channel
from gcorefs.worker.header import HeaderWriter
from gcorefs.worker.page import SharedProgress

_GRACE = 2.0
"""Seconds that the server has after max_stop.  It lets the process go itself, and says why."""

_NEARLY = 0.01
"""Seconds that a request has to fail when its process is let go."""

_MOST_GROWTH = 4 << 20
"""A worker that has grown by more bytes during a stop carries out no other stop."""


def serve(channel: Channel) -> None:
    """Carry out one stop after the other, until the server ends the conversation or is gone."""
    channel.send(say.Hello(os.getpid()))
    carried: _Carried | None = None
    while (message := _next_message(channel, carried)) is not None:
        match message:
            case say.Take():
                carried = _Carried(channel, message)
                carried.begin()
            case say.MakeCore() if carried is not None:
                carried.make(message)
            case say.Held() if carried is not None:
                carried.answers.put(message)
            case say.Fork() if carried is not None:
                carried.fork(message.number)
            case say.EndChild() if carried is not None:
                carried.end_child(message)
            case say.Release() if carried is not None:
                carried.release(message.may_be_late)
    if carried is not None:
        carried.end()


def _next_message(channel: Channel, carried: "_Carried | None") -> object:
    while True:
        try:
            return channel.receive(None if carried is None else carried.seconds_left())
        except TimeoutError:
            assert carried is not None
            carried.stop.let_go()


class _Carried:
    """The stop that this process carries out."""

    def __init__(self, channel: Channel, take: say.Take) -> None:
        self._at_first = _own_memory()
        progress = SharedProgress(take.page)
        self.stop = Stop(take.process, take.opener, take.policy, self._tell_end, progress)
        self.answers: SimpleQueue[say.Held | None] = SimpleQueue()
        self._channel = channel
        self._number = take.number
        self._max_stop = take.max_stop or inf
        self._worker = Worker("gcorefs-stop")
        self._may_reap = threading.Event()
        bounded_questions.avoid(take.silent)

    def seconds_left(self) -> float | None:
        """Seconds until the process has stood still for too long; None if there is no limit."""
        stopped_at = self.stop.progress.stopped_at
        if self._max_stop == inf or self.stop.life.is_let_go:
            return None
        # If it has not been stopped yet, the time has not begun.
        since = time.monotonic() - stopped_at if stopped_at else 0.0
        return max(0.001, self._max_stop + _GRACE - since)

    def begin(self) -> None:
        self._submit(self._number, self._take)

    def make(self, message: say.MakeCore) -> None:
        self._max_stop = max(self._max_stop, message.max_stop or inf)
        self._submit(message.number, partial(self._make, message))

    def release(self, may_be_late: bool) -> None:
        LATE.permit(may_be_late)
        self._close()
        silent = bounded_questions.silent()
        is_busy = not self._worker.has_ended(_NEARLY)
        self._send(say.Released(self.stop.late, silent, is_busy, self.stop.child.exists))
        try:
            start_thread("gcorefs-idle", self._tell_idle)
        except NoThread:
            self._tell_idle()  # in this thread: the next stop of the process must wait meanwhile

    def fork(self, number: int) -> None:
        """In a thread of its own: that of the stop waits for what the server says of it."""
        try:
            start_thread("gcorefs-fork", self._try, number, partial(self._fork, number))
        except NoThread as error:
            self._send(say.Forked(number, None, False, str(error)))

    def end_child(self, message: say.EndChild) -> None:
        if message.number != self._number:  # this process is at the next stop already
            return
        if not message.may_reap:
            self.stop.child.kill()
            return
        self._may_reap.set()
        try:
            start_thread("gcorefs-end", self.stop.child.end)
        except NoThread:
            self.stop.child.end()

    def end(self) -> None:
        """The server is gone, or needs this stop no more."""
        self._close()
        self.stop.child.end()
        self.stop.wait_late(threading.TIMEOUT_MAX)

    def _close(self) -> None:
        self.stop.let_go()
        self.answers.put(None)  # wake `_ask`, because the server does not answer it any more
        self.stop.close()
        self._worker.close()

    # In the thread of the stop.

    def _submit(self, number: int, work: Callable[[], None]) -> None:
        try:
            self._worker.submit(self._try, number, work)
        except NoThread as error:
            self._fail(number, error)

    def _try(self, number: int, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # tell the server
            self._fail(number, error)

    def _take(self) -> None:
        self.stop.take()
        memory = self.stop.memory
        lost = memory.unreadable_pages
        self._channel.send(say.Taken(self.stop.comm, memory.mem, memory.ways, lost.no_loss))

    def _make(self, message: say.MakeCore) -> None:
        number = message.number
        holder = _AskedHolder(partial(self._ask, number)) if message.is_copy else HoldProcess()
        core = self.stop.core(message.policy, holder)
        header = HeaderWriter(core.layout)
        header.write(core.layout.notes_offset if core.is_coming else core.layout.memory_offset)
        lost = self.stop.memory.unreadable_pages.ranges()
        self._channel.send(say.Made(number, core.plan(Pieces()), header.file, header.written, lost))
        if header.is_complete:
            self._give_back()
        else:
            start_thread("gcorefs-header", self._try, number, partial(self._go_on, number, header))

    def _fork(self, number: int) -> None:
        is_own = False
        try:
            child = self.stop.child.make(self.stop.standstill())
            is_own = child.is_own
            self._send(say.Forked(number, MemFile(child.pid, child.pid), is_own, ""))
        except (NotForked, ProcessError, OSError, MemoryError) as error:
            self._send(say.Forked(number, None, is_own, str(error)))

    def _go_on(self, number: int, header: HeaderWriter) -> None:
        """In a thread of its own."""
        while not header.is_complete:
            stored = header.write_row()
            self._channel.send(say.HeaderGrew(number, header.written, stored))
        self._give_back()

    def _give_back(self) -> None:
        """Give the kernel what a large core took while it was made.  A process may be held for
        long, and malloc(3) keeps what is freed: 9 MiB of 61 after a stop of 10,000 threads."""
        if self._growth() > _MOST_GROWTH:
            own_memory.trim()

    def _growth(self) -> int:
        """By how many bytes this process has grown since the stop began."""
        return _own_memory() - self._at_first

    def _ask(self, number: int, size: int) -> Mapping[str, str]:
        self._channel.send(say.Fit(number, size))
        answer = self.answers.get()
        while answer is not None and answer.number != number:  # it came too late for another core
            answer = self.answers.get()
        if answer is None or answer.facts is None:
            self.stop.check()  # if the process died, the server lets it go because of that
            raise ProcessError(Reason.LET_GO, self.stop.process.pid)
        return answer.facts

    # What the worker tells the server.

    def _tell_end(self) -> None:
        """In the tracer's thread."""
        self._send(say.Ended())

    def _tell_idle(self) -> None:
        self.stop.wait_late(threading.TIMEOUT_MAX)
        if self.stop.child.exists:  # it is dead, but the process has not reaped it yet
            self._may_reap.wait()
            self.stop.child.end()
        bounded_questions.wait_for_answers()
        self._worker.join(threading.TIMEOUT_MAX)
        gc.collect()  # automatic collection is off, so that none interrupts a stop
        self._send(say.Idle(self._number, self._growth() < _MOST_GROWTH))

    def _fail(self, number: int, error: BaseException) -> None:
        pid = self.stop.process.pid
        reason: Why = Reason.SURPRISE
        detail = trace = ""
        if isinstance(error, ProcessError):
            reason, detail = error.reason, error.detail
        elif isinstance(error, NoThread):
            reason = Reason.NO_THREAD
        elif is_no_memory(error):
            reason = Reason.NO_MEMORY
        elif isinstance(error, OSError) and (limit := limit_met(error)) is not None:
            reason, detail = limit, named(error)
        else:
            trace = "".join(traceback.format_exception(error))
        self._send(say.Failed(number, reason, pid, detail, trace))

    def _send(self, message: object) -> None:
        with contextlib.suppress(OSError):  # the server is gone: the main thread sees that too
            self._channel.send(message)


def _own_memory() -> int:
    """Bytes of this process that no file backs (proc(5), statm)."""
    with open("/proc/self/statm", "rb") as file:
        _, resident, shared, *_ = map(int, file.read().split())
    return (resident - shared) * PAGE_SIZE


class _AskedHolder(HoldProcess):
    """The holder of a core whose memory the server copies, if it has room for that."""

    def __init__(self, ask: "partial[Mapping[str, str]]") -> None:
        self._ask = ask
        self._facts: Mapping[str, str] = {}

    def fit(self, size: int) -> None:
        self._facts = self._ask(size)

    def facts(self) -> Mapping[str, str]:
        return self._facts
