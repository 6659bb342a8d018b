"""Interrupted system calls that the kernel does not restart by itself, and how we make it do so.

If PTRACE_INTERRUPT finds a thread asleep in a system call, the thread leaves the call.  Most calls
then return -ERESTARTSYS, -ERESTARTNOINTR, -ERESTARTNOHAND or -ERESTART_RESTARTBLOCK, which never
reach the program: when the thread leaves the stop, the kernel runs the call again
(arch/x86/kernel/signal.c, arch_do_signal_or_restart).  The calls below return a plain -EINTR, which
is meant for a signal handler that does not exist; the program would see it (signal(7),
"Interruption of system calls and library functions by stop signals").

So at the stop, and only then, we write one register of such a thread: its result becomes
-ERESTARTNOHAND.  The kernel then runs the call again.  If a handler runs first, the call returns
the EINTR that the program would have had anyway, with or without SA_RESTART.  From then on the
thread needs nothing more from us: if we die in the next moment, it still restarts the call.

bpf(2) has a result of its own.  The verifier gives up with -EAGAIN if a signal is pending
(kernel/bpf/verifier.c, do_check), and nothing is loaded then.  That becomes -ERESTARTNOINTR, after
which the kernel runs the call again even if a handler has run: libbpf does not expect an EINTR.

A call that has done part of its work returns that part, never -EINTR, and is not changed.  A thread
in group-stop is not repaired either: a job control signal stopped it, and that signal causes the
EINTR that follows.

In a thread with a seccomp filter, one of the kernel's own results is replaced too.  After
-ERESTART_RESTARTBLOCK (nanosleep, poll, a futex with a time-out) the kernel makes the thread call
restart_syscall(2).  The filter judges it by that number (kernel/seccomp.c, __seccomp_filter), and a
filter that does not know the number kills the process.  With -ERESTARTNOHAND the filter sees the
call that it has allowed before.

The lists below cover every call of Linux 6.18 that waits until a signal ends it (signal_pending).
The kernel itself restarts poll, nanosleep, futexes, wait, System V and POSIX messages, locks,
pause, pipes, ttys, inotify, keys, ptrace, fork and sockets without a time-out.  The numbers of the
calls below belong to the machine (gcorefs/arch/, Convention.restarted).

Repaired, because the call has done nothing when it returns EINTR, or does the same once more:
- waits: epoll_wait, semop, rt_sigtimedwait, io_getevents, io_uring_enter, sockets with a time-out;
- select and ppoll, if the time-out cannot or must not be written back (fs/select.c,
  poll_select_finish);
- calls that a FUSE server gives up on request (FUSE_INTERRUPT): queries about files (stat, access,
  open, getdents, F_GETLK), transfers at a given offset (pread64), fsync and msync; and calls that
  fail at the look-up of a path, or before they use what they found (chdir, inotify_add_watch);
- fallocate, which stops allocating (mm/shmem.c, fs/hugetlbfs/inode.c);
- io_uring_register, if it waits for the end of what it cancels (io_uring/cancel.c, io_sync_cancel).

Not repaired, because the call may have had an effect, and would fail or have it twice:
- at a FUSE server: unlink, rename, mkdir, link, symlink, mknod, an open that creates or truncates,
  a fallocate that moves data, and calls that set something (chmod, setxattr);
- openat2, because no register holds its flags;
- poll, select and epoll_wait, which report POLLERR (fs/fuse/file.c, fuse_file_poll);
- ioctl (tcdrain, NBD_DO_IT, KVM_RUN), swapoff, mount, perf_event_open, init_module, and bpf
  (BPF_PROG_TEST_RUN) if it gives EINTR.

Nothing to repair, because there is no EINTR: getrandom, /dev/urandom, /dev/zero, copy_file_range
and getdents64 return less than asked, and close with SO_LINGER returns early.

What a program can still see: a relative time-out of a call that is restarted in this way starts
again from its full length, as in io_pgetevents, which the kernel restarts in the same way; an
AF_INET connect with SO_SNDTIMEO that then times out gives EALREADY instead of EINPROGRESS; and a
cancellation finds nothing (ENOENT) if the request of io_uring has ended during the stop.
"""

