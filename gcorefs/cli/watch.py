"""gcorefs watch: a flight recorder, which keeps the last cores of a process, or takes one when a
condition holds."""

import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import click

from gcorefs.cli import stopping
from gcorefs.cli.compression import Compression, takes_compression
from gcorefs.cli.one_line import SHORT_OF_MEMORY
from gcorefs.cli.policy import takes_policy
from gcorefs.cli.takers import KINDS, Taker, cause_of, form, may_be_read, name_now, taker
from gcorefs.cli.target import PID, Targets, names_targets
from gcorefs.cli.telling import Telling
from gcorefs.cli.watching import ENDED, Clock, Conditions, Waiting, opened
from gcorefs.elfcore.vma import MapsError
from gcorefs.export.recordings import Bounds, Recordings
from gcorefs.kernel.proc.procfile import FormatError
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.policy import Policy
from gcorefs.process.admission import refuse_early
from gcorefs.process.errors import ProcessError, Reason, told
from gcorefs.triggers.budget import Budget
from gcorefs.triggers.looks import look_at
from gcorefs.triggers.words import Condition, WordError, conditions, seconds

_ENDED = (Reason.GONE, Reason.DIED)
"""Why there is no core of a process that has just ended."""

_NONE_THIS_TIME = (OSError, FormatError, MapsError, click.ClickException, *SHORT_OF_MEMORY)

_POLICIES = {"dump": "hold=copy", "stacks": "@stacks", "bundle": "hold=copy"}
"""Of what --when takes, unless --policy says otherwise."""


class Duration(click.ParamType[float]):
    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        found = seconds(value)
        if found is None:
            self.fail(f"{value!r} is no time like 10s, 500ms, 2m or 1h", param, ctx)
        return found


class ConditionsWord(click.ParamType[list[Condition]]):
    name = "conditions"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[Condition]:
        if isinstance(value, list):
            return value
        try:
            return conditions(value)
        except WordError as error:
            self.fail(str(error), param, ctx)


def _usual_policy(named: Mapping[str, Any]) -> str:
    return _POLICIES[named["then"] or "dump"] if named["when"] else "@threads"


@click.command()
@click.argument("words", metavar="[PID] DIR", nargs=-1, required=True)
@names_targets
@click.option(
    "--every", type=Duration(), metavar="TIME",
    help="How often to take a core: 10s, 500ms, 2m, 1h.  [default: 10s, without --when]",
)  # fmt: skip
@click.option(
    "--when", type=ConditionsWord(), metavar="CONDITION[|CONDITION...]", multiple=True,
    help="Take one only when a condition holds: rss>8G, cpu>90%, memory.high, memory.max, D>30s, "
    "threads>5000.",
)  # fmt: skip
@click.option(
    "--then", type=click.Choice(KINDS), help="What --when takes.  [default: dump]"
)  # fmt: skip
@click.option(
    "--cooldown", type=Duration(), metavar="TIME",
    help="Of --when: how long to wait after one.  [default: 5m]",
)  # fmt: skip
@click.option(
    "--max-per-day", type=click.IntRange(min=1), metavar="N",
    help="Of --when: how many to take in 24 hours.  [default: 10]",
)  # fmt: skip
@click.option(
    "--poll", type=Duration(), metavar="TIME",
    help="Of --when: how often to look.  [default: 1s]",
)  # fmt: skip
@click.option(
    "--keep", type=click.IntRange(min=1), metavar="N", default=20, show_default=True,
    help="How many to keep.",
)  # fmt: skip
@click.option(
    "--space", type=click.IntRange(min=1), metavar="MIB",
    help="How much of the disk these may take.  Default: no limit.",
)  # fmt: skip
@click.option(
    "--metrics", metavar="FILE", help="Keep counts for Prometheus in this file, FILE.prom say."
)
@takes_compression
@takes_policy(profile=_usual_policy)
def watch(
    words: tuple[str, ...],
    targets: Targets,
    compression: Compression,
    policy: Policy,
    metrics: str | None,
    **options: Any,
) -> None:
    """Take a core of a process again and again, and keep the last ones in DIR.

    Prints a line for each.  Ends when the process has ended; its last cores stay.  By default the
    cores have the registers of every thread and no memory (--policy @threads).

    With --when, take one only when a condition holds: a core with all its memory, its stacks, or a
    bundle.
    """
    plan = _plan(options)
    process, directory = _process_and_directory(words, targets)
    pid = process.pid
    stopping.end_in_good_order()
    with stopping.refusals_told(pid), contextlib.ExitStack() as stack:
        bounds = Bounds(options["keep"], (options["space"] or 0) << 20)
        kind = form(plan.kind, compression)
        recordings = Recordings(directory, pid, bounds, kind)
        stack.callback(recordings.close)
        pidfd = stack.enter_context(opened(pid))
        telling = Telling(pid, plan.kind, metrics)
        waiting = _waiting(process, pidfd, plan, stack)
        takes = taker(plan.kind, process, policy, recordings, compression)
        _watch(_Recorder(recordings, takes), waiting, telling, is_first_needed=not plan.conditions)


