"""Mounts, serves, lets every process go, and unmounts.  Every end of a mount goes this way."""

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
from gcorefs.kernel import ending_signals
from gcorefs.kernel.proc import tasks
from gcorefs.kernel.proc.mountinfo import Mount, parse_mounts
from gcorefs.kernel.proc.procfile import FormatError
from gcorefs.mount.crew import Crew
from gcorefs.mount.fs import GcoreFS
from gcorefs.mount.handshake import fuse_descriptors, shake_hands
from gcorefs.mount.log import logger
from gcorefs.mount.options import Configuration, Options
from gcorefs.process import readv
from gcorefs.process.errors import named
from gcorefs.process.mark import mark
from gcorefs.profile_file import ProfileError
from gcorefs.profiles import Profiles
from gcorefs.sources import mappings
from gcorefs.worker.zygote import Zygote

FSTYPE = "fuse.gcorefs"

# Requests that may wait at one time, each in a task.  If all tasks are taken, further requests stay
# unread.
_MOST_REQUESTS = 10_000


class MountError(GcorefsError):
    """There is no mount.  The text is one line for people."""


def check_mountpoint(path: str) -> None:
    """MountError if nothing can be mounted at `path`.  Its text says what to do about it."""
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
    """The type of the file system that is mounted at `path` itself; None if there is none."""
    return mounts_in(_mountinfo()).get(os.fsencode(os.path.abspath(path)))


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
        os.stat(path)
    except OSError as error:
        return error.errno not in (errno.ENOTCONN, errno.ECONNABORTED)
    return True


def unmount(path: str, lazy: bool) -> None:
    """Unmount `path`.  `lazy`: even if files there are open.  MountError."""
    program = shutil.which("fusermount3")
    if program is None:
        raise MountError("fusermount3 is not installed (package fuse3)")
    command = [program, "-u", *(["-z"] if lazy else []), "--", path]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise MountError(result.stderr.strip() or f"{path}: cannot be unmounted")


@dataclass(frozen=True, slots=True)
class Watchdog:
    """Tells a service manager, every so many seconds, that the event loop turns and that max_stop
    is kept.

    A tracer that sleeps in the kernel does not count.  Any user can make one sleep, by an execve(2)
    that hangs, and could thereby end the mount for everybody.
    """

    seconds: float
    on_alive: Callable[[], None]


async def serve(
    mountpoint: str,
    configuration: Configuration,
    on_ready: Callable[[], None],
    zygote: Zygote,
    watchdog: Watchdog | None = None,
) -> None:
    """Mount, call `on_ready` when the mount answers, and serve until the unmount or a signal.

    SIGTERM, SIGINT and SIGQUIT end it; SIGHUP ends it, or has the profiles read again
    (Configuration).  MountError: the kernel or fusermount3 refuses.
    """
    if readv.is_denied():
        logger.warning(
            "process_vm_readv(2) is denied here: memory is read through /proc/PID/mem, which is "
            "slower and cannot wait for pages of FUSE and network file systems"
        )
    mark()
    options = _affordable(configuration.options)
    fs = GcoreFS(options, configuration.profiles, Crew(zygote))
    others = fuse_descriptors()
    # Before there is a mount: a signal would leave a dead one.
    early = ending_signals.remember()
    try:
        pyfuse3.init(fs, mountpoint, set(configuration.fuse))
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
            nursery.start_soon(_end_on_signal, fs, early, configuration.read_again)
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
        # The interpreter resets a handler of ours at its end (Modules/signalmodule.c,
        # _PySignal_Fini), but not this.
        ending_signals.ignore_all()
        pyfuse3.close(unmount=True)
        _remove_dead_mount(mountpoint)


def _remove_dead_mount(path: str) -> None:
    """Unmount a mount whose connection was aborted.  libfuse leaves such a mount in place, because
    it believes that it is gone already (lib/mount.c, fuse_kern_unmount)."""
    try:
        if fstype(path) == FSTYPE and not answers(path):
            unmount(path, lazy=True)
            logger.warning("%s: its connection was aborted, and the mount is taken away", path)
    except MountError as error:
        logger.warning("%s: its server is gone: %s", path, error)


_DESCRIPTORS_PER_STOP = 4  # mem, pagemap, the socket of its worker, and one for a question to /proc
_DESCRIPTORS_BESIDE = 256

_MEMORY_PER_STOP = 7 << 20
"""Bytes of a worker.  Most are copies of pages that it shared with the zygote at first: the
interpreter writes to every object that it looks at, to count references."""
_SHARE_OF_MEMORY = 4
"""All workers together may have a quarter of the machine's memory."""


def _affordable(options: Options) -> Options:
    """The options, with no more stops than the file descriptors and the memory allow.

    This raises the soft limit of file descriptors to the hard limit.  The soft limit protects only
    programs that use select(2) (getrlimit(2)).
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
    """The options with `stops` stops at most.  A quarter of these is for root, in addition to those
    of all other users."""
    stops = max(4, stops)
    if stops >= options.max_stops + options.user_stops:
        return options
    each = min(options.user_stops, stops // 4)
    total = min(options.max_stops, stops - each)
    return dataclasses.replace(options, user_stops=each, max_stops=total)


async def _end_on_signal(
    fs: GcoreFS, early: ending_signals.Remembered, read_again: Callable[[], Profiles] | None
) -> None:
    """`early`: takes the signals before and after this."""
    with trio.open_signal_receiver(*early.numbers) as signals:
        for number in early.come:
            signal.raise_signal(number)
        is_ending = False
        async for number in signals:
            if number == signal.SIGHUP and read_again is not None:
                if not is_ending:
                    await _replace_profiles(fs, read_again)
            elif not is_ending:
                is_ending = True
                logger.info("ends on %s", _name(number))
                await fs.held.let_all_go()
                pyfuse3.terminate()


async def _replace_profiles(fs: GcoreFS, read_again: Callable[[], Profiles]) -> None:
    try:
        # The file may lie where nobody answers; then nothing changes, and the mount can end.
        with trio.fail_after(_READ_TIMEOUT):
            profiles = await trio.to_thread.run_sync(read_again, abandon_on_cancel=True)
    except (ProfileError, OSError, trio.TooSlowError) as error:
        why = named(error) if isinstance(error, OSError) else str(error) or "no answer"
        logger.error("SIGHUP: the profiles stay as they were: %s", why)
        return
    fs.replace_profiles(profiles)
    logger.info("SIGHUP: there are %d profiles", len(profiles))


_READ_TIMEOUT = 5.0
"""Seconds in which the file of the profiles must be read."""


def _name(number: int) -> str:
    # Of the real-time signals, only the first and the last have a name.
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


async def _report(fs: GcoreFS, mountpoint: str, on_ready: Callable[[], None]) -> None:
    try:
        # Nobody answers it if the server fails before it serves.
        found = await trio.to_thread.run_sync(os.stat, mountpoint, abandon_on_cancel=True)
    except OSError as error:  # it is unmounted already, and the server is about to end
        logger.warning("%s: %s", mountpoint, named(error))
        return
    fs.mounted_as(found.st_dev)
    logger.info("mounted at %s", mountpoint)
    logger.info("%s", mappings.in_use())
    on_ready()


async def _stay_alive(fs: GcoreFS, watchdog: Watchdog) -> None:
    while True:
        overdue = [stop.process.pid for stop in fs.held.all() if stop.is_overdue]
        if overdue:
            logger.error("the watchdog is not told: process %d is held past max_stop", overdue[0])
        else:
            watchdog.on_alive()
        await trio.sleep(watchdog.seconds)
