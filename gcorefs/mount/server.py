"""Mounts, serves, lets every process go, unmounts; in that order, however it ends."""

import dataclasses
import errno
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

import pyfuse3
import trio

from gcorefs.arch.page import PAGE_SIZE
from gcorefs.errors import GcorefsError
from gcorefs.kernel.proc import tasks
from gcorefs.kernel.proc.mountinfo import Mount, parse_mounts
from gcorefs.kernel.proc.procfile import FormatError
from gcorefs.mount.crew import Crew
from gcorefs.mount.fs import GcoreFS
from gcorefs.mount.handshake import fuse_descriptors, shake_hands
from gcorefs.mount.log import logger
from gcorefs.mount.options import Options
from gcorefs.process import readv
from gcorefs.process.errors import named
from gcorefs.process.mark import mark
from gcorefs.worker.zygote import Zygote

FSTYPE = "fuse.gcorefs"

# Requests that may wait at one time, each a task.  A request that finds none free waits
# unread, and with it all that come behind it.
_MOST_REQUESTS = 10_000


class MountError(GcorefsError):
    """The mount cannot be made: one line for people."""


def check_mountpoint(path: str) -> None:
    """Raise MountError where nothing can be mounted at `path`, with what to do about it."""
    if not os.path.exists("/dev/fuse"):
        raise MountError("there is no /dev/fuse: load the module with 'modprobe fuse'")
    if not tasks.is_ours():
        raise MountError(f"{tasks.NOT_OURS}: mount one there")
    if fstype(path) == FSTYPE:
        state = "already mounted" if answers(path) else "a mount whose server is gone"
        raise MountError(f"{path}: {state}; 'gcorefs umount {path}' takes it away")
    try:
        if not os.path.isdir(path):
            os.stat(path)
            raise MountError(f"{path}: not a directory")
    except OSError as error:
        raise MountError(f"{path}: {error.strerror}") from error


def fstype(path: str) -> str | None:
    """The type of the file system mounted exactly at `path`, None where none is."""
    return mounts_in(_mountinfo()).get(os.fsencode(os.path.abspath(path)))


def mountpoints() -> list[str]:
    """Where root or the calling user has mounted a gcorefs.

    Any other user may have mounted something that calls itself one, and never answers.  Then no
    signal would end the caller (fs/fuse/dev.c, request_wait_answer).
    """
    top = {mount.place: mount for mount in _parsed(_mountinfo())}
    return [
        os.fsdecode(place)
        for place, mount in top.items()
        if mount.kind == FSTYPE.encode() and _user(mount) in (0, os.geteuid())
    ]


def _user(mount: Mount) -> int | None:
    """The user who has made a mount of FUSE (fs/fuse/inode.c, fuse_show_options)."""
    users = [word for word in mount.options.split(b",") if word.startswith(b"user_id=")]
    return int(users[0].removeprefix(b"user_id=")) if users else None


def is_gcorefs(fd: int) -> bool:
    """True where an open file is on a mount of a gcorefs.  MountError."""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as info:
        fields = dict(line.split(b":\t", 1) for line in info.read().splitlines())
    number, kind = int(fields[b"mnt_id"]), FSTYPE.encode()
    return any((mount.number, mount.kind) == (number, kind) for mount in _parsed(_mountinfo()))


def _mountinfo() -> bytes:
    """proc(5).  Asking a dead mount itself can hang.  MountError."""
    try:
        with open("/proc/self/mountinfo", "rb") as table:
            text = table.read()
    except OSError as error:
        raise MountError(f"cannot tell what is mounted: {named(error)}") from error
    if not text:  # there is at least one mount, the root
        raise MountError("cannot tell what is mounted: /proc/self/mountinfo is empty")
    return text


def mounts_in(mountinfo: bytes) -> dict[bytes, str]:
    """The type of the file system at every mount point; of several mounts the last is on top.

    MountError where the text is not one that the kernel writes.
    """
    return {mount.place: mount.kind.decode(errors="replace") for mount in _parsed(mountinfo)}


def _parsed(mountinfo: bytes) -> list[Mount]:
    try:
        return [*parse_mounts(mountinfo)]
    except FormatError as error:
        raise MountError(f"unexpected text in /proc/self/mountinfo: {error}") from error


def answers(path: str) -> bool:
    """False where a mount's server is gone, as ENOTCONN says (fs/fuse/dev.c, fuse_get_req).

    Any other error is no such proof: a mount of another user's is EACCES, for root too
    (fs/fuse/dir.c, fuse_allow_current_process).
    """
    try:
        os.stat(path)
    except OSError as error:
        return error.errno not in (errno.ENOTCONN, errno.ECONNABORTED)
    return True


def unmount(path: str, lazy: bool) -> None:
    """Take the mount at `path` away; `lazy`: even while files are open.  MountError."""
    program = shutil.which("fusermount3")
    if program is None:
        raise MountError("fusermount3 is not installed (package fuse3)")
    command = [program, "-u", *(["-z"] if lazy else []), "--", path]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise MountError(result.stderr.strip() or f"{path}: cannot be unmounted")


@dataclass(frozen=True, slots=True)
class Watchdog:
    """Whoever wants to hear, so many seconds apart, that the event loop turns and max_stop is kept.

    A tracer that sleeps in a call of the kernel's does not count: any user can have one sleep, by
    an execve(2) that hangs, and would end the reading of all.
    """

    seconds: float
    on_alive: Callable[[], None]


