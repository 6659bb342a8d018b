"""The mount's own files: what is held now, and a way to let it go.

Both files are for whoever opened: a user sees and lets go their own, root and the user who mounted
everybody's.  Who opens is judged at open(2) and not at write(2), so that a file handed to a
set-uid program gives nobody more than they had.
"""

import contextlib
import errno
import functools
import json
import os
import stat as modes
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import trio
from pyfuse3 import FlagT, FUSEError, RequestContext

from gcorefs import __version__, tuning
from gcorefs.errors import Refusal
from gcorefs.mount import core_report, names
from gcorefs.mount.cores import SharedCore
from gcorefs.mount.errors import RequestError, RequestReason
from gcorefs.mount.held import Held
from gcorefs.mount.in_thread import in_thread
from gcorefs.mount.limits import Budget, Kept, Limits
from gcorefs.mount.log import logger
from gcorefs.mount.looks import Looks
from gcorefs.mount.nodes import OpenFile, OwnNode, refuse_writers
from gcorefs.mount.sight import is_everybodys
from gcorefs.process.kernel_features import kernel_features
from gcorefs.sources import bpf_choice
from gcorefs.steps import Step

_USER_STATUS_FILES = 32
"""Status files that one user may have open: each keeps its text, of as many stops as are held."""

_MOST_BUILDS = 4
"""Threads that build a status at one time."""

_SHARE = 10
"""After a status was built for a user, the next one begins this many times as long after that one
began as that one took of a processor.  So whoever reads it again and again takes a tenth of one
processor at the most, and nobody waits for longer because others make gcorefs slow."""


@dataclass(slots=True)
class _Turn:
    """Whose turn it is, of the openers of one user."""

    lock: trio.Lock
    began: int = 0
    """Number of the request after which the last text was begun."""
    text: bytes = b""
    next_at: float = 0.0


class StatusTexts:
    """The texts of status files, built in threads, for each user one at a time.

    All who ask while one is built share the next: it is begun after they have asked.
    """

    def __init__(self, held: Held) -> None:
        self._held = held
        self._builds = trio.CapacityLimiter(_MOST_BUILDS)
        self._turns: dict[int, _Turn] = {}
        self._requests = 0

    async def of(self, uid: int) -> bytes:
        """What `uid` may know now.  EAGAIN: no thread."""
        self._requests += 1
        number = self._requests
        turn = self._turns.setdefault(uid, _Turn(trio.Lock()))
        try:
            async with turn.lock:
                if turn.began < number:
                    await trio.sleep_until(turn.next_at)
                    await self._build(uid, turn)
                return turn.text
        finally:
            self._forget_idle()

    async def _build(self, uid: int, turn: _Turn) -> None:
        begin, number = trio.current_time(), self._requests
        turn.text, seconds = await in_thread(0, self._builds, _text, self._held, uid)
        turn.began = number
        turn.next_at = begin + _SHARE * seconds

    def _forget_idle(self) -> None:
        now = trio.current_time()
        for uid, turn in [*self._turns.items()]:
            is_asked = turn.lock.locked() or turn.lock.statistics().tasks_waiting
            if not is_asked and now >= turn.next_at:
                del self._turns[uid]
            elif not is_asked:
                turn.text = b""


def _text(held: Held, uid: int) -> tuple[bytes, float]:
    """The text, and how many seconds of a processor it took.

    In a thread.  Each core is seen as it is at one moment, one after the other.
    """
    began = time.thread_time()
    stops = []
    for core in held.cores():
        with contextlib.suppress(Refusal):  # it is being forgotten just now
            if report := _report(core, uid):
                stops.append(report)
    facts = {
        "version": __version__,
        "kernel": kernel_features(),
        "mappings": str(bpf_choice.in_use()),
        "is_bpf_missing": bpf_choice.in_use().is_bpf_missing,
    }
    # A line for each stop: json.dumps takes ten times as long where it is to indent.
    beginning = json.dumps(facts).removesuffix("}")
    lines = ",\n".join(map(json.dumps, stops))
    text = f'{beginning}, "stops": [\n{lines}\n]}}\n'.encode("ascii")
    tuning.now().reach(Step.STATUS_MADE, 0)
    return text, time.thread_time() - began


