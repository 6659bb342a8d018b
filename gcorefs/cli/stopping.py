"""How the commands that stop a process end."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType

import click

from gcorefs.api import Stop
from gcorefs.elfcore.vma import MapsError
from gcorefs.export.sink import SinkError
from gcorefs.kernel.ending_signals import not_ignored
from gcorefs.kernel.proc.procfile import FormatError
from gcorefs.process.errors import ProcessError, named


def end_in_good_order() -> None:
    """After a signal that would end us we still let the process go and leave no incomplete file.

    Only the first one counts.  Another one in the middle of that, a second Ctrl-C for example,
    would leave threads that have been interrupted and not been recorded, and these see an EINTR.
    """
    has_come = False

    def end(number: int, _: FrameType | None) -> None:
        nonlocal has_come
        if has_come:
            return
        has_come = True
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    for each in not_ignored():
        signal.signal(each, end)


@contextlib.contextmanager
def refusals_told(pid: int) -> Iterator[None]:
    """Tell in one line why there is no core of process `pid`."""
    try:
        yield
    except (ProcessError, SinkError) as error:
        raise click.ClickException(str(error)) from error
    except (FormatError, MapsError) as error:
        raise click.ClickException(f"process {pid}: {error}") from error
    except OSError as error:
        raise click.ClickException(named(error)) from error


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
