"""Stops that the first process of a pid namespace would not have seen without us.

A SIGSTOP from inside the namespace cannot stop it (pid_namespaces(7)).  But the kernel discards no
signal for a tracee (kernel/signal.c, sig_ignored), and when the tracee is let go it obeys this one
(get_signal, sig_kernel_only): a container would stand still for ever.
"""

import contextlib
import os
import signal

from gcorefs.kernel import ptrace
from gcorefs.kernel.proc import task_status

_STOP = 1 << (signal.SIGSTOP - 1)


def is_first(pid: int) -> bool:
    """True for the first process of a pid namespace.  False if it is gone."""
    try:
        return task_status.status(pid)["NSpid"].split()[-1] == b"1"
    except OSError:
        return False


def passed_on(tid: int, number: int) -> int:
    """The signal with which such a process goes on, of which this thread stands in the stop for a
    signal (ptrace(2), signal-delivery-stop).  ESRCH."""
    return 0 if number == signal.SIGSTOP and ptrace.get_sender(tid) else number


def discard_stop(pid: int, tid: int) -> None:
    """Discard a SIGSTOP that is queued for such a process and comes from inside its namespace.

    `tid`: a thread of it that stands still and is about to be let go.  A SIGCONT takes the other
    signal from every queue (kernel/signal.c, prepare_signal), and then does nothing itself, unless
    the process has a handler for it.
    """
    with contextlib.suppress(OSError):  # it is gone
        status = task_status.status(pid, tid)
        queued = int(status["SigPnd"], 16) | int(status["ShdPnd"], 16)
        # A sender outside has no pid in the namespace, and nor has the kernel.
        if queued & _STOP and ptrace.get_queued_sender(tid, signal.SIGSTOP):
            os.kill(pid, signal.SIGCONT)
