"""gcorefs dump: the same core without a mount."""

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import click

from gcorefs import api
from gcorefs.api import Core, Progress, Sink, Stop
from gcorefs.cli import stopping
from gcorefs.cli.compression import Compression, takes_compression
from gcorefs.cli.core_line import core_line
from gcorefs.cli.destination import TO, Destination, default_name, refuse_both, usual_policy
from gcorefs.cli.one_core import lacks, refuse_no_name, write_core
from gcorefs.cli.output import Output
from gcorefs.cli.policy import takes_policy
from gcorefs.cli.printable import printable
from gcorefs.cli.target import Targets, takes_targets, tell
from gcorefs.cli.terminal import Terminal
from gcorefs.export.lookup import look_up
from gcorefs.export.sink import STANDARD_OUTPUT, SinkError, open_sink
from gcorefs.kernel import soft_dirty
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.policy import Policy
from gcorefs.process import pipe_reader
from gcorefs.together import stop_together


@click.command()
@takes_targets
@click.option(
    "-o", "output", metavar="FILE",
    help="Where to; '-' is standard output.  The core of each of several processes: FILE.PID.  "
    "Default: core.PID, or standard output when piped and one process is named.",
)  # fmt: skip
@TO
@click.option(
    "--together", is_flag=True,
    help="Stop all these processes first, and let none go until all are recorded.",
)  # fmt: skip
@takes_compression
@takes_policy(profile=usual_policy)
def dump(
    targets: Targets,
    output: str | None,
    to: str | None,
    together: bool,
    compression: Compression,
    policy: Policy,
) -> None:
    """Write the core of a process, or of several.

    A process stands still until its core is written, then goes on as it was.  With --hold copy
    it goes on as soon as its memory is copied to that of gcorefs, where there is room for it; with
    --hold precopy most of that is copied before it stands still, where the kernel can tell what it
    writes meanwhile.

    With --compress it stands still while the core is compressed, except with --hold copy, precopy
    or fork.

    If one of several cores cannot be had, the others are written, and the status is 1.  With
    --together either all are written or none.
    """
    refuse_both(output, to)
    destination = None if to is None else Destination(to)
    selected = targets.select()
    stopping.end_in_good_order()
    refuse_no_name(output)
    if targets.is_single and len(selected.processes) == 1:
        process = selected.processes[0]
        if destination is not None:
            place: _Place = _Elsewhere(destination, process, compression, is_single=True)
        else:
            place = _place(process.pid, output, compression)
        line = _dump(process, place, policy)
        if destination is not None:
            click.echo(printable(line))
        return
    places = _places(selected.processes, output, destination, compression)
    if together:
        if selected.errors:
            raise selected.errors[0]
        _dump_together(places, policy)
        return
    tell(selected.errors)
    if not _dump_each(places, policy) or selected.errors:
        raise click.exceptions.Exit(1)


class _Place:
    """Where a core goes."""

    def __init__(self, name: str, is_chosen: bool, compression: Compression) -> None:
        """`is_chosen`: the user chose the name."""
        self.name = name
        self._is_chosen = is_chosen
        self._compression = compression

    def open(self, policy: Policy) -> Sink:
        """SinkError, ProcessError."""
        return self._compression.sink(lambda: open_sink(self.name, self._is_chosen))

    def spooled(self, policy: Policy) -> Policy:
        """The policy that copies memory ahead to the file system of the core, so that only the last
        round needs memory, and the file system may share what it has then.

        Not if the kernel cannot tell what to copy: then all of it is copied in the stop, which a
        disk must not make longer.
        """
        if policy.hold != "precopy" or policy.spool or self.name == "-":
            return policy
        # By the same look-up as the core: somebody may have a link there for a moment, and the copy
        # has the memory of the process.
        with contextlib.suppress(OSError), look_up(self.name, self._is_chosen) as entry:
            is_file = entry.is_regular or not entry.exists
            if is_file and soft_dirty.is_supported():
                return replace(policy, spool=os.readlink(f"/proc/self/fd/{entry.directory}"))
        return policy


