"""Why a process has no core: each reason has one errno and one clear line.

docs/errors.md has the same table (tests/pure/test_errors.py compares the two), together with the
reasons of a mount (mount/errors.py).
"""

import contextlib
import errno
import os
from collections.abc import Iterator

from gcorefs.errors import Refusal, Why


class Reason(Why):
    """Why there is no core."""

    OURSELVES = (
        errno.EDEADLK,
        "this is gcorefs itself: stopped, it could not serve the file",
        "leave it out",
    )
    SERVER = (
        errno.EDEADLK,
        "it stops processes for gcorefs: two could wait for each other",
        "leave it out",
    )
    CALLER = (
        errno.EDEADLK,
        "the opener is a thread of this process: stopped, it could not read",
        "let a child of it ask",
    )
    RING = (
        errno.EDEADLK,
        "it reads the core of its opener: each would wait for the other",
        "read one core after the other, or with hold=copy",
    )
    KERNEL_THREAD = (
        errno.EINVAL,
        "a kernel thread has no memory of its own",
        "cat /proc/PID/stack shows what it does",
    )
    FOREIGN = (
        errno.EINVAL,
        "it is a program for a machine that gcorefs does not support",
        "try gdb's gcore",
    )
    GONE = (
        errno.ESRCH,
        "there is no such process, or no thread of it lives",
        "gcorefs ls shows those that there are",
    )
    TRACED = (
        errno.EBUSY,
        "another tracer holds it: detach that debugger first",
        "gcorefs check PID says who; --policy @glance needs no stop",
    )
    HELD = (
        errno.EBUSY,
        "gcorefs holds it already",
        "gcorefs status shows who reads it, gcorefs release lets it go; a mount shares the stop",
    )
    DUMPING = (
        errno.EBUSY,
        "it is writing its core, which a stop would cut short",
        "wait until it has ended: that core is where core_pattern says (core(5))",
    )
    UNRESPONSIVE = (
        errno.EBUSY,
        "one of its threads does not stop, and unresponsive= forbids that",
        "--unresponsive partial takes the core without the registers of that thread",
    )
    DENIED = (
        errno.EACCES,
        "the kernel does not allow the opener to trace it",
        "run it as root of the host, with CAP_SYS_PTRACE; gcorefs check PID says why",
    )
    NOT_SHOWN = (
        errno.EACCES,
        "the kernel does not let gcorefs read what the core needs",
        "run it as root of the host, with CAP_SYS_PTRACE; gcorefs check PID says why",
    )
    NOT_THERE = (
        errno.ENOTSUP,
        "there is no such file in /proc, and the core needs it",
        "gcorefs check shows what this machine lacks",
    )
    UNKNOWN_OPENER = (
        errno.EACCES,
        "the opener cannot be identified from here",
        "gcorefs dump PID needs no mount",
    )
    NO_THREAD = (
        errno.EAGAIN,
        "no further thread can be started (RLIMIT_AS, RLIMIT_NPROC, pids.max)",
        "raise that limit, or end other threads",
    )
    NO_WORKER = (
        errno.EIO,
        "gcorefs can no longer start processes for stops: mount it again",
        "gcorefs umount, then gcorefs mount",
    )
    NO_FILES = (
        errno.ENFILE,
        "gcorefs can open no more files (RLIMIT_NOFILE, fs.file-max)",
        "raise that limit (ulimit -n)",
    )
    NO_SUCH_SIZE = (
        errno.EFBIG,
        "gcorefs may write no file of that size, not even in memory (RLIMIT_FSIZE)",
        "raise that limit (ulimit -f)",
    )
    NO_MEMORY = (
        errno.ENOMEM,
        "gcorefs is out of memory",
        "--hold stop and --policy @stacks need least",
    )
    DIED = (
        errno.EIO,
        "the process died, or called execve(2), while it was being dumped",
        "if it crashed, its core is where core_pattern says (core(5), coredumpctl)",
    )
    LET_GO = (
        errno.EIO,
        "the process was let go: its memory is no longer that of the stop",
        "take it again; gcorefs status shows why it was let go",
    )
    STUCK = (
        errno.EIO,
        "its memory could not be read in time",
        "--policy @threads reads no memory: a server of its files (NFS, FUSE) may not answer",
    )
    NOT_BROUGHT = (
        errno.EIO,
        "only process_vm_readv(2), denied here, can wait for a page of it",
        "allow process_vm_readv(2) in the filter under which gcorefs runs",
    )
    SPOOL = (
        errno.EIO,
        "the copy of its memory cannot be read from the disk",
        "look at that disk (dmesg), and take it again with another spool=",
    )
    CHILD_GONE = (
        errno.EIO,
        "the child that has its memory was killed: is memory scarce?",
        "--hold stop needs no memory for a child",
    )
    FORKED = (
        errno.EIO,
        "a child of fork(2) does not read the cores of its parent's stops",
        "read it in the process that has stopped it",
    )
    SURPRISE = (
        errno.EIO,
        "gcorefs itself failed: the log has the traceback",
        "report it, with that traceback",
    )


class ProcessError(Refusal):
    """There is no core, because of what the process is or does."""


_LIMITS = {
    # Many calls fail with EAGAIN, and few because of this limit (fork(2)).
    errno.EAGAIN: (None, "RLIMIT_NPROC, pids.max"),
    errno.EFBIG: (Reason.NO_SUCH_SIZE, "RLIMIT_FSIZE"),
    errno.EMFILE: (Reason.NO_FILES, "RLIMIT_NOFILE"),
    errno.ENFILE: (Reason.NO_FILES, "fs.file-max"),
    errno.ETOOMANYREFS: (Reason.NO_FILES, "RLIMIT_NOFILE"),
}
"""What gcorefs cannot do because of a limit of its own (setrlimit(2)), and the limit."""


def limit_met(error: OSError) -> Reason | None:
    """The reason, if gcorefs has met a limit of the files that it may have; else None."""
    reason, _ = _LIMITS.get(error.errno or 0, (None, ""))
    return reason


def is_no_memory(error: BaseException) -> bool:
    """True if the kernel or the interpreter is out of memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno == errno.ENOMEM
    )


@contextlib.contextmanager
def told(pid: int, gone: Reason | None) -> Iterator[None]:
    """Turn errors of /proc into the reason why there is no core.

    `gone`: the reason if the process is gone (None: ProcessLookupError is passed on).
    procfile.py has the errors.
    """
    try:
        yield
    except ProcessError:
        raise
    except OSError as error:
        reason = _of_proc(error, gone)
        if reason is None:
            raise
        detail = "" if reason is gone else named(error)
        # Without its traceback: since Python 3.12 a frame there refers to the frame that called it,
        # and that is contextlib's __exit__, which refers to the error.  The cycle would keep the
        # memory of the process open.
        raise ProcessError(reason, pid, detail) from error.with_traceback(None)


def _of_proc(error: OSError, gone: Reason | None) -> Reason | None:
    if isinstance(error, ProcessLookupError):
        return gone
    if isinstance(error, PermissionError):
        return Reason.NOT_SHOWN
    return Reason.NOT_THERE if error.errno in (errno.ENOENT, errno.ENODATA) else None


def named(error: OSError) -> str:
    """What failed and how, with the file if there is one."""
    file = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    return f"{file}{error.strerror}"


def named_with_limit(error: OSError) -> str:
    """The same, and the limit of ours that it may have met."""
    _, limit = _LIMITS.get(error.errno or 0, (None, ""))
    text = named(error)
    return f"{text} ({limit})" if limit and limit not in text else text
