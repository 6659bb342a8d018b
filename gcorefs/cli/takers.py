"""What `gcorefs watch` takes of a process at one moment: a core, its stacks, or a bundle."""

import contextlib
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

import click

from gcorefs import api
from gcorefs.cli import stopping
from gcorefs.cli.compression import Compression
from gcorefs.cli.core_line import core_line
from gcorefs.cli.one_core import lacks
from gcorefs.cli.output import Output
from gcorefs.export.recordings import CORE, Form, Recordings
from gcorefs.export.sink import Sink
from gcorefs.hold.choice import import_holder
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.policy import Policy
from gcorefs.process.errors import ProcessError, Reason

KINDS = ("dump", "stacks", "bundle")

_FILE_LIMIT = 512 << 20
"""As gcorefs bundle: bytes of a mapped file that is no ELF file."""
_HEAP = 1 << 30
"""As gcorefs stacks."""


class Taken(NamedTuple):
    name: str
    """Of the file; empty if it was too large to be written."""
    line: str
    stopped: float
    """Seconds."""
    size: int
    """Bytes of the file."""
    threads: int
    lacks: list[str]
    """What it has otherwise than it was asked for; one line each."""


class Taker(Protocol):
    """Takes one thing after the other."""

    def take(self, name: str, is_over: Callable[[], bool]) -> Taken:
        """Write the file `name`.  `is_over`: True if the process has ended.

        ProcessError, SinkError, FormatError, MapsError, OSError, ClickException from one of them,
        and those of SHORT_OF_MEMORY: there is none this time, and no file.
        """


class CoreTaker:
    def __init__(
        self, process: Process, policy: Policy, recordings: Recordings, compression: Compression
    ) -> None:
        self._process = process
        self._policy = policy
        self._recordings = recordings
        self._compression = compression

    def take(self, name: str, is_over: Callable[[], bool]) -> Taken:
        stop = api.stop(self._process, self._policy)
        with stopping.late_awaited([stop]), contextlib.ExitStack() as undone:
            with contextlib.closing(Output()) as writer, stop:
                core = stop.core()
                if is_over():  # else the pid may be another process's by now
                    raise ProcessError(Reason.GONE, self._process.pid)
                written = writer.do_held(stop, core, self._write, core, name, undone)
            threads = sum(core.facts["threads"].values())
            if written is None:
                line = f"{name}: its {core.size} bytes are more than --space allows"
                return Taken("", line, stop.stopped_seconds, 0, threads, [])
            written.commit()
        line = core_line(name, core, stop.stopped_seconds)
        return Taken(name, line, stop.stopped_seconds, core.size, threads, lacks(stop, core))

    def _write(self, core: api.Core, name: str, undone: contextlib.ExitStack) -> Sink | None:
        """None: there is no room for it.  `undone` aborts the sink."""
        recordings = self._recordings
        if self._compression.method is None:
            if not recordings.has_room(core.size):
                return None
            recordings.make_room(core.size)
            sink: Sink = recordings.sink(name)
        else:
            sink = self._compression.sink(lambda: recordings.bounded_sink(name))
        undone.callback(sink.abort)
        core.write_to(sink)
        return sink


class StacksTaker:
    """The text of `gcorefs stacks`."""

    def __init__(self, process: Process, policy: Policy, recordings: Recordings) -> None:
        """ClickException: nobody can read stacks here."""
        from gcorefs.cli.process_stacks import StackTaker, check_reader  # noqa: PLC0415

        check_reader("auto")
        self._process = process
        self._recordings = recordings
        self._taker = StackTaker("auto", _HEAP, policy)

    def take(self, name: str, is_over: Callable[[], bool]) -> Taken:
        from gcorefs.cli.process_stacks import text_of  # noqa: PLC0415

        taken = self._taker.take(self._process)
        data = text_of(taken).encode("utf-8", "backslashreplace")
        sink = self._recordings.bounded_sink(name)
        try:
            sink.write(memoryview(data))
            sink.commit()
        finally:
            sink.abort()
        stopped, threads = taken.stop.stopped_seconds, len(taken.stacks.threads)
        line = core_line(name, taken.core, stopped, len(data))
        return Taken(name, line, stopped, len(data), threads, [])


class BundlesTaker:
    def __init__(
        self, process: Process, policy: Policy, recordings: Recordings, compression: Compression
    ) -> None:
        from gcorefs.cli.one_bundle import BundleTaker  # noqa: PLC0415

        self._process = process
        self._recordings = recordings
        self._compression = compression
        self._taker = BundleTaker(policy, _FILE_LIMIT, has_environ=False)

    def take(self, name: str, is_over: Callable[[], bool]) -> Taken:
        file = self._recordings.bounded_sink(name)
        inside = name.removesuffix(".tar.zst")
        try:
            taken = self._taker.take(
                self._process, inside, time.time(), lambda: self._compression.sink(lambda: file)
            )
        finally:  # it may not have come to the sink
            file.abort()
        stopped = taken.stop.stopped_seconds
        threads = sum(taken.core.facts["threads"].values())
        line = core_line(name, taken.core, stopped, file.size)
        return Taken(name, line, stopped, file.size, threads, taken.missing)


def form(kind: str, compression: Compression) -> Form:
    if kind == "stacks":
        return Form("stacks", ".txt", (".txt",))
    if kind == "bundle":
        return Form("bundle", ".tar.zst", (".tar.zst",))
    return CORE._replace(suffix=compression.suffix)


def taker(
    kind: str, process: Process, policy: Policy, recordings: Recordings, compression: Compression
) -> Taker:
    """A taker that has imported all that it needs.  ClickException."""
    import_holder(policy.hold, bool(policy.spool))
    if kind == "stacks":
        return StacksTaker(process, policy, recordings)
    if kind == "bundle":
        zstd = Compression("zstd", compression.level)
        zstd.load()
        return BundlesTaker(process, policy, recordings, zstd)
    compression.load()
    return CoreTaker(process, policy, recordings, compression)


def cause_of(error: Exception) -> Exception:
    """The error that a command told in one line."""
    if isinstance(error, click.ClickException) and isinstance(error.__cause__, Exception):
        return error.__cause__
    return error


def name_now(recordings: Recordings) -> str:
    return recordings.name_at(datetime.now(UTC))


def may_be_read(pid: int) -> None:
    """OSError: we may not trace the process (proc_pid_mem(5))."""
    os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC))