class Status(OwnNode):
    """What was held when the file was opened, or a moment later."""

    number = 3
    mode = modes.S_IFREG | 0o444

    def __init__(self, texts: StatusTexts, requests: Budget) -> None:
        self._texts = texts
        self._requests = requests
        self._files = Budget(
            _USER_STATUS_FILES,
            sys.maxsize,
            RequestReason.USER_FILES,
            RequestReason.ALL_FILES,
            requests.owner,
        )

    async def open(self, flags: FlagT, ctx: RequestContext) -> OpenFile:
        refuse_writers(flags)
        with self._requests.lent(ctx.uid, 0), self._files.kept(ctx.uid, 0) as kept:
            return _StatusFile(await self._texts.of(ctx.uid), kept)


class _StatusFile(OpenFile):
    def __init__(self, text: bytes, kept: Kept) -> None:
        self._text = text
        self._kept = kept

    async def read(self, offset: int, length: int) -> bytes:
        return self._text[offset : offset + length]

    def release(self) -> None:
        self._kept.give_back()


class Release(OwnNode):
    """A pid written here is let go."""

    number = 4
    mode = modes.S_IFREG | 0o222

    def __init__(self, held: Held, looks: Looks, limits: Limits) -> None:
        self._held = held
        self._looks = looks
        self._limits = limits

    async def open(self, flags: FlagT, ctx: RequestContext) -> OpenFile:
        if flags & os.O_ACCMODE != os.O_WRONLY:
            raise FUSEError(errno.EACCES)
        limits = self._limits
        with limits.requests.lent(ctx.uid, 0), limits.others.kept(ctx.uid, 0) as kept:
            viewer = await self._looks.viewer(ctx)
            shows = functools.partial(self._looks.shows, viewer, ctx.uid)
            return _ReleaseFile(self._held, ctx.pid, shows, kept)


class _ReleaseFile(OpenFile):
    def __init__(
        self, held: Held, pid: int, shows: Callable[[int], Awaitable[bool]], kept: Kept
    ) -> None:
        """`shows`: whether /proc shows a process to the user."""
        self._held = held
        self._uid = kept.uid
        self._pid = pid
        self._shows = shows
        self._kept = kept

    async def write(self, data: bytes) -> int:
        """All of `data` or an error: EINVAL no pid; ESRCH not held; EPERM another user's.

        Of a process that /proc does not show them nobody hears whether it is held, nor sees it from
        how long this takes: /proc is asked about every pid but that of a core of their own.
        """
        pid = names.pid_written(data)
        if not pid:
            raise RequestError(RequestReason.NO_PID, self._pid, f"uid {self._uid}")
        may_know = is_everybodys(self._uid) or any(
            core.holders.include(self._uid) for core in self._of(pid)
        )
        may_know = may_know or await self._shows(pid)
        held = self._of(pid)
        if not (held and may_know):
            raise RequestError(RequestReason.NOT_HELD, pid)
        if not is_everybodys(self._uid) and any(
            core.holders.of(None) != core.holders.of(self._uid) for core in held
        ):
            raise RequestError(RequestReason.NOT_YOURS, pid, f"uid {self._uid}")
        why = f"process {self._pid} (uid {self._uid}) released it"
        for core in held:
            core.keeper.let_go(why)
        logger.info("process %d: let go, %s", pid, why)
        return len(data)

    def _of(self, pid: int) -> list[SharedCore]:
        """The cores of a process that are held."""
        return [core for core in self._held.cores() if core.process.pid == pid and not core.is_over]

    def release(self) -> None:
        self._kept.give_back()


def _report(core: SharedCore, uid: int) -> dict[str, Any] | None:
    """What `uid` may know of a core, None where that is nothing."""
    whose = None if is_everybodys(uid) else uid
    holders = core.holders.of(whose)
    if not holders:
        return None
    return core_report.facts(core) | {
        "files": core.holders.files(whose),
        "openers": [{"pid": each.pid, "uid": each.uid} for each in holders],
    }
