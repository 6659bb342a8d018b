"""The owner and the tracer of a thread: /proc/PID/task/TID/status (proc_pid_status(5))."""

import os

from gcorefs.kernel.proc import procfile, tasks


def parse_status(text: bytes) -> dict[str, bytes]:
    """The keys of /proc/TID/status, and the text after each key."""
    # Only a newline ends a line: the kernel escapes it in a name, but does not escape \r.
    pairs = (line.split(b":", 1) for line in text.split(b"\n") if b":" in line)
    return {key.decode("ascii", "replace"): value.strip() for key, value in pairs}


def status(pid: int, tid: int | None = None) -> dict[str, bytes]:
    return parse_status(procfile.read_of(pid, tid, "status"))


def fdinfo(process: int | str, fd: int | str) -> dict[str, bytes]:
    """What proc_pid_fdinfo(5) says of every kind of file.  The errors of procfile.

    That is its beginning.  As many locks as the owner of the file likes are behind it.
    """
    return parse_status(procfile.read_beginning(f"{process}/fdinfo/{fd}"))


def tracer(pid: int, tid: int) -> int:
    """The process that traces this thread; 0 if none does.

    If /proc does not show the tracer (hidepid=), the id of the tracing thread.
    """
    holder = int(status(pid, tid)["TracerPid"])  # a thread id, in spite of its name
    if not holder:
        return 0
    try:
        return int(status(holder)["Tgid"])
    except ProcessLookupError:
        return 0  # the tracer has just ended, and so does the tracing
    except PermissionError:
        return holder


def is_dumping_core(pid: int) -> bool:
    """True while a process writes its own core (proc(5), CoreDumping).  ESRCH.

    Asks a living thread: a dead leader has no memory and no such line (fs/proc/array.c,
    proc_pid_status).
    """
    found = tasks.ask_live_thread(pid, lambda tid: status(pid, tid))
    return found.get("CoreDumping") == b"1"


def owner(pid: int, tid: int) -> tuple[bytes, ...]:
    """The facts by which the kernel decides who may trace a process (ptrace(2)).  ESRCH."""
    found = status(pid, tid)
    # While a process is not dumpable, root owns all its files except the directory itself
    # (fs/proc/base.c, task_dump_owner).
    ids = b"%d %d" % owner_of(f"{pid}/task/{tid}/mem")
    return found["Uid"], found["Gid"], found["CapPrm"], ids


def owner_of(path: str) -> tuple[int, int]:
    """The uid and gid that own /proc/`path`, a file or directory of a process.  ESRCH."""
    try:
        found = os.stat(f"/proc/{path}")
    except OSError as error:
        raise procfile.explained(error, path) from error
    return found.st_uid, found.st_gid