from collections.abc import Callable

from gcorefs import tuning
from gcorefs.arch.machine import Machine
from gcorefs.steps import Step

EINTR = 4
EAGAIN = 11
ERESTARTNOINTR = 513
ERESTARTNOHAND = 514
ERESTART_RESTARTBLOCK = 516
"""include/linux/errno.h"""

# include/uapi/asm-generic/fcntl.h and include/uapi/linux/falloc.h: the same on every machine that
# we know.
_CREATING = 0o100 | 0o200 | 0o1000 | 0o20000000  # O_CREAT, O_EXCL, O_TRUNC, __O_TMPFILE
_MOVING = 0x08 | 0x20  # FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE

UNLESS = {
    "open": (1, _CREATING),
    "openat": (2, _CREATING),
    "open_by_handle_at": (2, _CREATING),
    "fallocate": (1, _MOVING),
}
"""Calls that may have an effect: the index of an argument, and the bits that cause the effect."""

ONLY = {"io_uring_register": (1, 24)}  # include/uapi/linux/io_uring.h, IORING_REGISTER_SYNC_CANCEL
"""Calls that stand for many: the index of an argument, and the one value that may be made twice."""

_USE_REGISTERED_RING = 1 << 31
"""include/uapi/linux/io_uring.h: a flag beside that value."""

_BPF_PROG_LOAD = 5
"""include/uapi/linux/bpf.h"""

_SIGN = 1 << 31
_INT = 2 * _SIGN - 1

SUSPECT_RESULTS = (-EINTR, -EAGAIN, -ERESTART_RESTARTBLOCK)
"""A thread with any other result needs no repair."""


def needs_restart(
    machine: Machine,
    general: bytes,
    architecture: Callable[[], int],
    is_filtered: Callable[[], bool],
) -> bool:
    """True if a thread with these registers would see the stop.

    It would see an EINTR or EAGAIN that we caused, or make a call that its seccomp filter may not
    know.  The calling convention and the seccomp filter are looked up only if they matter.
    """
    result = machine.word(general, machine.call_result)
    number = _number(machine, general)
    if result == -EINTR:
        convention = machine.conventions.get(architecture())
        name = None if convention is None else convention.restarted.get(number)
        if convention is None or name is None:
            return False
        if name in ONLY:
            argument, only = ONLY[name]
            value = machine.word(general, convention.arguments[argument])
            return value & _INT & ~_USE_REGISTERED_RING == only
        argument, effects = UNLESS.get(name, (0, 0))
        return not machine.word(general, convention.arguments[argument]) & effects
    if result == -EAGAIN:
        convention = machine.conventions.get(architecture())
        if convention is None or number != convention.bpf:
            return False
        return machine.word(general, convention.arguments[0]) & _INT == _BPF_PROG_LOAD
    # Outside of a call the number is negative, and the register has a value of the program
    # (arch/x86/kernel/signal.c, arch_do_signal_or_restart: syscall_get_nr).
    return result == -ERESTART_RESTARTBLOCK and number >= 0 and is_filtered()


def restarting_result(machine: Machine, general: bytes) -> int:
    """The result with which the kernel makes a thread that needs it run its call again."""
    was_eagain = machine.word(general, machine.call_result) == -EAGAIN
    return -ERESTARTNOINTR if was_eagain else -ERESTARTNOHAND


def _number(machine: Machine, general: bytes) -> int:
    """The number of the system call.  The kernel takes the lower half of a 64-bit register
    (arch/x86/entry/common.c, do_syscall_64: an int)."""
    number = machine.word(general, machine.call_number) & _INT
    return number - 2 * _SIGN if number & _SIGN else number


def tell_repaired(pid: int) -> None:
    """The next restart of a thread of this process is due to us (steps.py)."""
    tuning.now().reach(Step.REPAIRED_ONE, pid)