async def serve(
    mountpoint: str,
    options: Options,
    fuse_options: set[str],
    on_ready: Callable[[], None],
    zygote: Zygote,
    watchdog: Watchdog | None = None,
) -> None:
    """Mount, call `on_ready` once the mount answers, and serve until unmounted or told to end.

    SIGTERM, SIGINT and SIGHUP end it.  MountError where the kernel or fusermount3 refuses.
    """
    if readv.is_denied():
        logger.warning(
            "process_vm_readv(2) is denied here: memory is read through /proc/PID/mem, which is "
            "slower and cannot wait for pages of FUSE and network file systems"
        )
    mark()
    fs = GcoreFS(_affordable(options), Crew(zygote))
    others = fuse_descriptors()
    try:
        pyfuse3.init(fs, mountpoint, fuse_options)
    except RuntimeError as error:
        raise MountError(f"{mountpoint}: cannot be mounted: {error}") from error
    try:
        (session,) = fuse_descriptors() - others
        try:
            await shake_hands(session)
        except OSError as error:
            raise MountError(f"{mountpoint}: the kernel ends it: {named(error)}") from error
        async with trio.open_nursery() as nursery:
            fs.held.start(nursery)
            nursery.start_soon(fs.windows.run)
            nursery.start_soon(_end_on_signal, fs)
            nursery.start_soon(_report, fs, mountpoint, on_ready)
            if watchdog is not None:
                nursery.start_soon(_stay_alive, fs, watchdog)
            try:
                await pyfuse3.main(max_tasks=_MOST_REQUESTS)
            finally:
                with trio.CancelScope(shield=True):
                    await fs.held.let_all_go()
                nursery.cancel_scope.cancel()
    finally:
        pyfuse3.close(unmount=True)
        _remove_dead_mount(mountpoint)


def _remove_dead_mount(path: str) -> None:
    """Take away what libfuse leaves: it takes a connection that was aborted for one whose mount
    is gone (lib/mount.c, fuse_kern_unmount)."""
    try:
        if fstype(path) == FSTYPE and not answers(path):
            unmount(path, lazy=True)
            logger.warning("%s: its connection was aborted, and the mount is taken away", path)
    except MountError as error:
        logger.warning("%s: its server is gone: %s", path, error)


_DESCRIPTORS_PER_STOP = 4  # mem, pagemap, its worker, and one for whatever is being asked
_DESCRIPTORS_BESIDE = 256

_MEMORY_PER_STOP = 7 << 20
"""Bytes of its worker.  Most are pages that it once shared with the zygote: the interpreter counts
references in every object that it looks at."""
_SHARE_OF_MEMORY = 4
"""Workers may have a quarter of the machine's memory."""


def _affordable(options: Options) -> Options:
    """The options, with no more stops than there are file descriptors and memory for.

    The soft limit of descriptors is for programs that use select(2) (getrlimit(2)); we take the
    hard one.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    by_files = _no_more(options, (hard - _DESCRIPTORS_BESIDE) // _DESCRIPTORS_PER_STOP)
    if by_files is not options:
        counts = by_files.user_stops, by_files.max_stops
        logger.warning("user_stops=%d, max_stops=%d: RLIMIT_NOFILE is %d", *counts, hard)
    memory = os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE // _SHARE_OF_MEMORY
    by_memory = _no_more(by_files, memory // _MEMORY_PER_STOP)
    if by_memory is not by_files:
        counts = by_memory.user_stops, by_memory.max_stops
        logger.debug("user_stops=%d, max_stops=%d: there is no memory for more", *counts)
    return by_memory


def _no_more(options: Options, stops: int) -> Options:
    """The options with so many stops at the most.  A quarter of these is for root, beside what all
    others have."""
    stops = max(4, stops)
    if stops >= options.max_stops + options.user_stops:
        return options
    each = min(options.user_stops, stops // 4)
    total = min(options.max_stops, stops - each)
    return dataclasses.replace(options, user_stops=each, max_stops=total)


async def _end_on_signal(fs: GcoreFS) -> None:
    # What trio puts back in the end, while we still unmount: a second signal then would leave a
    # dead mount.
    for each in _END_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    with trio.open_signal_receiver(*_END_SIGNALS) as signals:
        is_ending = False
        async for number in signals:
            if not is_ending:
                is_ending = True
                logger.info("ends on %s", signal.Signals(number).name)
                await fs.held.let_all_go()
                pyfuse3.terminate()


# By default SIGHUP ends a process at once, and would leave a dead mount.
_END_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


async def _report(fs: GcoreFS, mountpoint: str, on_ready: Callable[[], None]) -> None:
    fs.mounted_as((await trio.to_thread.run_sync(os.stat, mountpoint)).st_dev)
    logger.info("mounted at %s", mountpoint)
    on_ready()


async def _stay_alive(fs: GcoreFS, watchdog: Watchdog) -> None:
    while True:
        overdue = [stop.process.pid for stop in fs.held.all() if stop.is_overdue]
        if overdue:
            logger.error("the watchdog is not told: process %d is held past max_stop", overdue[0])
        else:
            watchdog.on_alive()
        await trio.sleep(watchdog.seconds)
