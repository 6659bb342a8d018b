"""gcorefs mount."""

import codecs
import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, get_args

import click
import sdnotify
import trio

from gcorefs.cli import background, extras
from gcorefs.cli.named_path import NamedPath, absolute
from gcorefs.export.sink import SinkError
from gcorefs.hold.choice import import_holder
from gcorefs.mount import interpreter, log, server
from gcorefs.mount.mountpoints import MountError, check_mountpoint
from gcorefs.mount.options import OPTIONS, Configuration, parse
from gcorefs.mount.policy_names import IN_NAMES
from gcorefs.mount.server import Watchdog
from gcorefs.option import OptionError, import_parser
from gcorefs.policy import Hold
from gcorefs.process.errors import limit_met, named, named_with_limit
from gcorefs.process.threads import NoThread, is_no_thread
from gcorefs.profile_file import DEFAULT_PATH, ProfileError, read_profiles
from gcorefs.sources import bpf_choice
from gcorefs.worker.zygote import Zygote


@click.command()
@click.argument("mountpoint", type=NamedPath())
@click.option(
    "-o",
    "words",
    multiple=True,
    metavar="OPTION[,OPTION...]",
    help=", ".join(f"{name}=" for name in OPTIONS)
    + ", or FUSE's (allow_other ...): see gcorefs(8).",
)
@click.option(
    "--config",
    type=NamedPath(),
    help=f"Profiles beside the built-in ones.  Default: {DEFAULT_PATH}, if it is there.",
)
@click.option("-f", "--foreground", is_flag=True, help="Stay, and log to standard error.")
@click.option("--log-file", type=NamedPath(), help="Log there, not to the system's log.")
@click.option(
    "--metrics", type=NamedPath(), help="Keep counts for Prometheus in this file, FILE.prom say."
)
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def mount(
    mountpoint: str,
    words: tuple[str, ...],
    config: str | None,
    foreground: bool,
    log_file: str | None,
    **others: Any,
) -> None:
    """Mount every process as a file at MOUNTPOINT.

    Returns once the mount answers.
    """
    background.open_standard_descriptors()
    mountpoint = absolute(mountpoint)
    if log_file is not None:
        log_file = absolute(log_file)  # in the background our current directory is /
    try:
        config = None if config is None else absolute(config)
        read = partial(read_profiles, config, IN_NAMES)
        # In the foreground of a terminal a SIGHUP tells that the terminal is gone (signal(7)).
        is_reloadable = not foreground or not _has_terminal()
        configuration = Configuration(*parse(words), read(), read if is_reloadable else None)
        mountpoint = check_mountpoint(mountpoint)
    except (OptionError, ProfileError, MountError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(named(error)) from error

    metrics = None if others["metrics"] is None else absolute(others["metrics"])
    counts = None if metrics is None else _counts()

    def run(on_ready: Callable[[], None], watchdog: Watchdog | None = None) -> None:
        with _mounting(mountpoint, on_ready) as tell_ready:
            if log_file is not None:
                handler = log.to_file(log_file)
            else:
                handler = log.to_stderr() if foreground else log.to_syslog()
            _import_all(configuration)
            bpf_choice.choose(configuration.options.bpf)  # before there is a second thread
            interpreter.settle()  # for the zygote and all workers too
            zygote = Zygote()  # before that of the log
            log.start(handler, others["verbose"], counts(metrics) if counts and metrics else None)
            trio.run(server.serve, mountpoint, configuration, tell_ready, zygote, watchdog)

    try:
        if foreground:
            systemd = _Systemd()
            run(systemd.ready, systemd.watchdog())
        else:
            with _mounting(mountpoint):
                background.run(run)
    except MountError as error:
        raise click.ClickException(str(error)) from error


def _counts() -> Callable[[str], log.Counts]:
    """What makes counts.  ClickException: they cannot be had here."""
    with extras.needed("metrics", "prometheus-client", "--metrics"):
        from gcorefs.mount.counts import Counts  # noqa: PLC0415
    return Counts


def _import_all(configuration: Configuration) -> None:
    """Import what is otherwise imported when it is needed: the files may be gone then, or those of
    another version.  Before the zygote, so that workers have it too."""
    import_parser()  # a path may name options
    for hold in get_args(Hold):
        import_holder(hold, bool(configuration.options.spool))
    codecs.lookup("ascii")  # open(encoding="ascii") imports it


@contextlib.contextmanager
def _mounting(
    mountpoint: str, on_ready: Callable[[], None] = lambda: None
) -> Iterator[Callable[[], None]]:
    """The block mounts, and calls what it is given when the mount is ready.  MountError: something
    is missing for that, a descriptor or a thread for example."""
    is_ready = False

    def tell_ready() -> None:
        nonlocal is_ready
        on_ready()
        is_ready = True

    try:
        yield tell_ready
    except MountError:
        raise
    except Exception as error:
        if isinstance(error, SinkError) and limit_met(error) is None:
            raise MountError(str(error)) from error  # about the log, with its path
        why = "" if is_ready else _missing(error)
        if why:
            raise MountError(f"{mountpoint}: cannot be mounted: {why}") from error
        log.logger.exception("the mount at %s ended", mountpoint)
        raise


def _missing(error: Exception) -> str:
    """What the system has refused to us, and by which limit; empty if gcorefs itself failed."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:  # of tasks of trio
        error = error.exceptions[0]
    if isinstance(error, MemoryError):
        return os.strerror(errno.ENOMEM)
    if is_no_thread(error):
        error = NoThread()
    if isinstance(error, RuntimeError) and str(error).startswith("fuse_session_"):  # of libfuse
        return str(error)
    if not isinstance(error, OSError):
        return ""
    return named_with_limit(error)


class _Systemd:
    """The service manager, if it started us.

    We never wait for it: it may be the process that we hold.
    """

    def __init__(self) -> None:
        self._notifier = sdnotify.SystemdNotifier()
        if self._notifier.socket is not None:
            self._notifier.socket.setblocking(False)

    def ready(self) -> None:
        self._notifier.notify("READY=1")

    def watchdog(self) -> Watchdog | None:
        """A watchdog that notifies twice in each period, as sd_watchdog_enabled(3) advises."""
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        if not re.fullmatch("[1-9][0-9]{0,15}", microseconds):
            return None
        return Watchdog(int(microseconds) / 2e6, lambda: self._notifier.notify("WATCHDOG=1"))


def _has_terminal() -> bool:
    """True if this process has a controlling terminal (tty(4))."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
