"""Who may open: the checks before gcorefs gives anybody a file.

They run in a thread, because they read /proc, and the kernel may make them wait.
"""

from collections.abc import Callable, Container

from gcorefs import tuning
from gcorefs.kernel.proc import task_stat, task_status
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.process import access
from gcorefs.process.access import Opener
from gcorefs.process.admission import refuse_early
from gcorefs.process.errors import ProcessError, Reason, told
from gcorefs.steps import Step

Door = Callable[[Process, int, int, int], Opener]
"""The opener of a process, by thread, uid and gid.  EINVAL, EDEADLK, ESRCH, EBUSY, EACCES."""

# include/uapi/linux/capability.h
_CAP_DAC_OVERRIDE = 1 << 1
_CAP_DAC_READ_SEARCH = 1 << 2


def first_door(tracers: Container[int], process: Process, tid: int, uid: int, gid: int) -> Opener:
    """The opener (thread `tid`), if it may stop the process.  `tracers`: our workers.

    EINVAL, EDEADLK, ESRCH, EBUSY, EACCES: see errors.Reason.
    """
    with told(process.pid, Reason.GONE):
        if task_stat.stat(process.pid).is_kernel_thread:
            raise ProcessError(Reason.KERNEL_THREAD, process.pid)
    opener = access.identify(tid, uid, gid, process.pid)
    tuning.now().reach(Step.IDENTIFIED, process.pid)
    refuse_early(process, opener, tracers)
    return opener


def joiners_door(process: Process, tid: int, uid: int, gid: int) -> Opener:
    """The opener, if it may see a process that is already stopped.  EDEADLK, ESRCH, EACCES."""
    opener = access.identify(tid, uid, gid, process.pid)
    if process.pid == opener.pid:
        raise ProcessError(Reason.CALLER, process.pid)
    access.check(opener, process.pid)
    tuning.now().reach(Step.JOINER_JUDGED, process.pid)
    return opener


def asked(door: Door) -> Door:
    """The same door, for a look-up that stops a process.

    Before an open(2) reaches us, the kernel has checked owner and mode (default_permissions).  For
    a look-up it has checked only search permission for the directory, which everybody has.
    """

    def asked_door(process: Process, tid: int, uid: int, gid: int) -> Opener:
        opener = door(process, tid, uid, gid)
        with told(process.pid, Reason.GONE):
            owner, _ = task_status.owner_of(str(process.pid))
        # The file is 0400 (fs/namei.c, generic_permission).
        privileged = opener.capabilities & (_CAP_DAC_OVERRIDE | _CAP_DAC_READ_SEARCH)
        if opener.uid != owner and not privileged:
            raise ProcessError(Reason.DENIED, process.pid, f"uid {uid}")
        return opener

    return asked_door
