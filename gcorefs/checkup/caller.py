"""Who we are, and what the kernel lets us do to others.

What a filter or a security module allows is tried on a child of ours, which ends at once.
"""

import errno
import os
from dataclasses import dataclass
from enum import IntEnum

from gcorefs.kernel import ptrace
from gcorefs.kernel.proc import procfile, task_status
from gcorefs.process import readv
from gcorefs.process.threads import NoThread

NOT_KNOWN = -1
_KILLED = errno.EPERM
_INITIAL_USER_NAMESPACE = 0xEFFFFFFD  # include/linux/proc_ns.h, PROC_USER_INIT_INO
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO


class Capability(IntEnum):
    """include/uapi/linux/capability.h"""

    DAC_OVERRIDE = 1
    DAC_READ_SEARCH = 2
    SETGID = 6
    SETUID = 7
    SYS_PTRACE = 19
    SYS_ADMIN = 21
    PERFMON = 38
    BPF = 39
    CHECKPOINT_RESTORE = 40


@dataclass(frozen=True, slots=True)
class Caller:
    uid: int
    """The effective one."""
    capabilities: int
    """The effective ones, a bit for each."""
    ptrace_scope: int | None
    """Of Yama; None: there is no Yama, NOT_KNOWN: /proc does not show it."""
    has_filter: bool
    """A filter of seccomp(2) judges our system calls."""
    seize_errno: int
    """With which error PTRACE_SEIZE of a child fails; 0: it is allowed."""
    is_readv_denied: bool
    """process_vm_readv(2) does not read even our own memory."""
    is_own_pid_namespace: bool
    is_own_user_namespace: bool

    def has(self, capability: Capability) -> bool:
        return bool(self.capabilities >> capability & 1)


def parse_ptrace_scope(text: bytes) -> int:
    """/proc/sys/kernel/yama/ptrace_scope (Documentation/admin-guide/LSM/Yama.rst)."""
    try:
        return int(text)
    except ValueError:
        return NOT_KNOWN


def ask_caller() -> Caller:
    """The caller has one thread."""
    status = task_status.status(os.getpid())
    return Caller(
        uid=os.geteuid(),
        capabilities=int(status["CapEff"], 16),
        ptrace_scope=_ptrace_scope(),
        has_filter=status.get("Seccomp") == b"2",
        seize_errno=_seize_errno(),
        is_readv_denied=readv.is_denied(),
        is_own_pid_namespace=_is_own_namespace("pid", _INITIAL_PID_NAMESPACE),
        is_own_user_namespace=_is_own_namespace("user", _INITIAL_USER_NAMESPACE),
    )


def _ptrace_scope() -> int | None:
    try:
        return parse_ptrace_scope(procfile.read_system("sys/kernel/yama/ptrace_scope"))
    except FileNotFoundError:
        # subset=pid hides all of /proc/sys (proc(5)).
        return None if os.path.exists("/proc/sys/kernel") else NOT_KNOWN
    except OSError:
        return NOT_KNOWN


def _is_own_namespace(kind: str, initial: int) -> bool:
    """True if our namespace is not that of the host, whose inode is always `initial`."""
    try:
        return os.stat(f"/proc/self/ns/{kind}").st_ino != initial
    except OSError:  # the kernel has no such namespaces
        return False


def _seize_errno() -> int:
    """Tried by a child on a child of its own, because a filter may kill who calls ptrace(2).
    NoThread."""
    try:
        pid = os.fork()
    except BlockingIOError as error:
        raise NoThread from error
    if pid == 0:
        answer = errno.EIO
        try:
            answer = _try_to_seize()
        finally:
            os._exit(answer)
    _, status = os.waitpid(pid, 0)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else _KILLED


def _try_to_seize() -> int:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(writing)
            os.read(reading, 1)  # until our parent ends
        finally:
            os._exit(0)
    try:
        ptrace.seize(pid)
    except OSError as error:
        return error.errno or errno.EIO
    return 0
