"""One process, seen before anybody stops it: what its core may have.  Nothing here stops it.

A read of any file of /proc/PID may block: during an execve(2) it waits for exec_update_lock.
"""

import contextlib
import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from gcorefs.arch import HOST
from gcorefs.arch.page import PAGE_SIZE
from gcorefs.elfcore import filter as rules
from gcorefs.elfcore.estimate import Counters, Estimate, MappedFile, Surroundings
from gcorefs.elfcore.loads import most_bytes
from gcorefs.elfcore.memory_choice import MemoryChoice
from gcorefs.elfcore.vma import MapsError
from gcorefs.kernel.proc import address_space, map_files, task_stat, task_status, tasks
from gcorefs.kernel.proc.procfile import is_kernels_own
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.policy import DEFAULT, Policy
from gcorefs.process.errors import told
from gcorefs.sources.procfs import pieces_of_maps

logger = logging.getLogger("gcorefs")

_STAYS_TRUE = 0.1
"""Seconds for which an estimate is used again if the process has as much memory as before.  One
stat(2) asks twice: for the name and for the attributes."""

_MOST_FILES = 256
"""Files behind shared mappings that one estimate asks for.  Of further files it takes the name."""

_WHOLE_FILES = rules.MAPPED_PRIVATE | rules.DAX_PRIVATE
_SHARED = rules.ANON_SHARED | rules.MAPPED_SHARED | rules.DAX_SHARED | rules.HUGETLB_SHARED


@dataclass(frozen=True, slots=True)
class Look:
    """One process, as its file shows it before anybody opens it."""

    process: Process
    uid: int
    gid: int
    tid: int
    """A living thread, if there is one; else the leader."""
    mask: int
    """Its coredump_filter."""
    counters: Counters
    resident: int
    """Bytes, including pages of files."""
    shareable: int
    """Bytes of mappings that may be shared, and that others may have filled: all but private
    writable ones and stacks."""
    at: float
    """The time of the look, in seconds (time.monotonic)."""
    estimate: int = 0
    """Bytes that a core may have; 0 if nobody has asked.  It may be too large but not too small:
    lldb asks for the size before it opens the file, and reads no further."""
    is_name_only: bool = False
    """True if /proc does not show the memory of the process to the caller."""

    def name_only(self) -> "Look":
        """The same for a caller to whom /proc shows only pid and owner."""
        nothing = Counters(0, 0, 0, 0)
        return replace(self, counters=nothing, resident=0, shareable=0, is_name_only=True)

    def has_estimate_for(self, later: "Look") -> bool:
        """True if the estimate is good for a later look at the process as well."""
        return (
            bool(self.estimate)
            and later.at - self.at < _STAYS_TRUE
            and (later.tid, later.mask, later.counters) == (self.tid, self.mask, self.counters)
        )


def look(pid: int) -> Look:
    """Look at a process.  This leaves the estimate out.

    ESRCH: there is no such process, or `pid` is the number of a thread.  ProcessError EACCES: /proc
    does not show the process to us, for example because of hidepid= (proc(5)).
    """
    with told(pid, gone=None):
        return _look(pid)


def _look(pid: int) -> Look:
    stat = task_stat.stat(pid)
    status = task_status.status(pid)
    if int(status["Tgid"]) != pid:
        raise ProcessLookupError(f"{pid} is a thread of {status['Tgid'].decode()}")
    uid, gid = task_status.owner_of(str(pid))
    tid = pid
    if stat.is_dead:
        # The leader has exited and has no memory any more, but another thread may live.
        with contextlib.suppress(ProcessLookupError):
            tid, status = tasks.ask_live_thread(
                pid, lambda tid: (tid, task_status.status(pid, tid))
            )
    return Look(
        process=Process(pid, stat.start_time),
        uid=uid,
        gid=gid,
        tid=tid,
        mask=_mask(tid),
        counters=_counters(status),
        resident=_bytes(status, "VmRSS"),
        shareable=max(0, _bytes(status, "VmSize") - _bytes(status, "VmData", "VmStk")),
        at=time.monotonic(),
    )


