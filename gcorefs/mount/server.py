"""Mounts, serves, lets every process go, and unmounts.  Every end of a mount goes this way."""

import signal
from collections.abc import Callable
from dataclasses import dataclass

import pyfuse3
import trio

from gcorefs.kernel import ending_signals
from gcorefs.mount.affordable import affordable, threads_of_a_user
from gcorefs.mount.bounded_read import BoundedRead
from gcorefs.mount.crew import Crew
from gcorefs.mount.fs import GcoreFS
from gcorefs.mount.handshake import fuse_descriptors, shake_hands
from gcorefs.mount.in_thread import own_device, with_room
from gcorefs.mount.limits import Limits
from gcorefs.mount.log import logger
from gcorefs.mount.mountpoints import FSTYPE, MountError, answers, fstype, unmount
from gcorefs.mount.options import Configuration
from gcorefs.process import readv
from gcorefs.process.errors import Reason, named
from gcorefs.process.mark import mark
from gcorefs.process.threads import NoThread
from gcorefs.profile_file import ProfileError
from gcorefs.profiles import Profiles
from gcorefs.sources import bpf_choice
from gcorefs.worker.zygote import Zygote

# Requests that may wait at one time, each in a task.  If all tasks are taken, further requests stay
# unread.
_MOST_REQUESTS = 10_000


@dataclass(frozen=True, slots=True)
class Watchdog:
    """Tells a service manager, every so many seconds, that the event loop turns, that max_stop is
    kept, and that there may be further stops.

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
    options = affordable(configuration.options)
    limits = Limits(options, threads_of_a_user())
    fs = GcoreFS(options, limits, configuration.profiles, Crew(zygote))
    # Before there is a mount: a signal would leave a dead one.  And before there is a bell, which
    # this ignores.
    early = ending_signals.remember()
    try:
        trio.lowlevel.add_instrument(BoundedRead())
    except OSError as error:
        why = f"no timer for it ({named(error)}, RLIMIT_SIGPENDING)"
        raise MountError(f"{mountpoint}: cannot be mounted: {why}") from error
    others = fuse_descriptors()
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
                nursery.start_soon(_stay_alive, fs, zygote, watchdog)
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
            profiles = await trio.to_thread.run_sync(
                read_again, abandon_on_cancel=True, limiter=with_room()
            )
    except (ProfileError, OSError, MemoryError, trio.TooSlowError) as error:
        why = named(error) if isinstance(error, OSError) else str(error)
        why = why or ("no memory" if isinstance(error, MemoryError) else "no answer")
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
    await fs.serving.wait()
    try:
        device = await own_device(mountpoint)
    except NoThread:  # then nobody would hear that the mount is there
        raise
    except OSError as error:  # it is unmounted already, and the server is about to end
        logger.warning("%s: %s", mountpoint, named(error))
        return
    fs.mounted_as(device)
    logger.info("mounted at %s", mountpoint)
    logger.info("%s", bpf_choice.in_use())
    on_ready()


async def _stay_alive(fs: GcoreFS, zygote: Zygote, watchdog: Watchdog) -> None:
    while True:
        overdue = [stop.process.pid for stop in fs.held.all() if stop.is_overdue]
        if overdue:
            logger.error("the watchdog is not told: process %d is held past max_stop", overdue[0])
        elif zygote.is_gone:
            logger.error("the watchdog is not told: %s", Reason.NO_WORKER.text)
        else:
            watchdog.on_alive()
        await trio.sleep(watchdog.seconds)
