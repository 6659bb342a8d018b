"""How the commands that stop a process end."""

import contextlib
import signal
import sys
from collections.abc import Iterator

import click

from gcorefs.api import Stop


def end_in_good_order() -> None:
    """After SIGTERM or SIGHUP we still let the process go and leave no incomplete file."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


@contextlib.contextmanager
def late_awaited(stop: Stop) -> Iterator[None]:
    """After the block, wait for the threads that were interrupted but have not stopped yet.

    If we ended earlier, they would see the interruption.  We do not wait if a signal ends us.
    """
    try:
        yield
    except Exception:
        _await_late(stop)
        raise
    _await_late(stop)


def _await_late(stop: Stop) -> None:
    if late := stop.late:
        click.echo(
            f"process {stop.pid}: runs on; waiting for thread {late[0]}, which gets no "
            "CPU and has to stop once so that it never sees that it was interrupted",
            err=True,
        )
        while not stop.wait_late(_LATE_NAP):
            pass


_LATE_NAP = 1.0
