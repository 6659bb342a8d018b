"""How the memory of a core outlives the stop: the process is held, or its memory is copied.

A holder belongs to one core.  `prepare` runs before the stop, so that slow work does not make the
stop longer.  `fit` runs when the size is known, because the note says how the process is held.
`fill` runs when the core exists.
"""

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from gcorefs import tuning
from gcorefs.elfcore.layout import Layout
from gcorefs.elfcore.memory_rules import memory_rule
from gcorefs.kernel.proc import task_status, tasks
from gcorefs.policy import Hold, Policy
from gcorefs.process.copy import Copy, NotCopied, Room
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.memory import Memory
from gcorefs.steps import Step

# Added to the populated bytes: the file holds small holes too (segments.py).
_SLACK_SHARE = 64
_SLACK_AT_LEAST = 1 << 20


class Holder(Protocol):
    not_copied: str
    """Why the process is held although the policy wants a copy; empty otherwise."""

    @property
    def is_copy(self) -> bool:
        """True if the core is to outlive the stop."""

    @property
    def is_filled(self) -> bool:
        """True while the core needs no stop: the holder has all memory of it, or nobody wants that
        of the stop."""

    @property
    def was_filled(self) -> bool:
        """True if that is so, or was so."""

    def prepare(self, pid: int) -> None:
        """Prepare for the memory of a process that still runs.  ESRCH."""

    def fit(self, size: int) -> None:
        """Adapt to a core with `size` bytes of memory."""

    def facts(self) -> Mapping[str, str]:
        """The facts for the note: how the process should be held, and how it is held."""

    def fill(self, layout: Layout, memory: Memory, finish: Callable[[], None]) -> None:
        """Take all memory of a core, and `finish` its header.

        If the memory cannot be read at once, `not_copied` says why.  ProcessError: the process
        died or was let go.
        """

    def view(self, offset: int, length: int) -> memoryview | None:
        """Bytes of memory if the holder has them.  `offset` counts from the start of the memory."""

    def give_up(self, why: str) -> None:
        """Hold the process instead, and free the room for the copy."""

    def drop(self) -> None:
        """Allow no more reads.  `close` frees the memory later."""

    def close(self) -> None:
        """Free everything.  This may take long."""


class HoldProcess:
    """The process stands still until its core is read (hold=stop)."""

    not_copied = ""
    is_copy = is_filled = was_filled = False

    def prepare(self, pid: int) -> None:
        pass

    def fit(self, size: int) -> None:
        pass

    def facts(self) -> Mapping[str, str]:
        return {"hold": "stop"}

    def fill(self, layout: Layout, memory: Memory, finish: Callable[[], None]) -> None:
        pass

    def view(self, offset: int, length: int) -> memoryview | None:
        return None

    def give_up(self, why: str) -> None:
        pass

    def drop(self) -> None:
        pass

    def close(self) -> None:
        pass


class HoldCopy:
    """The memory is copied into ours, and the process runs on (hold=copy)."""

    is_copy = True

    def __init__(self, room: Room, is_small: bool = False) -> None:
        """`room`: how much memory the copy may take.  `is_small`: it will hardly take any."""
        self.not_copied = ""
        self.was_filled = False
        self._room = room
        self._is_small = is_small
        self._lock = threading.Lock()
        self._is_dropped = False
        self._empty: Copy | None = None  # room that is not filled yet
        self._full: Copy | None = None
        self._past: Copy | None = None  # dropped; `close` frees it

    @property
    def is_filled(self) -> bool:
        return self._full is not None

    def prepare(self, pid: int) -> None:
        """Make room for about as much memory as the core will have."""
        reach = tuning.now().reach
        reach(Step.MAKING_ROOM, pid)
        copy = self._empty = Copy(self._room)
        status = tasks.ask_live_thread(pid, lambda tid: task_status.status(pid, tid))
        if not self._is_small:
            kinds = ("RssAnon", "RssShmem", "VmSwap")  # a core has few pages of files
            populated = sum(int(status.get(kind, b"0").split()[0]) for kind in kinds) * 1024
            with contextlib.suppress(NotCopied):
                copy.prepare(populated + populated // _SLACK_SHARE + _SLACK_AT_LEAST)
        reach(Step.ROOM_MADE, pid)

    def fit(self, size: int) -> None:
        if self._empty is None:  # dropped meanwhile
            return
        try:
            self._empty.fit(size)
        except NotCopied as error:
            self.give_up(str(error))

    def facts(self) -> Mapping[str, str]:
        if self.not_copied:
            return {"hold": "copy", "held": "stop", "held_why": self.not_copied}
        return {"hold": "copy", "held": "copy"}

    def give_up(self, why: str) -> None:
        self.not_copied = why
        copy = self._take_empty()
        if copy is not None:
            copy.discard()

    def fill(self, layout: Layout, memory: Memory, finish: Callable[[], None]) -> None:
        copy = self._take_empty()
        if copy is None:
            return
        reach = tuning.now().reach
        try:
            reach(Step.COPYING, memory.pid)
            copy.fill(layout, memory)
            reach(Step.FILLED, memory.pid)
            finish()
        except BaseException as error:
            copy.discard()
            if isinstance(error, NotCopied) or _is_no_end(error):
                self.not_copied = str(error)
                return
            raise
        with self._lock:
            if not self._is_dropped:
                self._full = copy
                self.was_filled = True

    def _take_empty(self) -> Copy | None:
        """The room that is not filled yet.  From now on it belongs to the caller."""
        with self._lock:
            copy, self._empty = self._empty, None
            return copy

    def view(self, offset: int, length: int) -> memoryview | None:
        full = self._full  # read it once: another thread may drop it
        return None if full is None else full.view(offset, offset + length)

    def drop(self) -> None:
        with self._lock:
            self._is_dropped = True
            # Do not free it here: that takes long, and this may be the event loop.
            self._past, self._full = self._full or self._past, None

    def close(self) -> None:
        self.drop()
        self._empty = None
        self._past = None


class HoldNothing:
    """The process runs on as soon as it is recorded, or was not stopped at all, and its memory is
    read while it runs."""

    is_copy = True
    not_copied = ""

    def __init__(self, hold: Hold) -> None:
        """`hold`: what the policy says, for the note."""
        self.was_filled = False
        self._hold = hold
        self._is_dropped = False

    @property
    def is_filled(self) -> bool:
        return self.was_filled and not self._is_dropped

    def prepare(self, pid: int) -> None:
        pass

    def fit(self, size: int) -> None:
        pass

    def facts(self) -> Mapping[str, str]:
        return {"hold": self._hold}

    def fill(self, layout: Layout, memory: Memory, finish: Callable[[], None]) -> None:
        del layout, memory
        finish()
        self.was_filled = True

    def view(self, offset: int, length: int) -> memoryview | None:
        return None

    def give_up(self, why: str) -> None:
        self.not_copied = why

    def drop(self) -> None:
        self._is_dropped = True

    def close(self) -> None:
        self.drop()


def holder_of(policy: Policy, room: Callable[[], Room]) -> Holder:
    """The holder that a policy wants.  `room`: the room for a copy."""
    if policy.is_read_live:
        return HoldNothing(policy.hold)
    if policy.hold == "stop":
        return HoldProcess()
    return HoldCopy(room(), memory_rule(policy.memory).is_small)


def _is_no_end(error: BaseException) -> bool:
    """True if the memory cannot be copied but the process is still held."""
    is_of_process = isinstance(error, ProcessError) and error.reason is not Reason.NOT_SHOWN
    return isinstance(error, OSError) and not is_of_process
