"""May this opener see that process?  The kernel decides, under the opener's credentials.

"The instigator must have permission for full inspection and control, a la ptrace."  Whoever
may open /proc/PID/mem may have the core: PTRACE_MODE_ATTACH_FSCREDS, in which ids,
capabilities, dumpability, user namespaces and security modules all have their say
(ptrace(2), "Ptrace access mode checking").  So a thread that lives for this one question
takes on the opener's credentials and opens that file; who has the very same as we, as root
has, is answered without one.

The thread is never the tracer's, and its real and saved ids stay ours: an opener who owned
it could signal it.  setfsuid(2) alone would not do: an effective uid of 0 owns every user
namespace that root made.
"""

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from gcorefs.kernel import credentials
from gcorefs.kernel.proc import procfile, task_stat, task_status, tasks, user_namespaces
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.threads import start_thread

T = TypeVar("T")

_CAP_SYS_PTRACE = 19  # include/uapi/linux/capability.h


@dataclass(frozen=True, slots=True)
class Opener:
    """Who opens: the credentials that the kernel judges."""

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...]
    capabilities: int

    @property
    def may_trace_all(self) -> bool:
        return bool(self.capabilities >> _CAP_SYS_PTRACE & 1)

    def has_credentials_of(self, other: "Opener") -> bool:
        return replace(self, pid=other.pid) == other


def identify(tid: int, uid: int, gid: int, target: int) -> Opener:
    """The opener behind a request: thread `tid`, with the ids that FUSE gives for it.

    The thread waits in its open(2), so what /proc says of it holds.  EACCES where it cannot
    be seen, or where something does not match; `target` only names the process in the error.
    """
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
    # An io_uring worker opens with the credentials of whoever submits, and shows those that it
    # was born with (io_uring/io_uring.c, io_issue_sqe); so does the kernel's NFS server.
    if stat.is_worker or stat.is_kernel_thread:
        raise ProcessError(Reason.UNKNOWN_OPENER, target, "it is a thread of the kernel's own")
    # The four ids are real, effective, saved and file system; FUSE gives the last
    # (fs/fuse/dev.c, fuse_get_req).
    uids, gids = status["Uid"].split(), status["Gid"].split()
    if (int(uids[3]), int(gids[3])) != (uid, gid):
        raise ProcessError(Reason.UNKNOWN_OPENER, target, "its ids changed")
    if uids[1] != uids[3] or gids[1] != gids[3]:
        raise ProcessError(Reason.UNKNOWN_OPENER, target, "its effective ids are not these")
    return Opener(
        pid=int(status["Tgid"]),
        uid=uid,
        gid=gid,
        groups=tuple(int(group) for group in status["Groups"].split()),
        capabilities=int(status["CapEff"], 16),
    )


def check(opener: Opener, pid: int) -> None:
    """Return where the opener may have the core of `pid`; EACCES, ESRCH where not."""
    try:
        under(opener, lambda: _ask(pid))
    except PermissionError as error:
        raise ProcessError(Reason.DENIED, pid, f"uid {opener.uid}") from error
    except ProcessLookupError as error:
        raise ProcessError(Reason.GONE, pid) from error


def _is_like_us(opener: Opener, permitted: int, effective: int) -> bool:
    """True where a thread that took on its credentials would have those of this one."""
    return (
        (opener.uid, opener.gid) == (os.geteuid(), os.getegid())
        and {*opener.groups, opener.gid} == {*os.getgroups(), os.getegid()}
        and opener.capabilities & permitted == effective == permitted
    )


def under(opener: Opener, question: Callable[[], T]) -> T:
    """The answer to a question that is asked under the opener's credentials, in a thread of its own
    where they are not ours.  What the question raises; EACCES where we cannot take them on."""
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
        except BaseException as error:  # handed to the caller, in whose thread it belongs
            failure.append(error)

    start_thread(f"gcorefs-door-{opener.pid}", ask).join()
    if failure:  # and none is left: this frame will be in the traceback of the error
        raise failure.pop()
    return answers.pop()


def _ask(pid: int) -> None:
    tasks.ask_live_thread(pid, lambda tid: _open_memory(pid, tid))


def _open_memory(pid: int, tid: int) -> None:
    os.close(procfile.open_file(f"{pid}/task/{tid}/mem"))


def _assume(opener: Opener, ours: int) -> None:
    """Take on the opener's credentials, in this thread and for good.  `ours`: capabilities."""
    if os.geteuid() == 0:
        credentials.set_thread_groups(opener.groups)
        credentials.set_thread_effective_ids(opener.uid, opener.gid)
    elif (opener.uid, opener.gid) != (os.geteuid(), os.getegid()):
        raise PermissionError("only root can answer for another user")
    # What the opener has beyond us we cannot lend it: that only makes the answer stricter.
    credentials.set_thread_capabilities(opener.capabilities & ours)


def _same_namespace(tid: int, target: int) -> None:
    if user_namespaces.user_namespace(tid) != user_namespaces.user_namespace(os.getpid()):
        raise ProcessError(Reason.UNKNOWN_OPENER, target, "it is in another user namespace")


def _label(tid: int) -> bytes:
    """The security module's label of a thread; empty where no module gives any.  ESRCH."""
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
