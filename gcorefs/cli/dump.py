"""gcorefs dump: the same core without a mount."""

import contextlib
import os
import signal
import sys
from contextlib import AbstractContextManager

import click

from gcorefs import api
from gcorefs.api import Progress
from gcorefs.cli import stopping
from gcorefs.cli.policy import takes_policy
from gcorefs.cli.terminal import Terminal
from gcorefs.export.sink import open_sink
from gcorefs.kernel.proc import tasks
from gcorefs.policy import Policy


@click.command()
@click.argument("pid", type=click.IntRange(min=1))
@click.option(
    "-o", "output", metavar="FILE",
    help="Where to; '-' is standard output.  Default: core.PID, or standard output when piped.",
)  # fmt: skip
@takes_policy()
def dump(pid: int, output: str | None, policy: Policy) -> None:
    """Write the core of process PID.

    The process stands still until the core is written, then goes on as it was.  With --hold copy
    it goes on as soon as its memory is copied to that of gcorefs, where there is room for it.
    """
    if not tasks.is_ours():
        raise click.ClickException(tasks.NOT_OURS)
    stopping.end_in_good_order()
    if output is not None and not os.path.basename(output):
        raise click.ClickException(f"{output!r} is not the name of a file")
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    name = output or (f"core.{pid}" if is_terminal else "-")
    with stopping.refusals_told(pid):
        stop = api.stop(pid, policy)
        sink = open_sink(name, is_chosen=output is not None)
        with stopping.late_awaited(stop):
            try:
                # Let the process run on before the commit: that may have to delete an old file,
                # which takes long.
                with _shown(f"process {pid}") as show, stop:
                    core = stop.core()
                    core.write_to(sink, show)
                sink.commit()
            finally:
                sink.abort()
    if core.not_copied:
        click.echo(f"held until it was written, not copied: {core.not_copied}", err=True)
    if core.unreadable:
        click.echo(f"{core.unreadable} pages could not be read and are zeros", err=True)


def _shown(name: str) -> AbstractContextManager[Progress]:
    """Progress on standard error, if that is a terminal."""
    # A terminal with `stty tostop` would stop us if we run in the background.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    try:
        terminal = Terminal(2)
    except OSError:
        return contextlib.nullcontext(lambda done, size: None)
    from gcorefs.cli.progress import bar  # noqa: PLC0415 (rich, only if it is needed)

    return bar(terminal, name)
