"""Which interrupted calls the kernel does not restart by itself, and how we make it.

A thread that PTRACE_INTERRUPT finds asleep in a system call leaves the call.  Most calls
then return one of -ERESTARTSYS, -ERESTARTNOINTR, -ERESTARTNOHAND or -ERESTART_RESTARTBLOCK,
which never reach the program: on the way out of the stop the kernel runs them again
(arch/x86/kernel/signal.c, arch_do_signal_or_restart).  The calls below return a plain
-EINTR, meant for a signal handler that is not there; the program would see it (signal(7),
"Interruption of system calls and library functions by stop signals").

So at the stop, and only there, one register of such a thread is written: the result becomes
-ERESTARTNOHAND.  The kernel then runs the call again, or, if a handler runs first, returns
the EINTR that the program would have had anyway, with or without SA_RESTART.  From then on it
needs nothing more from us: if we die the next moment, the thread still restarts.

A call that has done part of its work returns that part, never -EINTR, and is let be.  Not
repaired either: a thread that stands in a group-stop.  A job control signal stopped it, and the
EINTR that follows is that signal's own doing.

One of the kernel's own is written over as well, in a thread with a seccomp filter.  After
-ERESTART_RESTARTBLOCK (nanosleep, poll, a futex with a time-out) the kernel has the thread
call restart_syscall(2), which the filter judges by that number (kernel/seccomp.c,
__seccomp_filter); one that does not know it kills the process.  With -ERESTARTNOHAND it is
asked for the call that it has let pass before.

What was walked through: every call of Linux 6.18 that waits until a signal ends it
(signal_pending).  The kernel itself restarts poll, nanosleep, futexes, wait, System V and POSIX
messages, locks, pause, pipes, ttys, inotify, keys, ptrace, fork and sockets without a time-out.
The numbers of those below are the machine's (gcorefs/arch/, Convention.restarted).

Repaired, as the call has done nothing when it returns EINTR, or does the same once more:
- waits: epoll_wait, semop, rt_sigtimedwait, io_getevents, io_uring_enter, sockets with a time-out;
- select and ppoll, whose time-out cannot be written back, or is not to be (fs/select.c,
  poll_select_finish);
- what a FUSE server gives up when it is asked to (FUSE_INTERRUPT): questions about files (stat,
  access, open, getdents), transfers at a place that is named (pread64), fsync;
- fallocate, which stops allocating (mm/shmem.c, fs/hugetlbfs/inode.c).

Let be, as the call may have had an effect, and would fail or have it twice:
- of a FUSE server unlink, rename, mkdir, link, symlink, mknod, an open that creates or truncates,
  a fallocate that moves data, and what sets something (chmod, setxattr);
- openat2, whose flags no register holds;
- ioctl (tcdrain, NBD_DO_IT, KVM_RUN), swapoff, mount, bpf, perf_event_open, init_module.
Nothing to be repaired, as there is no EINTR: getrandom, /dev/urandom, /dev/zero and
copy_file_range come back short, and close with SO_LINGER early.

What stays to be seen: a relative time-out of a call restarted like this begins anew, as it
does in io_pgetevents, which the kernel restarts in the same way; and an AF_INET connect
with SO_SNDTIMEO that then times out says EALREADY where it would have said EINPROGRESS.
"""

from collections.abc import Callable

from gcorefs.arch.machine import Machine

EINTR = 4
ERESTARTNOHAND = 514
ERESTART_RESTARTBLOCK = 516
"""include/linux/errno.h"""

# include/uapi/asm-generic/fcntl.h and include/uapi/linux/falloc.h: on every machine that
# we know.
_CREATING = 0o100 | 0o200 | 0o1000 | 0o20000000  # O_CREAT, O_EXCL, O_TRUNC, __O_TMPFILE
_MOVING = 0x08 | 0x20  # FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE

UNLESS = {"open": (1, _CREATING), "openat": (2, _CREATING), "fallocate": (1, _MOVING)}
"""Of these calls the argument, counted from 0, and its bits with which they have an effect."""

SUSPECT_RESULTS = (-EINTR, -ERESTART_RESTARTBLOCK)
"""With any other result a thread does not need it."""


def needs_restart(
    machine: Machine,
    general: bytes,
    architecture: Callable[[], int],
    is_filtered: Callable[[], bool],
) -> bool:
    """True where a thread with these registers would see the stop.

    By an EINTR that is ours, or by a call that its seccomp filter may not know.  Asked only
    where it matters: by whose numbers it calls, and whether it has a filter.
    """
    result = machine.word(general, machine.call_result)
    if result == -EINTR:
        number = machine.word(general, machine.call_number)
        convention = machine.conventions.get(architecture())
        name = None if convention is None else convention.restarted.get(number)
        if convention is None or name is None:
            return False
        argument, effects = UNLESS.get(name, (0, 0))
        return not machine.word(general, convention.arguments[argument]) & effects
    return result == -ERESTART_RESTARTBLOCK and is_filtered()
