"""--to: a place that is no path: an object store, or that of systemd-coredump."""

import platform
import re
import time
from collections.abc import Mapping
from typing import Any

import click

from gcorefs.cli import extras
from gcorefs.export.sink import Sink, open_sink
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.policy import Policy

SYSTEMD = "systemd"
_STORE = re.compile(r"(s3|gs|az)://[^/]+/.+|(s3|gs|az)://[^/]+/")
_FILE = re.compile(r"file://(/.+)")


class Destination:
    """Where cores go that go to no path."""

    def __init__(self, text: str) -> None:
        """ClickException: there is no such place, or it needs what is not installed."""
        self._text = text
        if _STORE.fullmatch(text):
            with extras.needed("cloud", "obstore", f"--to {text.partition(':')[0]}://"):
                import gcorefs.export.objects  # noqa: F401, PLC0415
        elif text != SYSTEMD and not _FILE.fullmatch(text):
            raise click.UsageError(
                f"--to {text}: no such place; there are s3://BUCKET/NAME, gs://BUCKET/NAME, "
                f"az://CONTAINER/NAME, file:///PATH, and {SYSTEMD}"
            )

    @property
    def is_systemd(self) -> bool:
        return self._text == SYSTEMD

    def name(self, default: str, is_single: bool) -> str:
        """The name of one core, or of another file: with a slash at its end the place is a folder.
        `default`: its name there."""
        if self.is_systemd:
            return SYSTEMD
        if self._text.endswith("/"):
            return self._text + default
        return self._text if is_single else f"{self._text}.{default}"

    def open(self, name: str, process: Process, policy: Policy, suffix: str) -> tuple[Sink, str]:
        """A sink, and its name for people.  `name`: that of `name`.  SinkError, ProcessError."""
        # Imported here to save memory in a dump to a file (victim.py).
        if self.is_systemd:
            from gcorefs.export.coredump import CoredumpSink  # noqa: PLC0415
            from gcorefs.export.coredump_subject import subject  # noqa: PLC0415

            sink = CoredumpSink(subject(process.pid), suffix)
            return sink, sink.path
        if match := _FILE.fullmatch(name):
            # A name in a folder, or one of several, nobody chose.
            return open_sink(match[1], is_chosen=name == self._text), match[1]
        from gcorefs.export.objects import ObjectSink  # noqa: PLC0415
        from gcorefs.look import estimate, look  # noqa: PLC0415

        return ObjectSink(name, estimate(look(process.pid), policy)), name


def default_name(word: str, pid: int, suffix: str) -> str:
    """A name that no other host and no other time has."""
    when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    host = re.sub(r"[^A-Za-z0-9.-]", "_", platform.node())
    return f"{word}.{host}.{pid}.{when}{suffix}"


def usual_policy(named: Mapping[str, Any]) -> str:
    """The process does not wait for a network."""
    to = named["to"]
    return "hold=copy" if to is not None and _STORE.fullmatch(to) else ""


TO = click.option(
    "--to", metavar="URL",
    help="Where to, if not to a file: s3://BUCKET/NAME, gs://BUCKET/NAME, az://CONTAINER/NAME, "
    "file:///PATH, or systemd, where coredumpctl finds it.",
)  # fmt: skip


def refuse_both(output: str | None, to: str | None) -> None:
    if output is not None and to is not None:
        raise click.UsageError("-o and --to exclude each other")
