"""State, times and flags of a thread: /proc/PID/task/TID/stat (proc_pid_stat(5)) and schedstat."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from gcorefs.kernel.proc import procfile
from gcorefs.kernel.proc.procfile import FormatError

_LONGEST_STAT = 4096
# include/linux/sched.h
PF_KTHREAD = 0x00200000
PF_EXITING = 0x00000004
PF_IO_WORKER = 0x00000010
PF_USER_WORKER = 0x00004000
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    """One process.  Its start time distinguishes it from a later process with the same pid."""

    pid: int
    start_time: int
    """Clock ticks since boot."""


@dataclass(frozen=True, slots=True)
class Stat:
    """/proc/PID/task/TID/stat.  Times in clock ticks, sizes in pages."""

    comm: bytes
    state: str
    ppid: int
    flags: int
    utime: int
    stime: int
    cutime: int
    cstime: int
    nice: int
    start_time: int
    resident: int
    argument_start: int
    argument_end: int

    @property
    def is_kernel_thread(self) -> bool:
        return bool(self.flags & PF_KTHREAD)

    @property
    def is_worker(self) -> bool:
        """True for an io_uring or vhost worker: a kernel thread inside a process."""
        return bool(self.flags & (PF_IO_WORKER | PF_USER_WORKER))

    @property
    def is_dead(self) -> bool:
        return self.state in "ZXx"

    @property
    def is_exiting(self) -> bool:
        """True if a thread has no memory, or will soon have none (kernel/exit.c, do_exit)."""
        return self.is_dead or bool(self.flags & PF_EXITING)


def started(process: Process) -> float:
    """When a process started, in seconds since the epoch."""
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - process.start_time / TICKS
    return time.time() - age


def parse_stat(text: bytes) -> Stat:
    """FormatError if a field is missing or is not a number."""
    try:
        # The name is in parentheses and may have any byte, also parentheses and newlines.
        opening, closing = text.index(b"("), text.rindex(b")")
        fields = text[closing + 2 :].split()
        number = [int(field) for field in fields[1:]]
        # Field n of proc(5) is number[n - 4].
        return Stat(
            comm=text[opening + 1 : closing],
            state=fields[0].decode("ascii"),
            ppid=number[0],
            flags=number[5],
            utime=number[10],
            stime=number[11],
            cutime=number[12],
            cstime=number[13],
            nice=number[15],
            start_time=number[18],
            resident=number[20],
            argument_start=number[44],
            argument_end=number[45],
        )
    except (ValueError, IndexError) as error:
        raise FormatError(f"unexpected text in stat: {text!r}") from error


def stat(pid: int, tid: int | None = None) -> Stat:
    """The stat of thread `tid` of a process, or of thread `pid` itself.  ESRCH.

    This is not /proc/PID/stat: for the times in that file the kernel looks at each thread
    (fs/proc/array.c, do_task_stat), which takes 4 ms for 10,000 threads.
    """
    return parse_stat(procfile.read_of(pid, pid if tid is None else tid, "stat"))


def run_time(pid: int, tid: int) -> int | None:
    """Nanoseconds that a thread has run on a CPU.  ESRCH.

    None if the kernel does not count them (Documentation/scheduler/sched-stats.rst).  Without
    CONFIG_SCHED_INFO the file does not exist; if it is switched off, the file has only zeros.
    """
    try:
        nanoseconds = int(procfile.read_of(pid, tid, "schedstat").split()[0])
    except FileNotFoundError:
        return None
    return nanoseconds or None


def parse_times(text: bytes) -> tuple[int, int, int, int]:
    """utime, stime, cutime and cstime as in parse_stat, and no other field."""
    try:
        # Field 14 of proc(5) and the next three.  The rest of the name counts as field 2.
        _, *fields, _ = text[text.rindex(b")") :].split(None, 16)
        utime, stime, cutime, cstime = map(int, fields[11:])
    except ValueError as error:
        raise FormatError(f"unexpected text in stat: {text!r}") from error
    return utime, stime, cutime, cstime


def task_times(pid: int, tids: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """The times of each of these threads, in clock ticks, in the order of parse_times.  ESRCH.

    The times of the leader are those of the whole process (fs/binfmt_elf.c, fill_prstatus).
    """
    try:
        folder = os.open(f"/proc/{pid}/task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise procfile.explained(error, f"{pid}/task") from error
    try:
        return [_times(pid, tid, folder) for tid in tids]
    finally:
        os.close(folder)


def _times(pid: int, tid: int, folder: int) -> tuple[int, int, int, int]:
    path = "../stat" if tid == pid else f"{tid}/stat"
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
        try:
            return parse_times(os.read(file, _LONGEST_STAT))
        finally:
            os.close(file)
    except OSError as error:
        raise procfile.explained(error, f"{pid}/task/{tid}/stat") from error
