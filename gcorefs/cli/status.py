"""gcorefs status, gcorefs release: what the mounts of this host hold, and an end to it.

Both speak with the server through its mount (.gcorefs/status, .gcorefs/release).  Users are
shown as numbers: who asks a name service while a process is stopped may wait for that very
process.
"""

import errno
import json
import os
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gcorefs.cli.printable import printable
from gcorefs.mount import names, server
from gcorefs.mount.server import MountError

_DENIED = "process_vm_readv(2) is denied to gcorefs, which reads through /proc/PID/mem"


def _mountpoints(given: str | None) -> list[str]:
    try:
        if given is None:
            return server.mountpoints()
        path = os.path.abspath(given)
        kind = server.fstype(path)
    except MountError as error:
        raise click.ClickException(str(error)) from error
    if kind != server.FSTYPE:
        raise click.ClickException(f"{path}: no gcorefs is mounted there")
    return [path]


def _control(mountpoint: str, name: bytes) -> str:
    return os.path.join(mountpoint, os.fsdecode(names.DIRECTORY), os.fsdecode(name))


_MOUNT = click.option(
    "-m", "--mount", "mountpoint", type=click.Path(), help="Only this mount.  Default: every one."
)


@click.command()
@_MOUNT
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(mountpoint: str | None, as_json: bool) -> None:
    """Show which processes are held, by whom, and for how long.

    Root sees everybody's, others their own.
    """
    stops: list[dict[str, Any]] = []
    denied: list[str] = []
    for place in _mountpoints(mountpoint):
        try:
            with open(_control(place, names.STATUS), encoding="ascii") as file:
                text = json.load(file)
                found, is_denied = text["stops"], text.get("process_vm_readv") == "denied"
        except OSError as error:
            # One that is not ours to enter, or whose server is gone, hides no other.
            if mountpoint is not None:
                raise click.ClickException(f"{place}: {error.strerror}") from error
            click.echo(printable(f"{place}: {error.strerror}"), err=True)
            continue
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise click.ClickException(f"{place}: not the status of a gcorefs") from error
        stops += [{"mount": place, **stop} for stop in found]
        if is_denied:
            denied.append(place)
    if as_json:
        click.echo(json.dumps(stops, indent=2))
    elif stops:
        _show(stops)
    else:
        click.echo("nothing is held")
    if not as_json:
        for place in denied:
            click.echo(printable(f"{place}: {_DENIED}"))


def _show(stops: list[dict[str, Any]]) -> None:
    several = len({stop["mount"] for stop in stops}) > 1
    table = Table(box=None, pad_edge=False)
    for heading in ("PID", "NAME", "THREADS", "STOPPED", "READ", "OPENED BY", "STATE"):
        table.add_column(heading, justify="right" if heading in _NUMBERS else "left")
    if several:
        table.add_column("MOUNT")
    for stop in stops:
        openers = [f"{each['pid']} (uid {each['uid']})" for each in stop["openers"]]
        cells = [
            str(stop["pid"]),
            stop["name"],
            str(stop["threads"] or ""),
            f"{stop['stopped_ms'] / 1000:.1f} s",
            f"{stop['bytes_read'] / (1 << 20):.1f} MiB",
            openers[0] + (f" and {stop['files'] - 1} more" if stop["files"] > 1 else ""),
            f"{stop['state']}: {stop['why']}" if stop["why"] else stop["state"],
            *([stop["mount"]] if several else []),
        ]
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console = Console()
    if not console.is_terminal:  # a pipe is as wide as it needs to be
        console = Console(width=10_000)
    console.print(table)


_NUMBERS = ("PID", "THREADS", "STOPPED", "READ")


@click.command()
@click.argument("pid", type=click.IntRange(min=1))
@_MOUNT
def release(pid: int, mountpoint: str | None) -> None:
    """Let process PID go, whoever has its file open.

    Readers keep the header; memory is an I/O error for them from here on.  Root lets go
    everybody's, others what they alone have open.
    """
    failures: list[str] = []
    released = False
    for place in _mountpoints(mountpoint):
        try:
            with open(_control(place, names.RELEASE), "wb", buffering=0) as file:
                file.write(b"%d\n" % pid)
            released = True
        except OSError as error:
            if error.errno != errno.ESRCH:
                failures.append(f"{place}: {error.strerror}")
    if not released:
        raise click.ClickException("; ".join(failures) or f"process {pid} is not held")
    for failure in failures:
        click.echo(printable(failure), err=True)
