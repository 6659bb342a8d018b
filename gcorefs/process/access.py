"""May this opener see that process?  The kernel decides, under the opener's credentials.

"The instigator must have permission for full inspection and control, a la ptrace."  An opener
that may open /proc/PID/mem may have the core.  The check is PTRACE_MODE_ATTACH_FSCREDS, which
looks at ids, capabilities, dumpability, user namespaces and security modules (ptrace(2), "Ptrace
access mode checking").  So a temporary thread takes on the opener's credentials and opens that
file.  If the opener has the same credentials as we, as root has, no thread is needed.

Credentials belong to threads, and a core has the registers of all of them.  Where threads have
different ones (setresuid(2) without the C library), the kernel is asked about each.

The thread that asks is never the tracer's, and its real and saved ids stay ours: an opener that
owned the thread could signal it.  setfsuid(2) alone is not enough: an effective uid of 0 owns every
user namespace that root made.
"""

import errno
import os
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import TypeVar

from gcorefs import tuning
from gcorefs.kernel import credentials
from gcorefs.kernel.proc import procfile, task_stat, task_status, tasks, user_namespaces
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.threads import start_thread
from gcorefs.steps import Step

T = TypeVar("T")

_CAP_SYS_PTRACE = 19  # include/uapi/linux/capability.h


@dataclass(frozen=True, slots=True)
class Opener:
    """The process that opens a file, and the credentials that the kernel judges."""

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...]
    capabilities: int

    @property
    def may_trace_all(self) -> bool:
        return bool(self.capabilities >> _CAP_SYS_PTRACE & 1)

    @property
    def credentials(self) -> "Opener":
        """The same without the process: all that the kernel judges."""
        return replace(self, pid=0)

    def has_credentials_of(self, other: "Opener") -> bool:
        return self.credentials == other.credentials


def identify(tid: int, uid: int, gid: int, target: int) -> Opener:
    """The opener behind a request: thread `tid`, with the ids that FUSE gives for it.

    The thread waits in its open(2), so /proc shows its current state.  EACCES: /proc does not show
    it, or something does not match.  `target` only names the process in the error.
    """
    tuning.now().reach(Step.IDENTIFY, target)
    try:
        if tid == 0:  # outside our pid namespace
            raise ProcessError(Reason.UNKNOWN_OPENER, target, "it is in another pid namespace")
        stat, status = task_stat.stat(tid), task_status.status(tid)
        _same_namespace(tid, target)
        label, ours = _label(tid), _label(os.getpid())
    except ProcessLookupError as error:
        raise ProcessError(Reason.UNKNOWN_OPENER, target, "it is gone") from error
    except PermissionError as error:  # without root, of one that is not dumpable
        raise ProcessError(Reason.UNKNOWN_OPENER, target, "/proc does not show it") from error
    if label != ours:
        raise ProcessError(Reason.UNKNOWN_OPENER, target, "its security label is not ours")
    # An io_uring worker opens with the credentials of the submitter, but shows the credentials of
    # its creation (io_uring/io_uring.c, io_issue_sqe).  The kernel's NFS server does the same.
    if stat.is_worker or stat.is_kernel_thread:
        raise ProcessError(Reason.UNKNOWN_OPENER, target, "it is a thread of the kernel")
    # The four ids are real, effective, saved and file system; FUSE gives the file system id
    # (fs/fuse/dev.c, fuse_get_req).
    uids, gids = status["Uid"].split(), status["Gid"].split()
    if (int(uids[3]), int(gids[3])) != (uid, gid):
        raise ProcessError(Reason.UNKNOWN_OPENER, target, "its ids changed")
    if uids[1] != uids[3] or gids[1] != gids[3]:
        raise ProcessError(Reason.UNKNOWN_OPENER, target, "its effective ids do not match")
    return Opener(
        pid=int(status["Tgid"]),
        uid=uid,
        gid=gid,
        groups=tuple(int(group) for group in status["Groups"].split()),
        capabilities=int(status["CapEff"], 16),
    )


