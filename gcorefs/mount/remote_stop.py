"""A stop that a worker carries out, as the event loop sees it.

It has the interface of gcorefs.stopped.Stop, for one process.  The worker makes the header, and the
server reads the memory itself.  Everything here runs in the event loop, except `check`.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import trio

from gcorefs.core import Core
from gcorefs.hold.holder import Holder
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.lifecycle import Lifecycle, Phase
from gcorefs.mount.answers import Answers, error_of, new_number
from gcorefs.mount.crew import Link, NoAnswer
from gcorefs.mount.log import logger
from gcorefs.mount.options import MountPolicy
from gcorefs.mount.pools import Pools
from gcorefs.mount.remote_child import RemoteChild
from gcorefs.policy import Policy
from gcorefs.process.access import Opener
from gcorefs.process.child_memory import ChildMemory, NotForked
from gcorefs.process.errors import ProcessError, Reason, limit_met, named, told
from gcorefs.process.memory import Memory
from gcorefs.process.progress import Progress
from gcorefs.process.unreadable_pages import UnreadablePages
from gcorefs.worker import messages as say
from gcorefs.worker.page import SharedProgress, new_page

T = TypeVar("T")


class RemoteStop:
    """A process that stands still from `begin` to `let_go`."""

    def __init__(
        self,
        process: Process,
        opener: Opener,
        policy: Policy,
        pools: Pools,
        on_end: Callable[[], None],
    ) -> None:
        """`on_end`: called when the process died while it was held, or when nobody may join the
        stop any more for another reason."""
        self.process = process
        self.uid = pools.owner(opener.uid)
        """The user who is charged."""
        self.life = Lifecycle()
        self.comm = b""
        """The name of its program; empty before the first core."""
        self.ready_seconds = 0.0
        """The time from the first interrupt until the header of the first core was made."""
        self.late: Sequence[int] = ()
        """Threads that are still traced after all others have been let go."""
        self.why_ended = "one of its threads could not be recorded"
        """Why nobody may join the stop any more, if `on_end` is called for a living process."""
        self._opener = opener
        self._policy = policy
        self._pools = pools
        self._on_end = on_end
        self._progress = Progress()
        self._link: Link | None = None
        self._memory: Memory | None = None
        self._taken = trio.Event()
        self._untraced = trio.Event()
        self._is_released = False
        self._failure: Exception | None = None
        self._take_number = new_number()
        self._answers = Answers()
        self.child = RemoteChild(self._take_number, self._answers)
        """The one that the process makes, if a core is to be in it (hold=fork)."""

    # Requests of the server.

    async def begin(self, max_stop: float) -> None:
        """Let a worker stop the process and record its threads.  `core` waits for that.

        ProcessError LET_GO, NO_WORKER, NO_FILES, NO_SUCH_SIZE.
        """
        if not self.life.advance(Phase.STOPPING):
            raise ProcessError(Reason.LET_GO, self.process.pid)
        try:
            await self._have_stopped(max_stop)
        except (BrokenPipeError, NoAnswer) as error:
            raise ProcessError(Reason.NO_WORKER, self.process.pid) from error
        except OSError as error:
            reason = limit_met(error)
            if reason is None:
                raise
            raise ProcessError(reason, self.process.pid, named(error)) from error

    async def _have_stopped(self, max_stop: float) -> None:
        """The errors of new_page, Crew.take and Link.say."""
        page = new_page()
        crew = self._pools.crew
        link = await crew.take(self)
        if self._is_released:  # while it waited
            crew.dismiss(link)
            raise self._over()
        self._progress = SharedProgress(page)
        self._link = link
        try:
            link.say(
                say.Take(
                    self._take_number,
                    self.process,
                    self._opener,
                    self._policy,
                    max_stop,
                    page,
                    crew.silent(),
                )
            )
        except OSError:
            self._link = None
            crew.dismiss(link)
            raise

    async def memory(self) -> Memory:
        """The memory of the process, when it stands still.  ProcessError, WorkerFailed."""
        await self._taken.wait()
        self._raise_failure()
        if self._memory is None:
            raise self._over()
        return self._memory

    async def core(self, policy: MountPolicy, holder: Holder) -> Core:
        """A core of the process.  The caller has prepared `holder`.

        ProcessError: there is no stop or no such core.  WorkerFailed.
        """
        link = self._link
        if link is None or self._is_released:
            self._raise_failure()
            raise self._over()
        number = new_number()
        answers = self._answers.to(number)
        try:
            is_copy = holder.is_copy
            link.say(say.MakeCore(number, policy.policy, policy.max_stop, is_copy))
            await self._taken.wait()
            self._raise_failure()
            if self._memory is not None:
                holder.look(self._memory)
            async for answer in answers:
                match answer:
                    case say.Fit():
                        await self._answer_fit(link, holder, answer)
                    case say.Failed():
                        raise error_of(answer)
                    case say.Made():
                        return await self._core(answer, holder)
        finally:
            self._answers.forget(number)
            with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel):
                while True:
                    self.hear(answers.receive_nowait())
        self._raise_failure()
        raise self._over()

    def _fork(self) -> ChildMemory:
        """In a thread of trio.  NotForked."""
        forked = trio.from_thread.run(self._have_forked)
        if forked.mem is None:
            raise NotForked(forked.why_not)
        return ChildMemory(forked.mem, _nothing)

    async def _have_forked(self) -> say.Forked:
        link = self._link
        if link is None or self._is_released:
            raise self._over()
        forked = await self.child.make(link)
        if forked is None:
            raise self._over()
        return forked

    async def _answer_fit(self, link: Link, holder: Holder, asked: say.Fit) -> None:
        facts = None
        try:
            facts = await self._block(partial(_fit, holder, asked.size))
        finally:
            # Also if nobody wants the core any more: the worker waits for an answer.
            link.say(say.Held(asked.number, facts))

    async def _core(self, made: say.Made, holder: Holder) -> Core:
        memory = self._memory
        assert memory is not None
        header = self._answers.header(made)
        memory.unreadable_pages.add_ranges(made.unreadable)
        plan = replace(made.plan, layout=made.plan.layout.with_header(header))
        make = partial(Core, self.process.pid, plan, memory, holder, self.check, header.made)
        # A copy must know to which program it belongs.
        with told(self.process.pid, Reason.DIED):
            core = await self._block(make) if holder.is_copy else make()
        self.check()
        if not self.ready_seconds:
            self.ready_seconds = self._progress.stopped_seconds
        return core

    async def _block(self, call: Callable[[], T]) -> T:
        return await self._pools.block(self.process.pid, self.uid, call)

    def run_on(self) -> None:
        """Let every thread run on.  Copied memory stays readable."""
        self.life.advance(Phase.COPIED)
        self._release()

    def let_go(self) -> None:
        """Let every thread run on.  The finished part of a header stays readable; memory, and the
        unfinished part, give EIO from now on."""
        self.life.advance(Phase.LET_GO)
        self._release()

    def _release(self) -> None:
        if self._is_released:
            return
        self._is_released = True
        if self._link is None:
            self._untraced.set()
        else:
            self._link.say(say.Release(self._pools.crew.may_stay(self)))

    async def untraced(self) -> None:
        """Wait until no thread is traced any more, except those in `late`."""
        await self._untraced.wait()

    @property
    def is_untraced(self) -> bool:
        return self._untraced.is_set()

    def close_memory(self) -> None:
        """Read the process no more.  Call this in a thread: it closes files of /proc, which may
        take long."""
        self._memory = None

    def forget(self) -> None:
        """Drop the headers, which nobody can read any more."""
        self._answers.drop_headers()

    # The state of the stop.

    @property
    def is_dead(self) -> bool:
        """True if the process died before its memory was copied."""
        return self._progress.is_dead and not self.life.has_been(Phase.COPIED)

    @property
    def woken(self) -> int:
        """How many threads that were left asleep have run since they were recorded."""
        return self._progress.woken

    @property
    def stopped_seconds(self) -> float:
        """How long the process stood still, until its release or until now."""
        return self._progress.stopped_seconds

    def _over(self) -> ProcessError:
        return ProcessError(Reason.DIED if self.is_dead else Reason.LET_GO, self.process.pid)

    def check(self) -> None:
        """EIO if the memory of the process may have changed since the stop, and must not have.  For
        any thread."""
        if self._policy.is_read_live and self.life.phase in (Phase.COPIED, Phase.PAST):
            return
        progress = self._progress
        is_let_go = not self.life.stands_still or progress.is_over or progress.is_tracer_gone
        if is_let_go or self.is_dead:
            raise self._over()

    # Messages of the worker.

    def hear(self, message: object) -> None:
        if isinstance(message, say.Forked):
            self.child.hear(message)
        if self._answers.hear(message):
            return
        match message:
            case say.Taken():
                self._take(message)
            case say.Fit() if self._link is not None:  # nobody waits for this core any more
                self._link.say(say.Held(message.number, None))
            case say.Failed() if message.number == self._take_number:
                self._fail(error_of(message))
            case say.Ended():
                self._end()
            case say.Released():
                self._be_untraced(message)
            case say.Idle() if message.number == self._take_number and self._link is not None:
                self.late = ()
                self.child.hear_end()
                self._pools.crew.rest(self._link, message.may_go_on)

    def _take(self, taken: say.Taken) -> None:
        self.comm = taken.comm
        lost = UnreadablePages(taken.no_loss)
        self._memory = Memory(taken.mem, taken.ways, lost, self.check, self._fork)
        self.life.advance(Phase.HELD)
        self._taken.set()

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._taken.set()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _end(self) -> None:
        if self._progress.is_dead:
            self.life.advance(Phase.DIED)
        self._on_end()

    def _be_untraced(self, released: say.Released) -> None:
        self.late = released.late
        self.life.advance(Phase.ENDED)
        assert self._link is not None
        self._pools.crew.give_back(self._link, released)
        # Questions for a core stay open: the worker still answers them, and knows best why there is
        # no core.
        for header in self._answers.headers:
            header.fail(self._over())
        self._untraced.set()

    def part(self) -> None:
        """The stop is over, and another one has its worker now.  That may have been at work on a
        core, and nobody hears the answer."""
        self._close_questions()

    def lose(self, cause: OSError | None) -> None:
        """The conversation with the worker has ended, so the kernel lets the process go."""
        pid = self.process.pid
        self.child.hear_end()
        if self._untraced.is_set():
            self._close_questions()
            return
        if cause is not None:
            error = ProcessError(Reason.NO_FILES, pid, named(cause))
        elif self._link is not None and not self._link.pid:
            error = ProcessError(Reason.NO_THREAD, pid)
        else:
            error = ProcessError(Reason.SURPRISE, pid, "its worker was killed")
            logger.error("process %d: its worker was killed, and the kernel let it go", pid)
        self.why_ended = error.detail or error.reason.text
        self._is_released = True
        self._close(error)
        self._on_end()

    def _close(self, error: ProcessError) -> None:
        """The worker sends no more messages: give `error` to everybody who waits for one."""
        if self._failure is None:
            self._failure = error
        self._close_questions()
        for header in self._answers.headers:
            header.fail(error)
        self._untraced.set()

    def _close_questions(self) -> None:
        self._taken.set()
        self._answers.end()


def _nothing() -> None:
    """`RemoteChild.end` ends the child, from the event loop."""


def _fit(holder: Holder, size: int) -> dict[str, str]:
    holder.fit(size)
    return dict(holder.facts())
