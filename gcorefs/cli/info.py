"""gcorefs info: what a core is, and a picture of its address space."""

import io
import json
import os
import re
import shutil
import stat
import sys
from typing import Any, BinaryIO, cast

import click

from gcorefs import api
from gcorefs.cli import picture, stopping
from gcorefs.cli.picture import Paper
from gcorefs.cli.policy import takes_policy
from gcorefs.elfcore import space
from gcorefs.elfcore.corefile import Core, CoreError, read_core
from gcorefs.elfcore.space import Row
from gcorefs.elfcore.vma import MapsError
from gcorefs.kernel.proc import tasks
from gcorefs.kernel.proc.procfile import FormatError
from gcorefs.policy import Policy
from gcorefs.process.errors import ProcessError, Reason, named

_ROWS = 40
_LONGEST_PID = 9  # digits; PID_MAX_LIMIT of the kernel has fewer


@click.command()
@click.argument("name", metavar="CORE-or-PID")
@click.option("--all", "is_all", is_flag=True, help="Every mapping, however many there are.")
@click.option("--json", "as_json", is_flag=True, help="For programs: every mapping, in bytes.")
@takes_policy(but=("hold", "copy_limit"))  # it reads no memory
def info(name: str, is_all: bool, as_json: bool, policy: Policy) -> None:
    """Tell what a core is, and draw its address space.

    CORE is any ELF core, made by gcorefs or not; only its headers are read.  If it lies below a
    mount, its process stands still until they are read.

    Digits alone are the PID of a process, which stands still until its headers are made (./1234
    is a file of that name).
    """
    stopping.end_in_good_order()
    core = _of_process(name, policy) if re.fullmatch("[0-9]+", name) else _of_file(name)
    rows = space.mappings(core)
    if as_json:
        click.echo(json.dumps(_facts(core, rows), indent=2))
    else:
        shown = rows if is_all else space.largest(space.by_file(rows), _ROWS)
        output = cast(io.TextIOWrapper, sys.stdout)
        # A name may have characters that the encoding lacks.  click.echo would write UTF-8.
        output.reconfigure(errors="backslashreplace")
        for line in picture.draw(_paper(output), core, space.total(rows), shown):
            print(line, file=output)
        output.flush()  # here, where click handles EPIPE
    if core.missing:
        raise click.ClickException(f"{name}: it is cut off, {core.missing} bytes are missing")


def _paper(output: io.TextIOWrapper) -> Paper:
    is_terminal = output.isatty()
    return Paper(
        # A line in a pipe may have any length.
        width=shutil.get_terminal_size().columns if is_terminal else None,
        is_ascii=not output.encoding.lower().startswith("utf"),
        is_colored=is_terminal and "NO_COLOR" not in os.environ,
    )


def _of_process(name: str, policy: Policy) -> Core:
    """The headers of the process's core.  The process runs on when this returns."""
    if not tasks.is_ours():
        raise click.ClickException(tasks.NOT_OURS)
    if len(name) > _LONGEST_PID or not int(name):
        raise click.ClickException(f"process {name}: {Reason.GONE.text}")
    try:
        stop = api.stop(int(name), policy)
        with stopping.late_awaited(stop), stop:
            core = stop.core()
            header, size = core.header, core.size
        return read_core(io.BytesIO(header), size)
    except (FormatError, MapsError) as error:
        raise click.ClickException(f"process {name}: {error}") from error
    except ProcessError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"process {name}: {named(error)}") from error


def _of_file(name: str) -> Core:
    try:
        # stat(2) first: open(2) of a FIFO may block, and of a device may have side effects.
        if not stat.S_ISREG(os.stat(name).st_mode):
            raise click.ClickException(f"{name}: it is no regular file")
        # Unbuffered, so that no byte is read that is not needed.
        with open(name, "rb", buffering=0) as file:
            return read_core(cast(BinaryIO, file))
    except (OSError, CoreError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise click.ClickException(f"{name}: {reason}") from error


def _facts(core: Core, rows: list[Row]) -> dict[str, Any]:
    whole = space.total(rows)
    return {
        "size": core.size,
        "missing": core.missing,
        "machine": core.machine,
        "bits": core.bits,
        "program_headers": core.phnum,
        "program": os.fsdecode(core.program),
        "arguments": os.fsdecode(core.arguments),
        "pid": core.pid,
        "threads": core.threads,
        "signal": core.signal,
        "gcorefs": core.facts,
        "bytes": {"mapped": whole.size, **_sizes(whole)},
        "mappings": [
            {
                "start": f"{row.start:x}",
                "end": f"{row.end:x}",
                "permissions": picture.permissions(row),
                "name": os.fsdecode(row.name),
                **_sizes(row),
            }
            for row in rows
        ],
    }


def _sizes(row: Row) -> dict[str, int]:
    return {
        "in_file": row.in_file,
        "zeros": row.zeros,
        "left_out": row.left_out,
        "unreadable": row.unreadable,
    }
