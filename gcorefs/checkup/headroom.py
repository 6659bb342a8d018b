"""Memory for copies, and the limits of this process (setrlimit(2))."""

import resource
from collections.abc import Iterator
from dataclasses import dataclass

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.checkup.finding import Finding, note, ok, problem
from gcorefs.hold.room import RESERVE
from gcorefs.kernel.proc import procfile, system_files, task_status
from gcorefs.policy import DEFAULT
from gcorefs.process.cgroups import Limit, memory_limits

UNLIMITED = resource.RLIM_INFINITY
_SHARE = 16
_ENOUGH_FILES = 1024
_ENOUGH_PROCESSES = 256
_ON_DISK = "take it with --hold precopy -o FILE, or with --spool DIR"


@dataclass(frozen=True, slots=True)
class Headroom:
    """In bytes."""

    available: int
    reserve: int
    """What a copy leaves to others."""
    copy_limit: int
    swap: int
    """Free; 0 also if /proc does not show it."""
    groups: tuple[Limit, ...] = ()
    """The limits of our control groups that are below the memory of the machine."""
    files: int = UNLIMITED
    """RLIMIT_NOFILE, the hard one: a mount raises the soft one to that."""
    processes: int = UNLIMITED
    """RLIMIT_NPROC."""
    file_size: int = UNLIMITED
    """RLIMIT_FSIZE."""

    @property
    def for_copies(self) -> int:
        """Bytes that a copy may take now, as hold/room.py decides it."""
        groups = [each.left - each.size // _SHARE for each in self.groups]
        return max(0, min(self.copy_limit, self.available - self.reserve, *groups))


def ask_headroom() -> Headroom:
    return Headroom(
        available=system_files.available_memory(),
        reserve=RESERVE,
        copy_limit=DEFAULT.copy_limit << 20,
        swap=_free_swap(),
        # Version 1 has a limit that is none (mm/page_counter.c, PAGE_COUNTER_MAX).
        groups=tuple(each for each in memory_limits() if each.size < RESERVE * _SHARE),
        files=_limit(resource.RLIMIT_NOFILE, is_hard=True),
        processes=_limit(resource.RLIMIT_NPROC),
        file_size=_limit(resource.RLIMIT_FSIZE),
    )


def _limit(which: int, is_hard: bool = False) -> int:
    return resource.getrlimit(which)[is_hard]


def _free_swap() -> int:
    try:
        found = task_status.parse_status(procfile.read_system("meminfo"))
        return int(found["SwapFree"].split()[0]) * 1024
    except (OSError, KeyError, IndexError, ValueError):
        return 0


def headroom(facts: Headroom) -> list[Finding]:
    return [_memory(facts), *_group(facts), *_limits(facts)]


def _memory(facts: Headroom) -> Finding:
    shown = f"{_mebibytes(facts.available)} are available, {_mebibytes(facts.swap)} of swap free"
    fits = _mebibytes(facts.for_copies)
    if facts.for_copies < facts.copy_limit:
        limit = f"less than copy_limit ({_mebibytes(facts.copy_limit)})"
        return note("memory", f"{shown}: a copy may take {fits}, {limit}", _ON_DISK)
    return ok("memory", f"{shown}: a copy may take {fits} (copy_limit)")


def _group(facts: Headroom) -> Iterator[Finding]:
    if facts.groups:
        tightest = min(facts.groups, key=lambda each: each.left)
        left = _mebibytes(max(0, tightest.left))
        yield note(
            "memory",
            f"our control group may have {_mebibytes(tightest.size)}, and {left} are left",
            f"for a larger process, {_ON_DISK}",
        )


def _limits(facts: Headroom) -> Iterator[Finding]:
    found = [*_files(facts), *_processes(facts), *_file_size(facts)]
    yield from found or [ok("limits", "those of files, processes and file sizes suffice")]


def _files(facts: Headroom) -> Iterator[Finding]:
    if _is_below(facts.files, _ENOUGH_FILES):
        lost = "a mount holds fewer processes at one time"
        yield note("limits", f"RLIMIT_NOFILE is {facts.files}: {lost}", "ulimit -Hn 65536, as root")


def _processes(facts: Headroom) -> Iterator[Finding]:
    if _is_below(facts.processes, _ENOUGH_PROCESSES):
        lost = "each stop takes a process and some threads of it"
        yield note("limits", f"RLIMIT_NPROC is {facts.processes}: {lost}", "ulimit -u unlimited")


def _file_size(facts: Headroom) -> Iterator[Finding]:
    if facts.file_size == UNLIMITED:
        return
    named, step = f"RLIMIT_FSIZE is {facts.file_size} bytes", "ulimit -f unlimited"
    if facts.file_size < PAGE_SIZE:
        yield problem("limits", f"{named}: gcorefs may write no file, not even in memory", step)
    else:
        yield note("limits", f"{named}: no core in a file can be larger", step)


def _is_below(limit: int, enough: int) -> bool:
    return limit != UNLIMITED and limit < enough


def _mebibytes(amount: int) -> str:
    return f"{amount >> 20} MiB"
