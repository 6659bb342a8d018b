"""gcorefs status, gcorefs release: show and release the processes that the mounts of this host
hold.

Both talk to the server through its mount (.gcorefs/status, .gcorefs/release).  Users are shown as
numbers: a query to a name service may wait for a process that is stopped.
"""

import errno
import json
import os
from typing import Any, TextIO

import click

from gcorefs import tuning
from gcorefs.cli import table
from gcorefs.cli.named_path import NamedPath, absolute
from gcorefs.cli.printable import printable
from gcorefs.cli.target import Targets, listed, takes_targets
from gcorefs.mount import mountpoints, names
from gcorefs.mount.errors import RequestReason
from gcorefs.mount.mountpoints import MountError, State
from gcorefs.process.errors import is_no_memory, limit_met

# Any user may mount something of this type, and write what they like.
_NO_STATUS = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)

_PIECE = 1 << 16
"""Characters of one read."""

_WHO = RequestReason.NOT_HELD.step
_DENIED = "process_vm_readv(2) is denied to gcorefs, which reads through /proc/PID/mem"


def _mountpoints(given: str | None) -> list[str]:
    try:
        if given is None:
            return mountpoints.mountpoints()
        path = mountpoints.place_of(absolute(given))
        kind = mountpoints.fstype(path)
    except MountError as error:
        raise click.ClickException(str(error)) from error
    if kind != mountpoints.FSTYPE:
        raise click.ClickException(f"{path}: {mountpoints.NOT_MOUNTED}")
    return [path]


def _open(mountpoint: str, name: bytes, flags: int) -> int:
    """A control file of a mount, open.  OSError.

    Any user may mount something that calls itself a gcorefs, with symbolic links in it, or put a
    directory in the place of a mount.  So no link is followed, and nothing else is opened.
    """
    if mountpoints.state(mountpoint) is State.SILENT:
        raise OSError(errno.ETIMEDOUT, "its server does not answer")
    path = os.path.join(mountpoint, os.fsdecode(names.DIRECTORY))
    directory = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not mountpoints.is_gcorefs(directory):
            raise OSError(errno.ENODEV, mountpoints.NOT_MOUNTED)
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except MountError as error:
        raise OSError(errno.ENODEV, str(error)) from error
    finally:
        os.close(directory)


_MOUNT = click.option(
    "-m",
    "--mount",
    "mountpoint",
    type=NamedPath(),
    help="Only this mount.  Default: every mount of root's and your own.",
)


@click.command()
@_MOUNT
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option(
    "--kernel",
    "with_kernel",
    is_flag=True,
    help="Also show which features of the kernel each mount can use.",
)
def status(mountpoint: str | None, as_json: bool, with_kernel: bool) -> None:
    """Show which processes are held, by whom, and for how long.

    Root sees all of them, another user sees their own.  The status is 1 if a mount does not answer.
    """
    has_answer = has_failed = False
    stops: list[dict[str, Any]] = []
    notes: list[str] = []
    for place in _mountpoints(mountpoint):
        cause: Exception
        try:
            found, about = _ask(place, with_kernel)
        except OSError as error:
            if limit_met(error) is not None or is_no_memory(error):
                raise  # it is about us, and no mount can be asked
            why, cause = str(error.strerror), error
        except _NO_STATUS as error:
            why, cause = "not the status of a gcorefs", error
        else:
            stops += [{"mount": place, **stop} for stop in found]
            notes += [f"{place}: {note}" for note in about]
            has_answer = True
            continue
        # A mount that we may not enter, or whose server is gone or lies, does not hide the others.
        if mountpoint is not None:
            raise click.ClickException(printable(f"{place}: {why}")) from cause
        click.echo(printable(f"{place}: {why}"), err=True)
        # One that we may not enter holds nothing of ours.
        has_failed |= not isinstance(cause, PermissionError)
    if as_json:
        click.echo(json.dumps(stops, indent=2))
    else:
        _show(stops, has_answer, has_failed)
        for note in notes:
            click.echo(printable(note))
    if has_failed:
        raise click.exceptions.Exit(1)


