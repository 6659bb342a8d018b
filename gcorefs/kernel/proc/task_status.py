"""/proc/PID/task/TID/status (proc_pid_status(5)): whose a thread is, who traces it."""

import os

from gcorefs.kernel.proc import procfile, tasks


def parse_status(text: bytes) -> dict[str, bytes]:
    """/proc/TID/status as its keys and the text behind them."""
    # Only a newline ends a line: the kernel escapes it in a name, and leaves \r as it is.
    pairs = (line.split(b":", 1) for line in text.split(b"\n") if b":" in line)
    return {key.decode("ascii", "replace"): value.strip() for key, value in pairs}


def status(pid: int, tid: int | None = None) -> dict[str, bytes]:
    return parse_status(procfile.read_of(pid, tid, "status"))


def tracer(pid: int, tid: int) -> int:
    """The process that traces this thread, 0 where none does.

    Of a tracer that /proc does not show, as with hidepid=, it is the id of the thread that traces.
    """
    holder = int(status(pid, tid)["TracerPid"])  # a thread id, for all its name
    if not holder:
        return 0
    try:
        return int(status(holder)["Tgid"])
    except ProcessLookupError:
        return 0  # it ended just now, and with it the tracing
    except PermissionError:
        return holder


def is_dumping_core(pid: int) -> bool:
    """True while a process writes its own core (proc(5), CoreDumping).  ESRCH.

    Asked of a thread that lives: a dead leader has no memory and no such line
    (fs/proc/array.c, proc_pid_status).
    """
    found = tasks.ask_live_thread(pid, lambda tid: status(pid, tid))
    return found.get("CoreDumping") == b"1"


def owner(pid: int, tid: int) -> tuple[bytes, ...]:
    """Whose a process is: by what the kernel decides who may trace it (ptrace(2)).  ESRCH."""
    found = status(pid, tid)
    # Root's while the process is not dumpable, as all of its files but the folder itself
    # (fs/proc/base.c, task_dump_owner).
    ids = b"%d %d" % owner_of(f"{pid}/task/{tid}/mem")
    return found["Uid"], found["Gid"], found["CapPrm"], ids


def owner_of(path: str) -> tuple[int, int]:
    """The uid and gid to whom /proc/`path`, a file or folder of a process, belongs.  ESRCH."""
    try:
        found = os.stat(f"/proc/{path}")
    except OSError as error:
        raise procfile.explained(error, path) from error
    return found.st_uid, found.st_gid
