"""gcorefs info: what a core is, and a picture of its address space."""

import io
import json
import os
import re
import shutil
import stat
import sys
import textwrap
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import click

from gcorefs import api
from gcorefs.cli import picture, stopping
from gcorefs.cli.picture import Paper
from gcorefs.cli.policy import takes_policy
from gcorefs.cli.target import Targets, names_targets
from gcorefs.elfcore import space
from gcorefs.elfcore.core_bytes import CoreError
from gcorefs.elfcore.corefile import Core, read_core
from gcorefs.elfcore.space import Row
from gcorefs.export.seek_table import FRAME_MAGIC
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.policy import Policy
from gcorefs.process.errors import Reason

_ROWS = 40
_WANTED = "give a core, or the pid of a process"
_LONGEST_PID = 9  # digits; PID_MAX_LIMIT of the kernel has fewer


_OF_COPIES = (
    "hold", "precopy_rounds", "precopy_time", "copy_limit", "spool", "spool_limit",
)  # fmt: skip
"""The options that mean nothing here, because no memory is kept."""


@click.command()
@click.argument("name", metavar="[CORE-or-PID]", required=False)
@names_targets
@click.option("--all", "is_all", is_flag=True, help="Every mapping, however many there are.")
@click.option("--html", "as_html", is_flag=True, help="A page for a browser: every mapping.")
@click.option("--json", "as_json", is_flag=True, help="For programs: every mapping, in bytes.")
@takes_policy(but=_OF_COPIES)
def info(name: str | None, targets: Targets, policy: Policy, is_all: bool, **forms: bool) -> None:
    """Tell what a core is, and draw its address space.

    CORE is any ELF core, made by gcorefs or not, or one that `gcorefs dump --compress zstd` has
    written; only its headers are read.  If it lies below a mount, its process stands still until
    they are read.

    Digits alone are the PID of a process, which stands still until its headers are made (./1234
    is a file of that name).
    """
    if forms["as_json"] and forms["as_html"]:
        raise click.UsageError("--json and --html exclude each other")
    stopping.end_in_good_order()
    if name is None or targets or re.fullmatch("[0-9]+", name):
        core = _of_process(_process(name, targets), policy)
    else:
        core = _of_file(name)
    rows = space.mappings(core)
    if forms["as_json"]:
        for text in _json(core, rows):
            click.echo(text, nl=False)
    elif forms["as_html"]:
        from gcorefs.cli import web_page  # noqa: PLC0415 (it is rarely wanted)

        for line in web_page.draw(core, space.total(rows), rows):
            click.echo(line.encode())  # whatever the encoding of the terminal is
    else:
        shown = rows if is_all else space.largest(space.by_file(rows), _ROWS)
        output = cast(io.TextIOWrapper, sys.stdout)
        # A name may have characters that the encoding lacks.  click.echo would write UTF-8.
        output.reconfigure(errors="backslashreplace")
        for line in picture.draw(_paper(output), core, space.total(rows), shown):
            print(line, file=output)
        output.flush()  # here, where click handles EPIPE
    if core.missing:
        raise click.ClickException(
            f"{name or core.pid}: it is cut off, {core.missing} bytes are missing"
        )


def _paper(output: io.TextIOWrapper) -> Paper:
    is_terminal = output.isatty()
    return Paper(
        # A line in a pipe may have any length.
        width=shutil.get_terminal_size().columns if is_terminal else None,
        is_ascii=not output.encoding.lower().startswith("utf"),
        is_colored=is_terminal and "NO_COLOR" not in os.environ,
    )


def _process(name: str | None, targets: Targets) -> Process:
    """The process that is meant."""
    if name is not None and targets:
        raise click.UsageError(f"Give either {name} or a name of processes, not both.")
    if name is None:
        return targets.select().one()
    if len(name) > _LONGEST_PID or not int(name):
        raise click.ClickException(f"process {name}: {Reason.GONE.text}; {Reason.GONE.step}")
    return targets.with_pids([int(name)]).select().one()


def _of_process(process: Process, policy: Policy) -> Core:
    """The headers of the process's core.  The process runs on when this returns."""
    with stopping.refusals_told(process.pid):
        stop = api.stop(process, policy)
        with stopping.late_awaited([stop]), stop:
            core = stop.core()
            header, size = core.header, core.size
        return read_core(io.BytesIO(header), size)


def _of_file(name: str) -> Core:
    try:
        # stat(2) first: open(2) of a FIFO may block, and of a device may have side effects.
        if not stat.S_ISREG(os.stat(name).st_mode):
            raise click.ClickException(f"{name}: it is no regular file; {_WANTED}")
        # Unbuffered, so that no byte is read that is not needed.
        with open(name, "rb", buffering=0) as file:
            if os.pread(file.fileno(), len(FRAME_MAGIC), 0) == FRAME_MAGIC:
                return _of_compressed(name)
            return read_core(cast(BinaryIO, file))
    except (OSError, CoreError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{error}; {_WANTED}"
        raise click.ClickException(f"{name}: {reason}") from error


def _of_compressed(name: str) -> Core:
    # Imported here, because most cores are not compressed.
    from gcorefs.export.seekable import ContentStream, SeekableFile  # noqa: PLC0415

    with SeekableFile(name) as content:
        return read_core(cast(BinaryIO, ContentStream(content)))


def _json(core: Core, rows: list[Row]) -> Iterator[str]:
    """The text of json.dumps, piece by piece: there may be millions of rows."""
    facts = json.dumps({**_facts(core, rows), "mappings": []}, indent=2)
    beginning, end = facts[: -len(_NO_ROWS)], _NO_ROWS
    if rows:
        beginning, end = f"{beginning}[\n", "\n  ]\n}"
    yield beginning
    for number, row in enumerate(rows):
        text = textwrap.indent(json.dumps(_row(row), indent=2), "    ")
        yield f",\n{text}" if number else text
    yield f"{end}\n"


_NO_ROWS = "[]\n}"


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
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "start": f"{row.start:x}",
        "end": f"{row.end:x}",
        "permissions": picture.permissions(row),
        "name": os.fsdecode(row.name),
        **_sizes(row),
    }


def _sizes(row: Row) -> dict[str, int]:
    return {
        "in_file": row.in_file,
        "zeros": row.zeros,
        "left_out": row.left_out,
        "unreadable": row.unreadable,
    }
