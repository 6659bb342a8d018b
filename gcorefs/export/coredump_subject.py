"""What coredumpctl(1) shows of a process, as /proc has it."""

import errno
import os
import platform

from gcorefs.export.coredump import Subject
from gcorefs.kernel.proc import procfile, task_status, tasks
from gcorefs.kernel.proc.membership import parse_groups
from gcorefs.process.errors import Reason, told

_OF_SYSTEMD = (b"name=systemd", b"")


def subject(pid: int) -> Subject:
    """ProcessError."""
    with told(pid, Reason.GONE):
        return tasks.ask_live_thread(pid, lambda tid: _subject(pid, tid))


def _subject(pid: int, tid: int) -> Subject:
    status = task_status.status(pid, tid)
    exe = b""
    try:
        exe = os.readlink(os.fsencode(f"/proc/{pid}/task/{tid}/exe"))
    except OSError as error:
        # It may be hidden, there may be none, or it may be longer than a page.
        if error.errno not in (errno.EACCES, errno.ENOENT, errno.ENAMETOOLONG):
            raise
    return Subject(
        pid=pid,
        uid=int(status["Uid"].split()[0]),
        gid=int(status["Gid"].split()[0]),
        comm=procfile.read_of(pid, pid, "comm").removesuffix(b"\n"),
        exe=exe.removesuffix(b" (deleted)"),
        # Not all of it: the journal takes no datagram of more than 208 KiB (net.core.wmem_default).
        cmdline=procfile.read_beginning(f"{pid}/task/{tid}/cmdline")
        .rstrip(b"\0")
        .replace(b"\0", b" "),
        cgroup=_cgroup(procfile.read_of(pid, tid, "cgroup")),
        boot_id=procfile.read_system("sys/kernel/random/boot_id").decode().strip().replace("-", ""),
        hostname=platform.node(),
    )


def _cgroup(text: bytes) -> bytes:
    """The group in the hierarchy in which systemd has a group for each unit; empty without one."""
    groups = parse_groups(text)
    for name in _OF_SYSTEMD:
        for group in groups:
            if name in group.controllers:
                return group.path
    return b""
