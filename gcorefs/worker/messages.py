"""What a server and a worker say to each other.

A worker says Hello when it begins.  For each stop the server says Take, then MakeCore for each
core, then Release.  The worker answers:

- Take with Taken, or Failed.
- MakeCore with Made, or Failed.  Before that it may ask a question, Fit, which the server answers
  with Held.  After Made it says HeaderGrew until the header is complete, or Failed.
- Fork with Forked.
- Release with Released, and with Idle when it can carry out the next stop.

It says Ended when the process dies, or when nobody may join the stop any more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gcorefs.errors import Why
from gcorefs.kernel.open_file import OpenFile
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.plan import CorePlan
from gcorefs.policy import Policy
from gcorefs.process.access import Opener
from gcorefs.process.mem import MemFile
from gcorefs.process.memory import Ways

Ranges = Sequence[tuple[int, int]]
"""Starts and ends of ranges of memory."""

# From the server.


@dataclass(frozen=True, slots=True)
class Take:
    """Stop this process and record its threads.  The answer is Taken."""

    number: int
    """Of this request, for Failed."""
    process: Process
    opener: Opener
    policy: Policy
    max_stop: float
    """Seconds after which the worker lets the process go by itself (0: never)."""
    page: OpenFile
    """The page in which the worker tells how far the stop is (page.py)."""
    silent: frozenset[str]
    """Sources of pages that do not answer other workers (bounded_questions.py)."""


@dataclass(frozen=True, slots=True)
class MakeCore:
    """Make the header of a core.  `number`: of this core, for all answers."""

    number: int
    policy: Policy
    max_stop: float
    """The same for this core.  The longest time counts."""
    is_copy: bool
    """True if the server copies the memory.  Then ask it by Fit how the process is held."""


@dataclass(frozen=True, slots=True)
class Held:
    """How the process is held, for the note.  None: the server no longer wants the core."""

    number: int
    """That of the Fit: the worker may be at another core, or at another stop, by now."""
    facts: Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class Fork:
    """Let the process make a child that keeps its memory.  The answer is Forked."""

    number: int


@dataclass(frozen=True, slots=True)
class EndChild:
    """Kill the child.  No answer; Idle comes when nothing is left of it."""

    number: int
    """The number of the Take: the worker may be at another stop by now."""
    may_reap: bool
    """True if the process may be stopped now to reap it.  Else this comes again."""


@dataclass(frozen=True, slots=True)
class Release:
    """Let the process run on.  The answer is Released."""

    may_be_late: bool
    """True if the worker may wait for threads that have not stopped yet (late.py)."""


# From a worker.


@dataclass(frozen=True, slots=True)
class Hello:
    pid: int


@dataclass(frozen=True, slots=True)
class Taken:
    """Every thread is recorded, and the process stands still."""

    comm: bytes
    mem: MemFile
    ways: Ways
    no_loss: Sequence[range]
    """Memory that nobody can read from outside (unreadable_pages.py)."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The core will have `size` bytes of memory: how is the process held?"""

    number: int
    size: int


@dataclass(frozen=True, slots=True)
class Made:
    """A core.  The layout in `plan` has no header: the header is in the file `header`."""

    number: int
    plan: CorePlan
    header: OpenFile
    ready: int
    """How many bytes of the header are made."""
    unreadable: Ranges


@dataclass(frozen=True, slots=True)
class Forked:
    """The child, or why there is none."""

    number: int
    mem: MemFile | None
    is_own: bool
    """True if the process has to reap it at its end, in a second stop."""
    why_not: str


@dataclass(frozen=True, slots=True)
class HeaderGrew:
    """One more row of a header is in its file (header.py)."""

    number: int
    ready: int
    """The bytes of the header that are made."""
    stored: int
    """The bytes that the row takes in the file."""


@dataclass(frozen=True, slots=True)
class Failed:
    """There is no stop, or no such core, or no more of its header."""

    number: int
    reason: Why
    pid: int
    detail: str
    traceback: str
    """The traceback, if gcorefs itself failed; else empty."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The process died, or nobody may join the stop any more for another reason."""


@dataclass(frozen=True, slots=True)
class Released:
    """No thread is traced any more, except `late`."""

    late: Sequence[int]
    silent: frozenset[str]
    """Sources of pages that have not answered (bounded_questions.py)."""
    is_busy: bool
    """True if the worker still works at a request of the stop."""
    has_child: bool
    """True if it has a child of the process, until EndChild."""


@dataclass(frozen=True, slots=True)
class Idle:
    """No thread is late any more, and no question is open."""

    number: int
    """The number of the Take.  The worker may be at the next stop of the same process by now."""
    may_go_on: bool
    """False if the worker has grown too much to carry out another stop."""