def _mask(tid: int) -> int:
    try:
        return address_space.coredump_filter(tid)
    except ProcessLookupError:  # its memory is gone
        return 0
    except OSError:  # /proc does not show it, so there will be no core
        return rules.DEFAULT


def _bytes(status: dict[str, bytes], *keys: str) -> int:
    return sum(int(status.get(key, b"0").split()[0]) for key in keys) * 1024


def _counters(status: dict[str, bytes]) -> Counters:
    threads = int(status["Threads"])
    anonymous = [_bytes(status, key) for key in ("RssAnon", "VmSwap")]
    behind = counters_are_behind(os.uname().release, os.cpu_count() or 1, threads)
    return Counters(
        threads=threads,
        mapped=_bytes(status, "VmSize"),
        anonymous=sum(count + behind for count in anonymous if count),
        huge=_bytes(status, "HugetlbPages"),
    )


def counters_are_behind(release: str, processors: int, threads: int) -> int:
    """Bytes by which RssAnon or VmSwap may be too small."""
    match = re.match(r"(\d+)\.(\d+)", release)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    if version >= (6, 17):  # fs/proc/task_mmu.c, task_mem: an exact sum
        return 0
    # Since 6.2 each processor has a part of the count (lib/percpu_counter.c, percpu_counter_batch),
    # before that each thread (mm/memory.c, TASK_RSS_EVENTS_THRESH).
    by_processor = max(32, 2 * processors) * processors
    pages = by_processor if version >= (6, 2) else 64 * threads
    return pages * PAGE_SIZE


def estimate(found: Look, policy: Policy) -> int:
    """Bytes that a core with `policy` may have, from the mappings alone: no page table is read
    (elfcore/estimate.py)."""
    choice = policy.choice
    rule = choice.rule
    if not found.counters.mapped:
        return 0
    try:
        surroundings = Surroundings(
            HOST.register_bytes(),
            map_files.shmem_device().encode("ascii"),
            rule.keeps_lost_files,
            rule.has_text,
            policy.stack_limit << 10 if rule.has_stacks else 0,
            bool(policy.referenced),
            choice.include,
            tells_pages=_is_told(f"{found.tid}/pagemap"),
            tells_leases=_is_told("locks"),
        )
        estimate_ = Estimate(
            rule.mask(found.mask), found.counters, surroundings, _files_of(found.tid)
        )
        with pieces_of_maps(found.tid) as pieces:
            return estimate_.of(pieces)
    except (OSError, MapsError) as error:  # it exits, or /proc does not show its mappings
        logger.debug("process %d: its size is a rough guess: %s", found.process.pid, error)
        return rough_estimate(found, choice)


def _is_told(path: str) -> bool:
    """True if /proc has this file, and nothing is mounted over it."""
    try:
        return is_kernels_own(path)
    except OSError:
        return False


def rough_estimate(found: Look, choice: MemoryChoice = DEFAULT.choice) -> int:
    """The same from the counters alone, if the mappings are not shown or take too long."""
    counters = found.counters
    if not counters.mapped:
        return 0
    mask = choice.rule.mask(found.mask)
    if not choice.is_bounded_by_use or mask & _WHOLE_FILES:
        populated = counters.mapped
    else:
        populated = found.resident + counters.anonymous + counters.huge
        if mask & _SHARED or choice.rule.keeps_lost_files:
            populated += found.shareable
    return most_bytes(populated, counters.mapped) + counters.threads * 2 * HOST.register_bytes()


def _files_of(tid: int) -> Callable[[int, int], MappedFile | None]:
    left = iter(range(_MOST_FILES))

    def ask(start: int, end: int) -> MappedFile | None:
        return None if next(left, None) is None else map_files.mapped_file(tid, start, end)

    return ask
