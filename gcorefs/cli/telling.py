"""Where `gcorefs watch` tells of each thing that it has taken: standard output, or the journal, and
a file of metrics."""

import contextlib
import sys

import click

from gcorefs.cli import extras
from gcorefs.cli.named_path import absolute
from gcorefs.cli.one_line import text_of
from gcorefs.cli.printable import printable
from gcorefs.cli.takers import Taken, cause_of
from gcorefs.export.sink import SinkError
from gcorefs.export.whole_file import write_whole
from gcorefs.telemetry.journal import STOPPED, Journal, is_journal

_INFO, _WARNING = 6, 4
"""Priorities (syslog(3))."""


class Telling:
    def __init__(self, pid: int, kind: str, metrics: str | None) -> None:
        """`metrics`: the path of the file.  ClickException: there is nothing to write it with, or
        it cannot be written."""
        self._pid = pid
        self._kind = kind
        self._journal = {fd: Journal() for fd in (1, 2) if is_journal(fd)}
        self._path = None if metrics is None else absolute(metrics)
        self._metrics = None
        if metrics is not None:
            with extras.needed("metrics", "prometheus-client", "--metrics"):
                from gcorefs.telemetry.metrics import Metrics  # noqa: PLC0415
            self._metrics = Metrics()
            self._write()

    def taken(self, taken: Taken, cause: str) -> None:
        line = f"{taken.line}; {cause}" if cause else taken.line
        fields = {
            "GCOREFS_KIND": self._kind,
            "GCOREFS_STOPPED_USEC": round(taken.stopped * 1e6),
            "GCOREFS_THREADS": taken.threads,
            "GCOREFS_BYTES": taken.size,
            "GCOREFS_FILE": taken.name,
            "GCOREFS_CAUSE": cause,
        }
        for each in taken.lacks:
            self._say(2, each, {})
        self._say(1, line, fields)
        if self._metrics is not None:
            self._metrics.taken(self._kind, taken.stopped, taken.size)
            self._write_later()

    def failed(self, error: Exception) -> None:
        found = cause_of(error)
        number = found.errno if isinstance(found, OSError) else None
        fields: dict[str, object] = {} if number is None else {"ERRNO": number}
        self._say(2, _text(error), fields)
        if self._metrics is not None:
            self._metrics.failed(number)
            self._write_later()

    def ended(self, last: str) -> None:
        more = f"; the last {_NOUNS[self._kind]} {last}" if last else ""
        self._say(1, f"process {self._pid} has ended{more}", {})

    def _say(self, fd: int, line: str, fields: dict[str, object]) -> None:
        """One line on standard output or standard error, with fields if the journal reads it."""
        if journal := self._journal.get(fd):
            always = {
                "MESSAGE": line,
                "PRIORITY": _INFO if fd == 1 else _WARNING,
                "SYSLOG_IDENTIFIER": "gcorefs",
                "GCOREFS_PID": self._pid,
                "OBJECT_PID": self._pid,
            }
            if "GCOREFS_STOPPED_USEC" in fields:
                always["MESSAGE_ID"] = STOPPED
            with contextlib.suppress(OSError):
                journal.send(
                    {name: value for name, value in (always | fields).items() if value != ""}
                )
                return
        click.echo(printable(line), err=fd != 1)
        sys.stdout.flush()

    def _write(self) -> None:
        """SinkError."""
        if self._metrics is not None and self._path is not None:
            from gcorefs.telemetry.metrics import MODE  # noqa: PLC0415

            write_whole(self._path, self._metrics.text(), MODE)

    def _write_later(self) -> None:
        try:
            self._write()
        except SinkError as error:  # the next one may do better
            self._say(2, str(error), {})


_NOUNS = {"dump": "core is", "stacks": "stacks are", "bundle": "bundle is"}


def _text(error: Exception) -> str:
    return error.format_message() if isinstance(error, click.ClickException) else text_of(error)