def _ask(place: str, with_kernel: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """What a mount says of its stops, and of itself.  OSError, or one of _NO_STATUS."""
    with open(_open(place, names.STATUS, os.O_RDONLY), encoding="ascii") as file:
        text = json.loads(_content(file))
        found, about = text["stops"], _notes(text, with_kernel)
        for stop in found:
            _cells(stop)
        return found, about


def _notes(text: dict[str, Any], with_kernel: bool) -> list[str]:
    """What a status says of the whole mount; one of _NO_STATUS if it is not a status."""
    features = text.get("kernel", {})
    notes = [] if features.get("process_vm_readv", True) else [_DENIED]
    if with_kernel or text.get("is_bpf_missing", False):
        notes += [str(text["mappings"])] if "mappings" in text else []
    if with_kernel:
        notes += [f"{name}: {'yes' if it else 'no'}" for name, it in features.items()]
    return notes


def _show(stops: list[dict[str, Any]], has_answer: bool, has_failed: bool) -> None:
    """`has_answer`, `has_failed`: a mount has told of its stops, or should have and has not."""
    if not stops:
        if not has_failed:
            click.echo("nothing is held")
        elif has_answer:
            click.echo("nothing is held by the mounts that answer")
        return
    several = len({stop["mount"] for stop in stops}) > 1
    headings = ("PID", "NAME", "THREADS", "STOPPED", "READ", "OPENED BY", "STATE")
    rows = [[*_cells(stop), *([stop["mount"]] if several else [])] for stop in stops]
    table.show([*headings, *(["MOUNT"] if several else [])], _NUMBERS, rows)


def _cells(stop: dict[str, Any]) -> list[str]:
    """One row of the table; one of _NO_STATUS if it is not a stop."""
    openers = [f"{each['pid']} (uid {each['uid']})" for each in stop["openers"]]
    return [
        str(stop["pid"]),
        str(stop["name"]),
        str(stop["threads"] or ""),
        f"{stop['stopped_ms'] / 1000:.1f} s",
        f"{stop['bytes_read'] / (1 << 20):.1f} MiB",
        openers[0] + (f" and {stop['files'] - 1} more" if stop["files"] > 1 else ""),
        f"{stop['state']}: {stop['why']}" if stop["why"] else str(stop["state"]),
    ]


def _content(file: TextIO) -> str:
    """All of it.  ValueError: it is too long."""
    pieces, rest = [], tuning.now().most_status
    # One read of so many characters would make room for all of them.
    while piece := file.read(min(_PIECE, rest)):
        pieces.append(piece)
        rest -= len(piece)
    if not rest:
        raise ValueError("it is too long")
    return "".join(pieces)


_NUMBERS = ("PID", "THREADS", "STOPPED", "READ")


@click.command()
@takes_targets
@_MOUNT
def release(targets: Targets, mountpoint: str | None) -> None:
    """Let processes go, even while their files are open.

    Readers keep the header; from now on they get an I/O error for memory.  Root can let any
    process go, another user a process whose file nobody else has open.
    """
    places = _mountpoints(mountpoint)
    pids = targets.numbers()
    failures: list[str] = []
    is_released = False
    for pid in pids:
        for place in places:
            try:
                with open(_open(place, names.RELEASE, os.O_WRONLY), "wb", buffering=0) as file:
                    file.write(b"%d\n" % pid)
                is_released = True
            except OSError as error:
                if error.errno != errno.ESRCH:
                    failures.append(f"{place}: {error.strerror}")
    failures = [*dict.fromkeys(failures)]
    if not is_released:
        nobody = f"process {pids[0]} is" if len(pids) == 1 else f"processes {listed(pids)} are"
        raise click.ClickException(printable("; ".join(failures)) or f"{nobody} not held; {_WHO}")
    for failure in failures:
        click.echo(printable(failure), err=True)