class _Plan(NamedTuple):
    """When to take what."""

    kind: str
    every: float
    conditions: list[Condition]
    budget: Budget
    poll: float


def _plan(options: Mapping[str, Any]) -> _Plan:
    """UsageError: options that say nothing together."""
    found = [condition for word in options["when"] for condition in word]
    of_when = ("then", "cooldown", "max_per_day", "poll")
    given = [name for name in of_when if options[name] is not None]
    if given and not found:
        raise click.UsageError(f"--{given[0].replace('_', '-')} is an option of --when")
    if found and options["every"] is not None:
        raise click.UsageError("--every and --when exclude each other")
    return _Plan(
        options["then"] or "dump",
        options["every"] or 10.0,
        found,
        Budget(options["cooldown"] or 300.0, options["max_per_day"] or 10),
        options["poll"] or 1.0,
    )


def _process_and_directory(words: tuple[str, ...], targets: Targets) -> tuple[Process, str]:
    *pids, directory = words
    if len(pids) > 1 or (not pids and not targets):
        raise click.UsageError("Give one process, and the directory of its cores: PID DIR.")
    numbers = [PID(pid) for pid in pids]
    return targets.with_pids(numbers).select().one(), directory


def _waiting(process: Process, pidfd: int, plan: _Plan, stack: contextlib.ExitStack) -> Waiting:
    """ProcessError, OSError: there will never be a core, or a condition cannot be looked at."""
    if not plan.conditions:
        return Clock(pidfd, plan.every)
    # Now, and not when it is needed.
    refuse_early(process, None, is_stopped=False)  # who traces it now may be gone then
    with told(process.pid, Reason.GONE):
        may_be_read(process.pid)
    looks = []
    for each in plan.conditions:
        looks.append(look_at(process.pid, each))
        stack.callback(looks[-1].close)
    return Conditions(pidfd, looks, plan.budget, plan.poll)


class _Recorder:
    """Takes one after the other, and deletes the oldest."""

    def __init__(self, recordings: Recordings, taker: Taker) -> None:
        self.last = ""
        """The name of the last one."""
        self._recordings = recordings
        self._taker = taker

    def check(self) -> None:
        """SinkError: nothing can be recorded any more."""
        self._recordings.check()

    def record(self, waiting: Waiting, telling: Telling, cause: str) -> None:
        """ProcessError, SinkError, FormatError, MapsError, OSError, ClickException, and those of
        SHORT_OF_MEMORY: there is none this time."""
        self._recordings.look()
        taken = self._taker.take(name_now(self._recordings), lambda: waiting.is_over)
        if taken.name:
            self.last = taken.name
            self._recordings.trim(taken.name)
        telling.taken(taken, cause)


def _watch(recorder: _Recorder, waiting: Waiting, telling: Telling, is_first_needed: bool) -> None:
    """`is_first_needed`: an error of the first one ends it."""
    while (cause := waiting.wait()) != ENDED:
        recorder.check()
        try:
            recorder.record(waiting, telling, cause)
        except _NONE_THIS_TIME as error:
            found = cause_of(error)
            is_end = isinstance(found, ProcessError) and found.reason in _ENDED and waiting.is_over
            if is_first_needed and not is_end:
                raise
            if not is_end:  # the next one may do better
                telling.failed(error)
        is_first_needed = False
        waiting.taken()
    telling.ended(recorder.last)
