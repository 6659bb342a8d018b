"""What callers may see of processes: asked in threads, with a time limit, on the caller's account.

sight.py has the questions, and questions.py explains why nothing here asks in the event loop.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import TypeVar

from pyfuse3 import RequestContext

from gcorefs import tuning
from gcorefs.errors import Refusal
from gcorefs.kernel.proc import current_call
from gcorefs.look import Look, estimate, rough_estimate
from gcorefs.mount.cores import SharedCore
from gcorefs.mount.inodes import Inode
from gcorefs.mount.limits import Budget
from gcorefs.mount.log import logger
from gcorefs.mount.questions import Questions
from gcorefs.mount.shared import Shared
from gcorefs.mount.sight import Caller, Sight, is_everybodys
from gcorefs.process.access import Opener
from gcorefs.process.errors import Reason
from gcorefs.steps import Step

_SIZE_TIMEOUT = 5.0

_T = TypeVar("_T")


class Looks:
    def __init__(self, sight: Sight, questions: Questions, requests: Budget) -> None:
        self._sight = sight
        self._questions = questions
        # Separate threads: a slow look through the mappings delays no other question.
        self._estimates = questions.apart()
        self._requests = requests
        self._pids = Shared[list[int]]()
        self._guess_until: dict[int, float] = {}  # by the owner of the processes

    async def viewer(self, ctx: RequestContext) -> Opener | None:
        """The caller of a listing, if /proc may hide processes from it; else None."""
        if self._sight.is_known_open(ctx.uid):
            return None
        return await self._ask(0, ctx.uid, functools.partial(self._sight.viewer, _caller(ctx)))

    async def pids(self, viewer: Opener | None, uid: int) -> list[int]:
        """The processes that a directory lists, in order."""
        ask = functools.partial(self._ask, 0, uid, functools.partial(self._sight.pids, viewer, uid))
        # To read 10,000 pids takes 20 ms of the interpreter lock, and one user may ask for them 256
        # times at one time.
        return await self._pids.of((viewer, uid), ask)

    async def shows(self, viewer: Opener | None, uid: int, pid: int) -> bool:
        """True if /proc shows all of a process to `viewer`, who has the uid `uid`."""
        return await self._ask(pid, uid, functools.partial(self._sight.shows, viewer, uid, pid))

    async def look(self, pid: int, ctx: RequestContext, number: int = 0) -> Look | None:
        """The process as the caller may see it, who has inode `number` open or looks it up; None if
        the caller may not see it."""
        question = functools.partial(self._sight.look, pid, _caller(ctx), number)
        return await self._ask(pid, ctx.uid, question)

    async def is_shown(self, core: SharedCore | None, ctx: RequestContext, number: int = 0) -> bool:
        """True if the caller may know of a core: it may open the core, or has it open as inode
        `number`."""
        if core is None or is_everybodys(ctx.uid) or core.holders.include(ctx.uid):
            return True
        pid, caller = core.process.pid, _caller(ctx)
        question = functools.partial(self._sight.opener, pid, caller)
        opener = await self._ask(pid, ctx.uid, question)
        if opener is not None and core.is_for(opener):
            return True
        has_open = functools.partial(self._sight.has_open, caller, number)
        return bool(number) and await self._ask(pid, ctx.uid, has_open)

    async def with_size(self, found: Look, inode: Inode, ctx: RequestContext) -> Look:
        """The same with an estimate of the size, if the size itself is not known."""
        core, pid, seen = inode.shown, inode.process.pid, inode.seen
        if core is not None and core.size is not None:
            return dataclasses.replace(found, estimate=core.size, at=-math.inf)
        if seen is not None and seen.has_estimate_for(found):
            return dataclasses.replace(found, estimate=seen.estimate, at=seen.at)
        if self._guess_until.get(found.uid, -math.inf) > time.monotonic():
            size = rough_estimate(found, inode.policy.choice)
            return dataclasses.replace(found, estimate=size, at=time.monotonic())
        with self._requests.lent(ctx.uid, pid):
            question = _Begun(functools.partial(estimate, found, inode.policy))
            try:
                seconds = tuning.now().estimate_timeout
                size = await self._estimates.ask(pid, ctx.uid, question, seconds)
            except Refusal as error:
                logger.debug("process %d: its size is a rough guess: %s", pid, error)
                size = rough_estimate(found, inode.policy.choice)
                # Not if the caller had too many questions before this one.
                if error.reason is Reason.STUCK and question.has_begun:
                    self._guess(found.uid)
        return dataclasses.replace(found, estimate=size, at=time.monotonic())

    def _guess(self, owner: int) -> None:
        now = time.monotonic()
        later = {uid: until for uid, until in self._guess_until.items() if until > now}
        self._guess_until = later | {owner: now + tuning.now().guess_for}

    async def await_size(self, inode: Inode, ctx: RequestContext) -> None:
        """Wait until st_size is exact, within a bound: cp and cat ask once, right after open(2).

        Do not wait for a caller in an open(2) of its own: the kernel then asks only for the mode.
        """
        core, pid = inode.core, inode.process.pid
        if core is None or core.is_ready:
            return
        with self._requests.lent(ctx.uid, pid):
            question = functools.partial(_is_opening, pid, ctx.pid)
            if not await self._questions.ask(pid, ctx.uid, question):
                await core.wait_until_ready(_SIZE_TIMEOUT)

    async def _ask(self, pid: int, uid: int, question: Callable[[], _T]) -> _T:
        with self._requests.lent(uid, pid):
            return await self._questions.ask(pid, uid, question)


def _is_opening(pid: int, tid: int) -> bool:
    """True if the thread waits in an open(2), as it asks for the size of process `pid`."""
    tuning.now().reach(Step.BEFORE_SIZE, pid)
    return current_call.is_opening(tid)


class _Begun:
    """A question that knows whether somebody asks it yet."""

    def __init__(self, question: Callable[[], int]) -> None:
        self._question = question
        self.has_begun = False

    def __call__(self) -> int:
        self.has_begun = True
        return self._question()


def _caller(ctx: RequestContext) -> Caller:
    return Caller(ctx.pid, ctx.uid, ctx.gid)
