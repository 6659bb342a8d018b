"""What a server and a worker say to each other.

The server says Take, then MakeCore for each core, then Release.  A worker answers MakeCore with
Made, which may come with a question before (Fit, answered by Held) and more of the header
afterwards (HeaderGrew).  Whatever cannot be had is answered by Failed.
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
    """Where the worker tells how far it is (page.py)."""
    silent: frozenset[str]
    """Sources of pages that do not answer other workers (bounded_questions.py)."""


@dataclass(frozen=True, slots=True)
class MakeCore:
    """Make the header of a core.  `number`: of this core, for all answers."""

    number: int
    policy: Policy
    is_copy: bool
    """The server copies the memory: ask it by Fit how the process is held."""


@dataclass(frozen=True, slots=True)
class Held:
    """How the process is held, for the note.  None: the server no longer wants the core."""

    facts: Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class Release:
    """Let the process run on.  The answer is Released."""

    may_be_late: bool
    """Threads that have not stopped yet may be waited for (late.py)."""


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
    """A core.  The layout in `plan` has no header; that is in the file."""

    number: int
    plan: CorePlan
    header: OpenFile
    ready: int
    """The bytes of the header that are made."""
    unreadable: Ranges


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
    """Where gcorefs itself failed; empty otherwise."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The process died, or nobody may join the stop any more for another reason."""


@dataclass(frozen=True, slots=True)
class Released:
    """No thread is traced any more, except `late`."""

    late: Sequence[int]
    silent: frozenset[str]
    """Sources of pages that have not answered."""
    is_busy: bool
    """An answer to a request is still to come."""


@dataclass(frozen=True, slots=True)
class Idle:
    """No thread is late any more, and no question is open."""

    number: int
    """Of the Take.  This may come when the worker is at the next stop of the same process."""
    may_go_on: bool
    """False if the worker has grown too much to carry out another stop."""
