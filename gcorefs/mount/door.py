"""Who may open: the questions that are asked before a file is given out.

Both run in a thread: they read /proc, and the kernel may make them wait.
"""

from gcorefs.process import access, procfs
from gcorefs.process.access import Opener
from gcorefs.process.errors import ProcessError, Reason, told
from gcorefs.process.procfs import Process
from gcorefs.snapshot import refuse_early


def first_door(process: Process, tid: int, uid: int, gid: int) -> Opener:
    """The opener (thread `tid`), where it may have the process stopped.

    EINVAL, EDEADLK, ESRCH, EBUSY, EACCES: see errors.Reason.
    """
    with told(process.pid, Reason.GONE):
        if procfs.stat(process.pid).is_kernel_thread:
            raise ProcessError(Reason.KERNEL_THREAD, process.pid)
    opener = access.identify(tid, uid, gid, process.pid)
    refuse_early(process, opener)
    return opener


def joiners_door(process: Process, tid: int, uid: int, gid: int) -> Opener:
    """The opener, where it may see a process that is stopped already.  EDEADLK, ESRCH, EACCES."""
    opener = access.identify(tid, uid, gid, process.pid)
    if process.pid == opener.pid:
        raise ProcessError(Reason.CALLER, process.pid)
    access.check(opener, process.pid)
    return opener