def check(opener: Opener, pid: int, tids: Collection[int] | None = None) -> None:
    """Return if the opener may have the core of `pid`; else EACCES, ESRCH.

    `tids`: the threads in it (default: all).  A thread that is gone denies nothing.
    """
    tuning.now().reach(Step.CHECK, pid)
    try:
        if opener.may_trace_all:  # then no thread differs from another
            tids = ()
        elif tids is None:
            tids = tasks.tids(pid)
        asked = tids
        under(opener, lambda: _ask(pid, asked))
    except PermissionError as error:
        raise ProcessError(Reason.DENIED, pid, f"uid {opener.uid}") from error
    except ProcessLookupError as error:
        raise ProcessError(Reason.GONE, pid) from error


def check_own(pid: int) -> None:
    """Return if this process may have the core of `pid`; else EACCES, ESRCH."""
    try:
        _ask(pid, ())
    except PermissionError as error:
        raise ProcessError(Reason.DENIED, pid) from error
    except ProcessLookupError as error:
        raise ProcessError(Reason.GONE, pid) from error


def _is_like_us(opener: Opener, permitted: int, effective: int) -> bool:
    """True if a thread that takes on the opener's credentials has those of this thread."""
    return (
        (opener.uid, opener.gid) == (os.geteuid(), os.getegid())
        and {*opener.groups, opener.gid} == {*os.getgroups(), os.getegid()}
        and opener.capabilities & permitted == effective == permitted
    )


def under(opener: Opener, question: Callable[[], T]) -> T:
    """Call `question` under the opener's credentials, in another thread if they are not ours.

    Returns and raises what `question` does.  EACCES: we cannot take on the credentials.
    """
    status = task_status.status(os.getpid(), threading.get_native_id())
    ours = int(status["CapPrm"], 16)
    if _is_like_us(opener, ours, int(status["CapEff"], 16)):
        return question()
    answers: list[T] = []
    failure: list[BaseException] = []

    def ask() -> None:
        try:
            _assume(opener, ours)
            answers.append(question())
        except BaseException as error:  # handed to the caller's thread
            failure.append(error)

    start_thread(f"door-{opener.pid}", ask).join()
    if failure:  # pop it: the traceback of the error refers to this frame, which makes a cycle
        raise failure.pop()
    return answers.pop()


def _ask(pid: int, tids: Collection[int]) -> None:
    """Ask about a live thread, and about each of `tids`.  ESRCH: none is alive.  EACCES."""
    reach = tuning.now().reach
    reach(Step.BEFORE_DOOR, pid)
    tasks.ask_live_thread(pid, lambda tid: _open_memory(pid, tid))
    for tid in tids:
        if tid == pid:
            continue
        try:
            _open_memory(pid, tid)
        except ProcessLookupError:
            continue
        except PermissionError:
            # No core has a worker of the kernel, which may have kept the credentials of a root that
            # has made a ring and become somebody else (io_uring/sqpoll.c, io_sq_offload_create).
            if not task_stat.stat(pid, tid).is_worker:
                raise
    reach(Step.AFTER_DOOR, pid)


def _open_memory(pid: int, tid: int) -> None:
    os.close(procfile.open_file(f"{pid}/task/{tid}/mem"))


def _assume(opener: Opener, ours: int) -> None:
    """Take on the opener's credentials, in this thread and for good.  `ours`: capabilities."""
    if os.geteuid() == 0:
        credentials.set_thread_groups(opener.groups)
        credentials.set_thread_effective_ids(opener.uid, opener.gid)
    elif (opener.uid, opener.gid) != (os.geteuid(), os.getegid()):
        raise PermissionError("only root can answer for another user")
    # We cannot give the thread capabilities that we lack: that only makes the answer stricter.
    credentials.set_thread_capabilities(opener.capabilities & ours)


def _same_namespace(tid: int, target: int) -> None:
    if user_namespaces.user_namespace(tid) != user_namespaces.user_namespace(os.getpid()):
        raise ProcessError(Reason.UNKNOWN_OPENER, target, "it is in another user namespace")


def _label(tid: int) -> bytes:
    """The security module's label of a thread; empty if no module gives one.  ESRCH."""
    try:
        return procfile.read(f"{tid}/attr/current")
    except FileNotFoundError:  # a kernel without security modules
        return b""
    except OSError as error:
        if error.errno not in _NO_LABELS:
            raise
        return b""


# security/security.c, security_getprocattr: no module answers.
_NO_LABELS = (errno.EINVAL, errno.EOPNOTSUPP)
