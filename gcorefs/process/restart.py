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

from gcorefs.elfcore.regsets import X86_64, Machine

EINTR = 4
ERESTARTNOHAND = 514
ERESTART_RESTARTBLOCK = 516
"""include/linux/errno.h"""

# arch/x86/entry/syscalls/syscall_64.tbl.  Each was seen to return EINTR after a stop without
# any signal (tests/targets/eintr.c has them all).  Those of sockets do with SO_RCVTIMEO or
# SO_SNDTIMEO only (include/net/sock.h, sock_intr_errno): without a time-out the kernel
# restarts them itself.
X86_64_CALLS = {
    # Waits and transfers.
    0: "read",
    1: "write",
    19: "readv",
    20: "writev",
    40: "sendfile",
    42: "connect",
    43: "accept",
    44: "sendto",
    45: "recvfrom",
    46: "sendmsg",
    47: "recvmsg",
    65: "semop",
    128: "rt_sigtimedwait",
    208: "io_getevents",
    220: "semtimedop",
    232: "epoll_wait",
    275: "splice",
    281: "epoll_pwait",
    288: "accept4",
    299: "recvmmsg",
    307: "sendmmsg",
    327: "preadv2",
    328: "pwritev2",
    426: "io_uring_enter",
    441: "epoll_pwait2",
    # A time-out that is not written back.
    23: "select",
    270: "pselect6",
    271: "ppoll",
    # Files of a FUSE server: transfers at a place that the call names.
    17: "pread64",
    18: "pwrite64",
    285: "fallocate",
    295: "preadv",
    296: "pwritev",
    326: "copy_file_range",
    # The same: questions, and what may be done twice.
    2: "open",
    4: "stat",
    5: "fstat",
    6: "lstat",
    8: "lseek",
    21: "access",
    59: "execve",
    74: "fsync",
    75: "fdatasync",
    78: "getdents",
    80: "chdir",
    89: "readlink",
    137: "statfs",
    138: "fstatfs",
    191: "getxattr",
    192: "lgetxattr",
    193: "fgetxattr",
    194: "listxattr",
    195: "llistxattr",
    196: "flistxattr",
    217: "getdents64",
    257: "openat",
    262: "newfstatat",
    267: "readlinkat",
    269: "faccessat",
    322: "execveat",
    332: "statx",
    439: "faccessat2",
}

# arch/x86/entry/syscalls/syscall_32.tbl: the same calls, most of those that take a time in two
# forms (32-bit and 64-bit), and two numbers behind which many stand.
I386_CALLS = {
    3: "read",
    4: "write",
    102: "socketcall",
    117: "ipc",
    145: "readv",
    146: "writev",
    177: "rt_sigtimedwait",
    187: "sendfile",
    239: "sendfile64",
    247: "io_getevents",
    256: "epoll_wait",
    313: "splice",
    319: "epoll_pwait",
    337: "recvmmsg",
    345: "sendmmsg",
    362: "connect",
    364: "accept4",
    369: "sendto",
    370: "sendmsg",
    371: "recvfrom",
    372: "recvmsg",
    378: "preadv2",
    379: "pwritev2",
    417: "recvmmsg_time64",
    420: "semtimedop_time64",
    421: "rt_sigtimedwait_time64",
    426: "io_uring_enter",
    441: "epoll_pwait2",
    82: "select",
    142: "_newselect",
    308: "pselect6",
    309: "ppoll",
    413: "pselect6_time64",
    414: "ppoll_time64",
    180: "pread64",
    181: "pwrite64",
    324: "fallocate",
    333: "preadv",
    334: "pwritev",
    377: "copy_file_range",
    5: "open",
    11: "execve",
    12: "chdir",
    19: "lseek",
    33: "access",
    85: "readlink",
    99: "statfs",
    100: "fstatfs",
    106: "stat",
    107: "lstat",
    108: "fstat",
    118: "fsync",
    140: "_llseek",
    141: "getdents",
    148: "fdatasync",
    195: "stat64",
    196: "lstat64",
    197: "fstat64",
    220: "getdents64",
    229: "getxattr",
    230: "lgetxattr",
    231: "fgetxattr",
    232: "listxattr",
    233: "llistxattr",
    234: "flistxattr",
    268: "statfs64",
    269: "fstatfs64",
    295: "openat",
    300: "fstatat64",
    305: "readlinkat",
    307: "faccessat",
    358: "execveat",
    383: "statx",
    439: "faccessat2",
}

# include/uapi/asm-generic/fcntl.h and include/uapi/linux/falloc.h, the same for both.
_CREATING = 0o100 | 0o200 | 0o1000 | 0o20000000  # O_CREAT, O_EXCL, O_TRUNC, __O_TMPFILE
_MOVING = 0x08 | 0x20  # FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE

UNLESS = {"open": (1, _CREATING), "openat": (2, _CREATING), "fallocate": (1, _MOVING)}
"""Of these calls the argument, counted from 0, and its bits with which they have an effect."""

RESULT_IN_USER = 80
"""Offset of rax in struct user (asm/user_64.h), by which a 64-bit PTRACE_POKEUSER knows the
result of a 32-bit thread too."""

# include/uapi/linux/audit.h
AUDIT_ARCH_X86_64 = 0xC000003E
AUDIT_ARCH_I386 = 0x40000003

CALLS = {AUDIT_ARCH_X86_64: X86_64_CALLS, AUDIT_ARCH_I386: I386_CALLS}
"""By what PTRACE_GET_SYSCALL_INFO says of a thread: a 64-bit program may call by i386's numbers
(int $0x80), and its registers do not tell."""

_I386_ARGUMENTS_IN_64_BITS = ("rbx", "rcx", "rdx", "rsi", "rdi", "rbp")

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
        numbers_of = architecture()
        name = CALLS.get(numbers_of, {}).get(number)
        argument, effects = UNLESS.get(name or "", (0, 0))
        arguments = machine.call_arguments
        if machine is X86_64 and numbers_of == AUDIT_ARCH_I386:
            arguments = _I386_ARGUMENTS_IN_64_BITS
        return name is not None and not machine.word(general, arguments[argument]) & effects
    return result == -ERESTART_RESTARTBLOCK and is_filtered()
