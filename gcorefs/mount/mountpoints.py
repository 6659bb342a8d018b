"""The mounts of this host, as they look from outside: where they are, whether their servers answer,
and how one is taken away.

`gcorefs status` and `umount` need no more than this, and so not the libraries of a server.
"""

import contextlib
import enum
import errno
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Callable

from gcorefs.errors import GcorefsError
from gcorefs.kernel import statx
from gcorefs.kernel.proc import tasks
from gcorefs.kernel.proc.mountinfo import Mount, parse_mounts
from gcorefs.kernel.proc.procfile import FormatError
from gcorefs.process.errors import named

FSTYPE = "fuse.gcorefs"
CORE_FSTYPE = "fuse.gcorefs-core"
"""Of one compressed core (core_file.py)."""

KINDS = (FSTYPE, CORE_FSTYPE)

NOT_MOUNTED = f"no gcorefs is mounted there; findmnt -t {FSTYPE} shows where"
"""What a command says of another directory."""

_PATIENCE = 2000
"""Milliseconds."""


class State(enum.Enum):
    ANSWERS = "already mounted"
    DEAD = "a mount whose server is gone"
    SILENT = "a mount whose server does not answer"


class MountError(GcorefsError):
    """There is no mount.  The text is one line for people."""


def check_mountpoint(path: str) -> str:
    """The place of a mount at `path`, as `place_of`.  MountError if nothing can be mounted there.
    Its text says what to do about it."""
    if not os.path.exists("/dev/fuse"):
        raise MountError("there is no /dev/fuse: load the module with 'modprobe fuse'")
    if not tasks.is_ours():
        raise MountError(f"{tasks.NOT_OURS}: mount one there")
    # Without a child: what follows could hang as well, and a service may make none.
    path = path if fstype(path) is not None else _without_links(path)
    if fstype(path) in KINDS:
        raise MountError(f"{path}: {state(path).value}; 'gcorefs umount {path}' takes it away")
    try:
        if not os.path.isdir(path):
            os.stat(path)
            raise MountError(f"{path}: not a directory; name one that is empty")
    except OSError as error:
        step = f"; mkdir -p {path}" if error.errno == errno.ENOENT else ""
        raise MountError(f"{path}: {error.strerror}{step}") from error
    return path


def fstype(path: str) -> str | None:
    """The type of the file system that is mounted at `path` itself, an absolute path without links;
    None if there is none."""
    return mounts_in(_mountinfo()).get(os.fsencode(path))


def mountpoints() -> list[str]:
    """The places where root or the calling user has mounted gcorefs.

    Another user may have mounted a file system that only calls itself gcorefs and never answers.
    No signal could then end a caller that asks it (fs/fuse/dev.c, request_wait_answer).
    """
    return [
        os.fsdecode(place)
        for place, mount in _on_top(_mountinfo()).items()
        if mount.kind == FSTYPE.encode() and _user(mount) in (0, os.geteuid())
    ]


def _user(mount: Mount) -> int | None:
    """The user who made a FUSE mount (fs/fuse/inode.c, fuse_show_options)."""
    users = [word for word in mount.options.split(b",") if word.startswith(b"user_id=")]
    return int(users[0].removeprefix(b"user_id=")) if users else None


def is_gcorefs(fd: int) -> bool:
    """True if an open file is on a mount of gcorefs.  MountError."""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as info:
        fields = dict(line.split(b":\t", 1) for line in info.read().splitlines())
    number, kind = int(fields[b"mnt_id"]), FSTYPE.encode()
    return any((mount.number, mount.kind) == (number, kind) for mount in _parsed(_mountinfo()))


def _mountinfo() -> bytes:
    """The mounts that we see (proc(5)).  A question to a dead mount could hang.  MountError."""
    try:
        with open("/proc/self/mountinfo", "rb") as table:
            text = table.read()
    except OSError as error:
        raise MountError(f"cannot tell what is mounted: {named(error)}") from error
    if not text:  # there is at least one mount, the root
        raise MountError("cannot tell what is mounted: /proc/self/mountinfo is empty")
    return text


