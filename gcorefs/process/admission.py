"""Which processes may be stopped at all.

All that can be known beforehand is checked before the stop: a process that is refused is never
touched.
"""

import os
from collections.abc import Container

from gcorefs.arch import machine_of, why_foreign
from gcorefs.kernel.proc import address_space, task_stat, task_status, tasks
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.process import access
from gcorefs.process.access import Opener
from gcorefs.process.errors import ProcessError, Reason, named, told
from gcorefs.process.mark import is_gcorefs, is_marked


def find(pid: int) -> Process:
    """The process `pid`, if it can have a core at all.  ESRCH, EINVAL, EACCES."""
    with told(pid, Reason.GONE):
        stat = task_stat.stat(pid)
        leader = int(task_status.status(pid)["Tgid"])
    if leader != pid:
        raise ProcessError(Reason.GONE, pid, f"it is a thread of process {leader}")
    if stat.is_kernel_thread:
        raise ProcessError(Reason.KERNEL_THREAD, pid)
    return Process(pid, stat.start_time)


def refuse_early(
    process: Process,
    opener: Opener | None,
    tracers: Container[int] = (),
    is_stopped: bool = True,
) -> None:
    """Raise if it is known before the stop that there can be no core.

    EDEADLK: gcorefs itself, the opener's own process, another gcorefs; ESRCH: gone; EBUSY: another
    tracer has it, or gcorefs itself, or it writes its core; EACCES: the kernel says no to `opener`
    (None: the opener is this process, and the kernel judges it at the seize).  `tracers`:
    processes that trace for us.  `is_stopped`: False if no thread will be stopped; then nothing is
    EBUSY.
    """
    pid = process.pid
    if pid == os.getpid():
        raise ProcessError(Reason.OURSELVES, pid)
    if opener is not None and pid == opener.pid:
        raise ProcessError(Reason.CALLER, pid)
    with told(pid, Reason.GONE):
        if task_stat.stat(pid).start_time != process.start_time:
            raise ProcessError(Reason.GONE, pid)
        holder = tasks.ask_live_thread(pid, lambda tid: task_status.tracer(pid, tid))
        if opener is not None:
            access.check(opener, pid)
        if tasks.ask_live_thread(pid, is_marked):
            raise ProcessError(Reason.SERVER, pid)
        try:
            is_32_bit = tasks.ask_live_thread(pid, address_space.is_32_bit)
        except PermissionError as error:  # if /proc does not show it, we may not trace it either
            raise ProcessError(Reason.DENIED, pid, named(error)) from error
        if is_stopped and task_status.is_dumping_core(pid):
            raise ProcessError(Reason.DUMPING, pid)
    if machine_of(is_32_bit) is None:
        raise ProcessError(Reason.FOREIGN, pid, why_foreign(is_32_bit))
    # Our own stop is one that the opener is about to join.
    if is_stopped and holder and holder != os.getpid() and holder not in tracers:
        raise held_by(holder, pid)


def held_by(tracer: int, pid: int) -> ProcessError:
    """EBUSY: process `tracer` traces process `pid`."""
    reason = Reason.HELD if is_gcorefs(tracer) else Reason.TRACED
    return ProcessError(reason, pid, f"TracerPid {tracer}")
