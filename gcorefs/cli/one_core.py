"""One core of one process, written to a sink: what the commands that dump have in common."""

import contextlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager

import click

from gcorefs.api import Core, Progress, Stop
from gcorefs.cli import stopping
from gcorefs.cli.output import Output
from gcorefs.export.sink import Sink


def refuse_no_name(output: str | None) -> None:
    """ClickException: what the user chose as the name of a file is the name of a directory."""
    if output is not None and not os.path.basename(output):
        raise click.ClickException(f"{output!r} is not the name of a file")


def write_core(
    stop: Stop, to: Callable[[], Sink], shown: Callable[[], AbstractContextManager[Progress]]
) -> Core:
    """Stop a process, write its core to the sink that `to` makes, and let it go.

    `shown` shows how far the core is written.  Whatever is raised (ProcessError, SinkError,
    FormatError, MapsError, OSError), the process runs on, and the sink is aborted.
    """
    sink = to()
    with stopping.late_awaited([stop]):
        try:
            # Let the process run on before the commit: that may have to delete an old file, which
            # takes long.
            with contextlib.closing(Output()) as writer, shown() as show, stop:
                core = stop.core()
                writer.do_held(stop, core, core.write_to, sink, show)
            sink.commit()
        finally:
            sink.abort()
    return core


def lacks(stop: Stop, core: Core) -> list[str]:
    """What a core has otherwise than it was asked for; one line each."""
    found = []
    if core.not_copied:
        found.append(f"held until it was written, not copied: {core.not_copied}")
    if stop.woken:
        found.append(f"{stop.woken} threads woke while memory was read, which may be newer")
    if core.unreadable:
        found.append(f"{core.unreadable} pages could not be read and are zeros")
    return found