def mounts_in(mountinfo: bytes) -> dict[bytes, str]:
    """The type of the file system at every mount point.

    MountError: the kernel does not write such a text.
    """
    top = _on_top(mountinfo)
    return {place: mount.kind.decode(errors="replace") for place, mount in top.items()}


def _on_top(mountinfo: bytes) -> dict[bytes, Mount]:
    """The mount at every mount point.  Of several mounts the last one counts: it is on top."""
    return {mount.place: mount for mount in _parsed(mountinfo)}


def _parsed(mountinfo: bytes) -> list[Mount]:
    try:
        return [*parse_mounts(mountinfo)]
    except FormatError as error:
        raise MountError(f"unexpected text in /proc/self/mountinfo: {error}") from error


def answers(path: str) -> bool:
    """False if the server of a mount is gone: then stat(2) fails with ENOTCONN or ECONNABORTED
    (fs/fuse/dev.c, fuse_get_req).

    No other error means this.  A mount of another user gives EACCES, even to root (fs/fuse/dir.c,
    fuse_allow_current_process).
    """
    try:
        statx.asked_stat(path)  # the kernel may have what stat(2) gives
    except OSError as error:
        return error.errno not in (errno.ENOTCONN, errno.ECONNABORTED)
    return True


def state(path: str) -> State:
    """Whether the server of a mount answers."""
    answer = _asked(lambda: _YES if answers(path) else _NO)
    if answer is None:
        return State.SILENT
    return State.DEAD if answer == _NO else State.ANSWERS


_YES, _NO = b"yes", b"no"


def place_of(path: str) -> str:
    """The path of a mount point as the table of mounts has it: without symbolic links.  MountError.

    `path` is absolute.  If the table has it, it is returned as it is, and nobody is asked.
    """
    if fstype(path) is not None:
        return path
    place = None
    with contextlib.suppress(OSError):  # a limit of ours has no room for a child
        place = _asked(lambda: os.fsencode(_without_links(path)))
    return path if place is None else os.fsdecode(place)


def _without_links(path: str) -> str:
    for _ in range(_MOST_LINKS):
        folder, name = os.path.split(path.rstrip("/"))
        if name in ("", ".", ".."):
            return os.path.realpath(path)
        path = os.path.join(os.path.realpath(folder), name)
        # Not realpath(3) of all: the last part may be a mount whose server is gone.  And no ".." is
        # taken away before the links are followed: it leads up from where the link before it leads.
        try:
            path = os.path.join(os.path.dirname(path), os.readlink(path))
        except OSError:
            break
    return path


_MOST_LINKS = 40  # include/linux/namei.h, MAXSYMLINKS


def _asked(question: Callable[[], bytes]) -> bytes | None:
    """The answer to a question about a path; None if none comes in time.

    A child asks, because no signal ends somebody who waits for a server that has taken the request
    (fs/fuse/dev.c, request_wait_answer).
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, question())
        finally:
            os._exit(0)
    os.close(writing)
    child = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(child, select.POLLIN)
        if not poll.poll(_PATIENCE):
            os.kill(pid, signal.SIGKILL)
            poll.poll(_PATIENCE)  # it keeps the mount busy, and ends if the request was not taken
            return None
        os.waitpid(pid, 0)
        return os.read(reading, _LONGEST)
    finally:
        os.close(child)
        os.close(reading)


_LONGEST = 1 << 16
"""Bytes.  A pipe takes so many (pipe(7))."""


def unmount(path: str, lazy: bool) -> None:
    """Unmount `path`.  `lazy`: even if files there are open.  MountError."""
    program = shutil.which("fusermount3")
    if program is None:
        raise MountError("fusermount3 is not installed (package fuse3)")
    command = [program, "-u", *(["-z"] if lazy else []), "--", path]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise MountError(result.stderr.strip() or f"{path}: cannot be unmounted")
