"""What a core will probably cost a process.  Nothing here stops it.

The figures are those of docs/speed.md, of a machine with two processors.  They tell a stop of
milliseconds from one of minutes, and no more.
"""

from dataclasses import dataclass

from gcorefs.kernel.proc import task_stat
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.look import Look, estimate, look
from gcorefs.policy import Policy
from gcorefs.process import access
from gcorefs.process.admission import find, refuse_early
from gcorefs.process.errors import ProcessError, Reason, told

_AT_LEAST = 0.008
"""Seconds until one thread is stopped, and a header made."""
_A_THREAD = 70e-6
_GIB = 1 << 30
_PER_GIB = {"stop": 0.38, "copy": 0.1, "precopy": 0.0, "fork": 0.02, "none": 0.0}
"""Seconds in which a core is written to memory, or its memory is copied.  What hold=precopy copies
in the stop depends on what the process will write, so it counts as nothing."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """One process.  What is not known of it is 0, or empty."""

    pid: int
    name: bytes
    threads: int = 0
    size: int = 0
    """Bytes of the core; probably not more."""
    stop_seconds: float = 0.0
    """How long it will stand still; with stop=each, how long all its threads take in turn."""
    refusal: ProcessError | None = None
    """Why there will be no core."""


def forecast(process: Process, policy: Policy) -> Forecast | None:
    """None: the process has ended."""
    pid = process.pid
    name = b""
    try:
        with told(pid, Reason.GONE):
            name = task_stat.stat(pid).comm
        refusal = _refusal(process, policy)
        seen = look(pid)
        size = estimate(seen, policy)
    except ProcessLookupError:
        return None
    except ProcessError as error:
        return None if error.reason is Reason.GONE else Forecast(pid, name, refusal=error)
    if refusal is not None and refusal.reason is Reason.GONE:
        return None
    threads = seen.counters.threads
    return Forecast(pid, name, threads, size, stop_seconds(seen, size, policy), refusal)


def stop_seconds(seen: Look, size: int, policy: Policy) -> float:
    """How long a process will probably stand still for a core of `size` bytes."""
    if policy.stop == "none":
        return 0.0
    per_gib = 0.0 if policy.is_read_live else _PER_GIB[policy.hold]
    return _AT_LEAST + seen.counters.threads * _A_THREAD + size / _GIB * per_gib


def _refusal(process: Process, policy: Policy) -> ProcessError | None:
    """Why there will be no core, as far as that is known without a stop."""
    try:
        refuse_early(find(process.pid), None, is_stopped=policy.stop != "none")
        access.check_own(process.pid)
    except ProcessError as error:
        return error
    return None
