"""/proc/TID/syscall (proc_pid_syscall(5)): the system call in which a thread sleeps."""

from gcorefs.arch import machine_of
from gcorefs.kernel.proc import address_space, procfile
from gcorefs.kernel.proc.procfile import FormatError


def parse_system_call(text: bytes) -> tuple[int, list[int], int, int] | None:
    """FormatError if the text is neither "running" nor a number and at least two words."""
    try:
        number, *words = text.split()
        if number == b"running":
            return None
        *arguments, sp, pc = (int(word, 16) for word in words)
        return int(number), arguments, sp, pc
    except ValueError as error:
        raise FormatError(f"unexpected text in syscall: {text!r}") from error


def system_call(pid: int, tid: int) -> tuple[int, list[int], int, int] | None:
    """/proc/TID/syscall: number, arguments, stack pointer, program counter.

    None while the thread runs.  The number is -1 if the thread sleeps outside a system call.
    """
    return parse_system_call(procfile.read_of(pid, tid, "syscall"))


def is_opening(tid: int) -> bool:
    """True if a thread that waits for a FUSE request waits in open(2).

    False also if /proc does not show it: the thread is not in our pid namespace, or we may not
    trace it.  Such a thread is not an opener that could be identified (access.py).
    """
    try:
        call = system_call(tid, tid)
        machine = machine_of(address_space.is_32_bit(tid))
    except OSError:
        return False
    return call is not None and machine is not None and call[0] in machine.opening
