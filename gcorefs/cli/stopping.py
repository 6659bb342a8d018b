"""How the commands that stop a process end."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING

import click

from gcorefs.cli.one_line import SHORT_OF_MEMORY
from gcorefs.cli.printable import printable
from gcorefs.cli.sink_steps import with_step
from gcorefs.elfcore.vma import MapsError
from gcorefs.export.sink import SinkError
from gcorefs.kernel.ending_signals import handle
from gcorefs.kernel.proc.procfile import FormatError
from gcorefs.process.errors import ProcessError, named_with_limit

if TYPE_CHECKING:  # status, release and ls stop nobody
    from gcorefs.api import Stop


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

    handle(end)


@contextlib.contextmanager
def refusals_told(pid: int = 0) -> Iterator[None]:
    """Tell in one line why there is no core of process `pid`, or, with 0, of several."""
    try:
        yield
    except ProcessError as error:
        raise click.ClickException(f"{error}; {error.step}") from error
    except SinkError as error:
        raise click.ClickException(with_step(error)) from error
    except (FormatError, MapsError) as error:
        raise click.ClickException(f"process {pid}: {error}" if pid else str(error)) from error
    except OSError as error:
        raise click.ClickException(named_with_limit(error)) from error
    except (click.ClickException, click.Abort, click.exceptions.Exit, *SHORT_OF_MEMORY):
        raise
    except Exception as error:  # a surprise in one process must not end the others
        of = f"process {pid}: " if pid else ""
        raise click.ClickException(f"{of}gcorefs itself failed: {_surprise(error)}") from error


def _surprise(error: Exception) -> str:
    """An error that nobody expected, and where it was raised, in one line."""
    trace = error.__traceback__
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
    return f"{type(error).__name__}: {printable(str(error))} ({place})"


@contextlib.contextmanager
def late_awaited(stops: Sequence["Stop"]) -> Iterator[None]:
    """After the block, wait for the threads that were interrupted but have not stopped yet.

    If we ended earlier, they would see the interruption.  We do not wait if a signal ends us.  The
    suspend key of the terminal counts after all that.  `stops` may be filled in the block.
    """
    with _not_suspended():
        try:
            yield
        except Exception:
            _await_late(stops)
            raise
        _await_late(stops)


@contextlib.contextmanager
def _not_suspended() -> Iterator[None]:
    """No job control signal stops us in the block: the process that we hold would stand still for
    as long as we do.  If SIGTSTP has come, it stops us behind the block, unless SIGCONT has come
    too.  It came later, in all probability: Python does not tell."""
    came = set[int]()

    def note(number: int, _: FrameType | None) -> None:
        came.add(number)

    # What is set to be ignored stays ignored (ending_signals.py).
    is_ignored = signal.getsignal(signal.SIGTSTP) is signal.SIG_IGN
    handlers = {
        signal.SIGTSTP: signal.SIG_IGN if is_ignored else note,
        signal.SIGCONT: note,
        # A write from the background to a terminal with `stty tostop` causes SIGTTOU.
        signal.SIGTTIN: signal.SIG_IGN,
        signal.SIGTTOU: signal.SIG_IGN,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signal.SIGTSTP in came and signal.SIGCONT not in came:
        signal.raise_signal(signal.SIGTSTP)


def _await_late(stops: Sequence["Stop"]) -> None:
    for stop in stops:
        if late := stop.late:
            click.echo(
                f"process {stop.pid}: runs on; waiting for thread {late[0]}, which has not stopped "
                "yet (it may get no CPU, or wait for a page), so that it never sees that it was "
                "interrupted",
                err=True,
            )
            while not stop.wait_late(_LATE_NAP):
                pass


_LATE_NAP = 1.0
