"""gcorefs dump: the same core without a mount."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import TextIO, cast, get_args

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from gcorefs.cli import stopping
from gcorefs.cli.policy import takes_policy
from gcorefs.cli.terminal import Terminal
from gcorefs.elfcore.vma import MapsError
from gcorefs.export.sink import Sink, SinkError, open_sink
from gcorefs.policy import Hold, Policy
from gcorefs.process import procfs
from gcorefs.process.copy import DEFAULT_LIMIT, Room
from gcorefs.process.errors import ProcessError, Reason, named
from gcorefs.process.later import Worker
from gcorefs.process.procfs import FormatError
from gcorefs.snapshot import READ_TIMEOUT, Snapshot, find

_CHUNK = 4 << 20


@click.command()
@click.argument("pid", type=click.IntRange(min=1))
@click.option(
    "-o", "output", metavar="FILE",
    help="Where to; '-' is standard output.  Default: core.PID, or standard output when piped.",
)  # fmt: skip
@click.option(
    "--hold", type=click.Choice(get_args(Hold)), default="stop", show_default=True,
    help="Let the process go when the core is written, or when its memory is copied.",
)  # fmt: skip
@click.option(
    "--copy-limit", type=click.IntRange(min=1), default=max(1, DEFAULT_LIMIT >> 20),
    metavar="MIB", help="How much memory a copy may take.  Default: a quarter of the machine's.",
)  # fmt: skip
@takes_policy
def dump(pid: int, output: str | None, hold: Hold, copy_limit: int, policy: Policy) -> None:
    """Write the core of process PID.

    The process stands still until the core is written, then goes on as it was.  With --hold copy
    it goes on as soon as its memory is copied to that of gcorefs, where there is room for it.
    """
    if not procfs.is_ours():
        raise click.ClickException(procfs.NOT_OURS)
    stopping.end_in_good_order()
    if output is not None and not os.path.basename(output):
        raise click.ClickException(f"{output!r} is not the name of a file")
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    name = output or (f"core.{pid}" if is_terminal else "-")
    try:
        room = Room(copy_limit << 20) if hold == "copy" else None
        process = find(pid)
        sink = open_sink(name, is_chosen=output is not None)
        snapshot = Snapshot(process, policy=policy, room=room)
        try:
            with _shown() as progress:
                try:
                    stopping.take(snapshot, policy)
                    # In a thread, so that a signal ends us meanwhile.
                    Worker().submit(snapshot.copy).result()
                    _write_all(snapshot, sink, progress, f"process {pid}")
                finally:
                    # Now, not after the file has its name: that may mean to delete another.
                    stopping.close(snapshot)
            sink.commit()
        finally:
            sink.abort()
    except (ProcessError, SinkError) as error:
        raise click.ClickException(str(error)) from error
    except (FormatError, MapsError) as error:
        raise click.ClickException(f"process {pid}: {error}") from error
    except OSError as error:
        raise click.ClickException(named(error)) from error
    if snapshot.not_copied:
        click.echo(f"held until it was written, not copied: {snapshot.not_copied}", err=True)
    if snapshot.unreadable:
        click.echo(f"{snapshot.unreadable} pages could not be read and are zeros", err=True)


@contextlib.contextmanager
def _shown() -> Iterator[Progress]:
    """Progress on the terminal that is our standard error, if it is one."""
    # In the background, on a terminal with `stty tostop`, we would be stopped ourselves.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    terminal = None
    with contextlib.suppress(OSError, ValueError):
        terminal = Terminal(2)
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True),
        TransferSpeedColumn(), TimeRemainingColumn(),
        console=Console(file=cast(TextIO, terminal)),
        disable=terminal is None, transient=True,
    )  # fmt: skip
    try:
        with progress:
            yield progress
    finally:
        if terminal is not None:
            terminal.finish()


def _write_all(snapshot: Snapshot, sink: Sink, progress: Progress, name: str) -> None:
    # One buffer is read into while the other is written out: both calls let go of the
    # interpreter lock, and the process stands still for the longer of the two, not the sum.
    filling, full = memoryview(bytearray(_CHUNK)), memoryview(bytearray(_CHUNK))
    offset = 0
    task = progress.add_task(name, total=snapshot.size)
    reader = Worker()
    try:
        reading = reader.submit(snapshot.read_into, offset, filling)
        while count := reading.result(READ_TIMEOUT):
            offset += count
            filling, full = full, filling
            reading = reader.submit(snapshot.read_into, offset, filling)
            sink.write(full[:count])
            progress.update(task, completed=offset)
    except TimeoutError as error:
        raise ProcessError(Reason.STUCK, snapshot.process.pid) from error
