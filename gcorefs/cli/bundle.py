"""gcorefs bundle: a core with all that a debugger needs to open it on another machine."""

import time
from typing import Any

import click

from gcorefs.cli import stopping
from gcorefs.cli.compression import LEVEL
from gcorefs.cli.core_line import core_line
from gcorefs.cli.destination import TO, Destination, default_name, refuse_both
from gcorefs.cli.one_bundle import BundleTaker
from gcorefs.cli.one_core import refuse_no_name
from gcorefs.cli.policy import takes_policy
from gcorefs.cli.printable import printable
from gcorefs.cli.target import Targets, takes_targets
from gcorefs.export.compressed import DEFAULT_LEVEL, CompressedSink
from gcorefs.export.sink import Sink, open_sink
from gcorefs.policy import Policy


@click.command()
@takes_targets
@click.option(
    "-o", "output", metavar="FILE",
    help="Where to; '-' is standard output.  Default: bundle-PID-TIME.tar.zst.",
)  # fmt: skip
@TO
@click.option(
    "--file-limit", type=click.IntRange(min=0), metavar="MIB", default=512, show_default=True,
    help="Leave out each mapped file that is larger and is no ELF file.",
)  # fmt: skip
@click.option(
    "--environ", is_flag=True,
    help="Take /proc/PID/environ as a file, too.  The core may have the environment in any case.",
)  # fmt: skip
@click.option(
    "--level", type=LEVEL, default=DEFAULT_LEVEL, show_default=True,
    help="Of the compression: the higher, the smaller the file, and the longer it takes.",
)  # fmt: skip
@takes_policy(profile="hold=copy")
def bundle(
    targets: Targets,
    output: str | None,
    to: str | None,
    policy: Policy,
    **options: Any,
) -> None:
    """Write a core with the program, the libraries and all other mapped files of the process.

    The tar file, compressed by zstd, also has build-ids, a script for gdb and one for lldb, and
    what /proc tells.  It opens on a machine that has none of the files: unpack it, and run
    ./open-gdb.

    A process stands still until its memory is copied to that of gcorefs (--policy hold=copy), or,
    if there is no room for that, until the core is written.
    """
    refuse_both(output, to)
    destination = None if to is None else Destination(to)
    if destination is not None and destination.is_systemd:
        raise click.UsageError("--to systemd: that is a place for cores, not for bundles")
    process = targets.select().one()
    stopping.end_in_good_order()
    refuse_no_name(output)
    when = time.time()
    name = f"bundle-{process.pid}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(when))}"
    place = output or f"{name}.tar.zst"
    if destination is not None:
        place = destination.name(default_name("bundle", process.pid, ".tar.zst"), is_single=True)

    def open_place() -> Sink:
        if destination is not None:
            sink, _ = destination.open(place, process, policy, ".tar.zst")
        else:
            sink = open_sink(place, output is not None)
        return CompressedSink(sink, options["level"])

    taker = BundleTaker(policy, options["file_limit"] << 20, options["environ"])
    with stopping.refusals_told(process.pid):
        taken = taker.take(process, name, when, open_place)
    for each in taken.missing:
        click.echo(printable(each), err=True)
    if place != "-":
        click.echo(printable(core_line(place, taken.core, taken.stop.stopped_seconds)))
