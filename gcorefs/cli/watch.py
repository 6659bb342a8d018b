"""gcorefs watch: a flight recorder, which keeps the last cores of a process."""

import contextlib
import errno
import os
import re
import select
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import click

from gcorefs import api
from gcorefs.cli import stopping
from gcorefs.cli.core_line import core_line
from gcorefs.cli.output import Output
from gcorefs.cli.policy import takes_policy
from gcorefs.cli.target import PID, Targets, names_targets
from gcorefs.elfcore.vma import MapsError
from gcorefs.export.recordings import Recordings
from gcorefs.export.sink import FileSink, SinkError
from gcorefs.kernel.proc.procfile import FormatError
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.policy import Policy
from gcorefs.process.errors import ProcessError, Reason

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)?")
_LEAST = 0.01
_ENDED = (Reason.GONE, Reason.DIED)
"""Why there is no core of a process that has just ended."""


def _duration(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """Seconds, from a number with ms, s, m or h behind it, or alone."""
    match = _DURATION.fullmatch(value)
    seconds = float(match[1]) * _UNITS[match[2] or "s"] if match else 0.0
    if seconds < _LEAST:
        raise click.BadParameter(f"{value!r} is no time like 10s, 500ms, 2m or 1h", ctx, param)
    return seconds


@click.command()
@click.argument("words", metavar="[PID] DIR", nargs=-1, required=True)
@names_targets
@click.option(
    "--every", callback=_duration, metavar="TIME", default="10s", show_default=True,
    help="How often to take a core: 10s, 500ms, 2m, 1h.",
)  # fmt: skip
@click.option(
    "--keep", type=click.IntRange(min=1), metavar="N", default=20, show_default=True,
    help="How many cores to keep.",
)  # fmt: skip
@click.option(
    "--space", type=click.IntRange(min=1), metavar="MIB",
    help="How much of the disk these cores may take.  Default: no limit.",
)  # fmt: skip
@takes_policy(profile="@threads")
def watch(
    words: tuple[str, ...],
    targets: Targets,
    every: float,
    keep: int,
    space: int | None,
    policy: Policy,
) -> None:
    """Take a core of a process again and again, and keep the last ones in DIR.

    Prints a line for each.  Ends when the process has ended; its last cores stay.  By default the
    cores have the registers of every thread and no memory (--policy @threads).
    """
    process, directory = _process_and_directory(words, targets)
    pid = process.pid
    stopping.end_in_good_order()
    with (
        stopping.refusals_told(pid),
        contextlib.closing(Recordings(directory, pid, keep, (space or 0) << 20)) as recordings,
        _opened(pid) as pidfd,
    ):
        _watch(_Recorder(pid, policy, recordings), _Clock(pidfd, every))


def _process_and_directory(words: tuple[str, ...], targets: Targets) -> tuple[Process, str]:
    *pids, directory = words
    if len(pids) > 1 or (not pids and not targets):
        raise click.UsageError("Give one process, and the directory of its cores: PID DIR.")
    numbers = [PID(pid) for pid in pids]
    return targets.with_pids(numbers).select().one(), directory


@contextlib.contextmanager
def _opened(pid: int) -> Iterator[int]:
    """A descriptor that stands for the process: no other one has it, whatever becomes of the pid
    (pidfd_open(2))."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        if error.errno == errno.EINVAL:  # a thread that leads no process
            raise ProcessError(Reason.GONE, pid, "it is a thread of another process") from error
        if error.errno == errno.ESRCH:
            raise ProcessError(Reason.GONE, pid) from error
        raise
    try:
        yield pidfd
    finally:
        os.close(pidfd)


class _Clock:
    """When the next core is due.  A core that takes longer makes the clock leave out times."""

    def __init__(self, pidfd: int, every: float) -> None:
        self._every = every
        self._due = time.monotonic()
        self._poll = select.poll()
        self._poll.register(pidfd, select.POLLIN)

    def wait(self) -> bool:
        """Wait until a core is due.  False as soon as the process has ended."""
        now = time.monotonic()
        while self._due < now:
            self._due += self._every
        return not self._poll.poll((self._due - now) * 1000)

    @property
    def is_over(self) -> bool:
        return bool(self._poll.poll(0))


class _Recorder:
    """Takes one core after the other."""

    def __init__(self, pid: int, policy: Policy, recordings: Recordings) -> None:
        self.pid = pid
        self._policy = policy
        self._recordings = recordings
        self.last = ""
        """The name of the last core."""

    def record(self, is_over: Callable[[], bool]) -> str:
        """Take a core.  The line about it.  `is_over`: True if the process has ended.

        ProcessError, SinkError, FormatError, MapsError, OSError: there is no core this time.
        """
        recordings = self._recordings
        name = recordings.name_at(datetime.now(UTC))
        stop = api.stop(self.pid, self._policy)
        with stopping.late_awaited([stop]), contextlib.ExitStack() as undone:
            with contextlib.closing(Output()) as writer, stop:
                core = stop.core()
                if is_over():  # else the pid may be another process's by now
                    raise ProcessError(Reason.GONE, self.pid)
                sink = writer.do(self._write, core, name, undone)
            if sink is None:
                return f"{name}: its {core.size} bytes are more than --space allows"
            sink.commit()
        self.last = name
        recordings.trim()
        return core_line(name, core, stop.stopped_seconds)

    def _write(self, core: api.Core, name: str, undone: contextlib.ExitStack) -> FileSink | None:
        """None: there is no room for it.  `undone` aborts the sink."""
        if not self._recordings.has_room(core.size):
            return None
        self._recordings.make_room(core.size)
        sink = self._recordings.sink(name)
        undone.callback(sink.abort)
        core.write_to(sink)
        return sink


def _watch(recorder: _Recorder, clock: _Clock) -> None:
    is_first = True
    while True:
        try:
            _say(recorder.record(lambda: clock.is_over))
        except (ProcessError, SinkError, FormatError, MapsError, OSError) as error:
            is_end = isinstance(error, ProcessError) and error.reason in _ENDED and clock.is_over
            if is_first and not is_end:
                raise
            if not is_end:  # the next one may do better
                click.echo(str(error), err=True)
        is_first = False
        if not clock.wait():
            last = f"; the last core is {recorder.last}" if recorder.last else ""
            _say(f"process {recorder.pid} has ended{last}")
            return


def _say(line: str) -> None:
    click.echo(line)
    sys.stdout.flush()
