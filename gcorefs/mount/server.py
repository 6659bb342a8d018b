"""Mounts, serves, lets every process go, unmounts; in that order, however it ends."""

import os
import resource
import signal
from collections.abc import Callable

import msgspec
import pyfuse3
import trio

from gcorefs.mount.fs import GcoreFS
from gcorefs.mount.log import logger
from gcorefs.mount.options import Options
from gcorefs.process import procfs

FSTYPE = "fuse.gcorefs"

# Requests that may wait at one time, each a task.  A request that finds none free waits
# unread, and with it all that come behind it.
_MOST_REQUESTS = 10_000


class MountError(Exception):
    """The mount cannot be made: one line for people."""


def check_mountpoint(path: str) -> None:
    """Raise MountError where nothing can be mounted at `path`, with what to do about it."""
    if not os.path.exists("/dev/fuse"):
        raise MountError("there is no /dev/fuse: load the module with 'modprobe fuse'")
    if not procfs.is_ours():
        raise MountError("/proc is that of another pid namespace: mount one of this one there")
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
    return _mounts().get(os.path.abspath(path))


def mountpoints() -> list[str]:
    """Where a gcorefs is mounted."""
    return [path for path, kind in _mounts().items() if kind == FSTYPE]


def _mounts() -> dict[str, str]:
    """The type of the file system on top at every mount point.

    From /proc/self/mountinfo (proc(5)): asking a dead mount itself can hang.
    """
    found = {}
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            fields = line.split(" ")
            found[_unescaped(fields[4])] = fields[fields.index("-") + 1]
    return found


def _unescaped(text: str) -> str:
    # fs/proc_namespace.c, mangle: blank, tab, newline, backslash and hash in octal.
    for octal in ("040", "011", "012", "043", "134"):
        text = text.replace(f"\\{octal}", chr(int(octal, 8)))
    return text


def answers(path: str) -> bool:
    """True where a mount's server is there; ENOTCONN where it is gone."""
    try:
        os.stat(path)
    except OSError:
        return False
    return True


async def serve(
    mountpoint: str, options: Options, fuse_options: set[str], on_ready: Callable[[], None]
) -> None:
    """Mount, call `on_ready` once the mount answers, and serve until unmounted or told to end.

    SIGTERM and SIGINT end it.  MountError where the kernel or fusermount3 refuses.
    """
    fs = GcoreFS(_affordable(options))
    try:
        pyfuse3.init(fs, mountpoint, fuse_options)
    except RuntimeError as error:
        raise MountError(f"{mountpoint}: cannot be mounted: {error}") from error
    try:
        async with trio.open_nursery() as nursery:
            fs.held.start(nursery)
            nursery.start_soon(_end_on_signal, fs)
            nursery.start_soon(_report, mountpoint, on_ready)
            try:
                await pyfuse3.main(max_tasks=_MOST_REQUESTS)
            finally:
                with trio.CancelScope(shield=True):
                    await fs.held.let_all_go()
                nursery.cancel_scope.cancel()
    finally:
        pyfuse3.close(unmount=True)


_DESCRIPTORS_PER_STOP = 3  # mem, pagemap, and one for whatever is being asked
_DESCRIPTORS_BESIDE = 256


def _affordable(options: Options) -> Options:
    """The options, with no more stops than there are file descriptors for.

    The soft limit is for programs that use select(2) (getrlimit(2)); we take the hard one.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    affordable = max(1, (hard - _DESCRIPTORS_BESIDE) // _DESCRIPTORS_PER_STOP)
    if affordable >= options.max_stops:
        return options
    logger.warning("max_stops=%d: RLIMIT_NOFILE is %d", affordable, hard)
    return msgspec.structs.replace(options, max_stops=affordable)


async def _end_on_signal(fs: GcoreFS) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            logger.info("ends on %s", signal.Signals(number).name)
            await fs.held.let_all_go()
            pyfuse3.terminate()
            return


async def _report(mountpoint: str, on_ready: Callable[[], None]) -> None:
    await trio.to_thread.run_sync(os.statvfs, mountpoint)
    logger.info("mounted at %s", mountpoint)
    on_ready()
