"""Things that the service must not be able to do, tried in its place.

Prints one JSON object: for each deed, the name of the errno with which it failed, or "done".
System calls get arguments with which they cannot do any harm: if the filter lets a call through,
it fails with another errno than the filter's.
"""

import ctypes
import errno
import json
import mmap
import os
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path

CALLS = [
    "kill", "tkill", "pidfd_open", "pidfd_send_signal", "process_vm_writev", "setns", "unshare",
    "pivot_root", "chroot", "open_by_handle_at", "name_to_handle_at", "fsopen", "move_mount",
    "open_tree", "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "init_module",
    "finit_module", "delete_module", "kexec_load", "reboot", "swapon", "acct", "settimeofday",
    "clock_settime", "adjtimex", "sethostname", "setdomainname", "keyctl", "add_key", "chown",
    "fchownat", "chmod", "fchmodat", "unlink", "unlinkat", "rename", "renameat2", "symlink",
    "link", "mknod", "setxattr", "truncate", "utimensat", "quotactl", "syslog", "ioperm", "iopl",
    "personality", "sched_setscheduler", "bind", "listen", "accept4", "setgid",
    "setreuid", "mlockall", "shmget", "msgget", "semget", "fanotify_init", "seccomp",
]  # fmt: skip
# The headers of Debian 12 lack these.
NEWER_CALLS = {"fchmodat2": 452, "setxattrat": 463, "removexattrat": 466, "file_setattr": 469}

_HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
_NUMBERS = NEWER_CALLS | dict(re.findall(r"#define __NR_(\w+) (\d+)", _HEADER.read_text()))
_libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWUTS = 0x04000000
SIGCHLD = 17


def call(name: str, *arguments: int) -> None:
    padded = [ctypes.c_long(each) for each in (*arguments, *[-1] * 6)][:6]
    if _libc.syscall(ctypes.c_long(int(_NUMBERS[name])), *padded) < 0:
        raise OSError(ctypes.get_errno(), name)


def clone_into_a_namespace() -> None:
    child = _libc.syscall(int(_NUMBERS["clone"]), CLONE_NEWUTS | SIGCHLD, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    if child < 0:
        raise OSError(ctypes.get_errno(), "clone")
    os.waitpid(child, 0)


def create(path: str, mode: int) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, mode))


def open_device(path: str) -> None:
    os.close(os.open(path, os.O_RDWR))


DEEDS: dict[str, Callable[[], object]] = {
    "a socket of AF_INET": lambda: socket.socket(socket.AF_INET),
    "a socket of AF_NETLINK": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "a socket of AF_UNIX": lambda: socket.socket(socket.AF_UNIX).close(),
    "memory to write and execute": lambda: mmap.mmap(-1, 4096, prot=7),
    "a namespace by clone": clone_into_a_namespace,
    "a set-uid file": lambda: create("/run/tmp/set-uid", 0o4755),
    "a plain file": lambda: create("/run/tmp/plain", 0o755),
    "/dev/fuse": lambda: open_device("/dev/fuse"),
    "/dev/null": lambda: open_device("/dev/null"),
    # A device without a driver: ENXIO if the open is allowed.
    "a device": lambda: open_device("/dev/other"),
    **{name: lambda name=name: call(name) for name in [*CALLS, *NEWER_CALLS]},  # type: ignore[misc]
}


def outcome(deed: Callable[[], object]) -> str:
    try:
        deed()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


if __name__ == "__main__":
    json.dump({name: outcome(deed) for name, deed in DEEDS.items()}, sys.stdout)