class _Elsewhere(_Place):
    """What --to names."""

    def __init__(
        self, destination: Destination, process: Process, compression: Compression, is_single: bool
    ) -> None:
        """`is_single`: it is the only core."""
        default = default_name("core", process.pid, compression.suffix)
        super().__init__(destination.name(default, is_single), True, compression)
        self._destination = destination
        self._process = process

    def open(self, policy: Policy) -> Sink:
        """SinkError, ProcessError."""
        sink, self.name = self._compression.named_sink(
            lambda: self._destination.open(
                self.name, self._process, policy, self._compression.suffix
            )
        )
        return sink

    def spooled(self, policy: Policy) -> Policy:
        return policy


def _places(
    processes: Sequence[Process],
    output: str | None,
    destination: Destination | None,
    compression: Compression,
) -> dict[Process, _Place]:
    """Of several cores."""
    if destination is not None:
        return {
            each: _Elsewhere(destination, each, compression, is_single=False) for each in processes
        }
    prefix = _prefix(output)
    return {
        each: _Place(f"{prefix}.{each.pid}{compression.suffix}", False, compression)
        for each in processes
    }


def _place(pid: int, output: str | None, compression: Compression) -> _Place:
    """The place of the only core."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    name = output or (f"core.{pid}{compression.suffix}" if is_terminal else "-")
    return _Place(name, output is not None, compression)


def _prefix(output: str | None) -> str:
    """What the names of several cores begin with."""
    if output == "-" or (output and os.path.exists(output) and not os.path.isfile(output)):
        name = STANDARD_OUTPUT if output == "-" else output
        raise click.ClickException(
            f"several cores cannot go to {name}: with -o PREFIX they are files PREFIX.PID"
        )
    return output or "core"


def _dump(process: Process, place: _Place, policy: Policy) -> str:
    """Write one core.  The line about it.  ClickException."""
    if (
        place.name == "-"
        and policy.hold == "stop"
        and not policy.is_read_live
        and pipe_reader.reads(process.pid, 1)
    ):
        raise click.ClickException(
            f"process {process.pid} reads {STANDARD_OUTPUT} itself, and takes nothing while it "
            "stands still: --hold copy lets it go before"
        )
    with stopping.refusals_told(process.pid):
        stop = api.stop(process, place.spooled(policy))
        core = write_core(stop, lambda: place.open(policy), lambda: _shown(process.pid))
    _tell_of(stop, core)
    return core_line(place.name, core, stop.stopped_seconds)


def _dump_each(places: Mapping[Process, _Place], policy: Policy) -> bool:
    """Write one core after the other.  False if one of them cannot be had."""
    is_complete = True
    for process, place in places.items():
        try:
            _say(_dump(process, place, policy))
        except click.ClickException as error:
            tell([error])
            is_complete = False
    return is_complete


def _say(line: str) -> None:
    """Write a line about a core.  ClickException: it is lost, but not the core."""
    try:
        click.echo(printable(line))
    except OSError as error:
        raise click.ClickException(str(SinkError(STANDARD_OUTPUT, error))) from error


def _dump_together(places: Mapping[Process, _Place], policy: Policy) -> None:
    """Write the cores of one instant.  ClickException: there is none of them."""
    with contextlib.ExitStack() as undone, stopping.refusals_told():
        sinks = {}
        for process, place in places.items():
            sinks[process.pid] = sink = place.open(policy)
            undone.callback(sink.abort)
        # All of them are in one directory.
        together = stop_together([*places], next(iter(places.values())).spooled(policy))
        with stopping.late_awaited(together.stops):
            with contextlib.closing(Output()) as writer, together:
                cores = together.cores()
                for stop, core in cores:
                    with _shown(stop.pid) as show:
                        writer.do_held(stop, core, core.write_to, sinks[stop.pid], show)
            for stop, _ in cores:
                sinks[stop.pid].commit()
    names = {process.pid: place.name for process, place in places.items()}
    for stop, core in cores:
        _tell_of(stop, core)
        click.echo(printable(core_line(names[stop.pid], core, stop.stopped_seconds)))
    for error in together.ended:
        click.echo(printable(f"left out: {error}"), err=True)


def _tell_of(stop: Stop, core: Core) -> None:
    """What the core lacks, on standard error."""
    for each in lacks(stop, core):
        click.echo(printable(each), err=True)


def _shown(pid: int) -> AbstractContextManager[Progress]:
    """Progress on standard error, if that is a terminal."""
    try:
        terminal = Terminal(2)
    except OSError:
        return contextlib.nullcontext(lambda done, size: None)
    from gcorefs.cli.progress import bar  # noqa: PLC0415 (rich, only if it is needed)

    return bar(terminal, f"process {pid}")
