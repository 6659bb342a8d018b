"""The numbers of the aarch64 system calls that gcorefs must know.

They are those of include/uapi/asm-generic/unistd.h.  There is no call of old: select, epoll_wait,
poll, open, stat and their like are other calls here.
"""

AUDIT_ARCH_AARCH64 = 0xC00000B7  # include/uapi/linux/audit.h

# The same calls as in x86_calls.py.
AARCH64_CALLS = {
    # Waits and transfers.
    4: "io_getevents",
    22: "epoll_pwait",
    63: "read",
    64: "write",
    65: "readv",
    66: "writev",
    71: "sendfile",
    76: "splice",
    137: "rt_sigtimedwait",
    192: "semtimedop",
    193: "semop",
    202: "accept",
    203: "connect",
    206: "sendto",
    207: "recvfrom",
    211: "sendmsg",
    212: "recvmsg",
    242: "accept4",
    243: "recvmmsg",
    269: "sendmmsg",
    286: "preadv2",
    287: "pwritev2",
    426: "io_uring_enter",
    427: "io_uring_register",
    441: "epoll_pwait2",
    # Calls with a time-out that is not written back.
    72: "pselect6",
    73: "ppoll",
    # Files of a FUSE server: transfers at an offset that the call names.
    47: "fallocate",
    67: "pread64",
    68: "pwrite64",
    69: "preadv",
    70: "pwritev",
    285: "copy_file_range",
    # Files of a FUSE server: queries, and calls that may be made twice.
    8: "getxattr",
    9: "lgetxattr",
    10: "fgetxattr",
    11: "listxattr",
    12: "llistxattr",
    13: "flistxattr",
    25: "fcntl",
    27: "inotify_add_watch",
    43: "statfs",
    44: "fstatfs",
    48: "faccessat",
    49: "chdir",
    50: "fchdir",
    51: "chroot",
    56: "openat",
    61: "getdents64",
    62: "lseek",
    78: "readlinkat",
    79: "newfstatat",
    80: "fstat",
    82: "fsync",
    83: "fdatasync",
    221: "execve",
    227: "msync",
    263: "fanotify_mark",
    264: "name_to_handle_at",
    265: "open_by_handle_at",
    281: "execveat",
    291: "statx",
    428: "open_tree",
    439: "faccessat2",
    464: "getxattrat",
    465: "listxattrat",
    468: "file_getattr",
}

AARCH64_BPF = 280

# openat, openat2.
AARCH64_OPENING = frozenset((56, 437))

# The calls that gcorefs makes without libc.
AARCH64_OWN_CALLS = {
    "capset": 91,
    "get_robust_list": 100,
    "timer_create": 107,
    "timer_settime": 110,
    "setresuid": 147,
    "setresgid": 149,
    "setgroups": 159,
    "bpf": AARCH64_BPF,
    "userfaultfd": 282,
    "io_setup": 0,
    "io_destroy": 1,
    "memfd_secret": 447,
    "mseal": 462,
}
