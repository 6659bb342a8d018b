"""gcorefs ls: which processes can have a core, and what it would cost them."""

import json
from collections.abc import Sequence
from functools import partial

import click

from gcorefs.cli import stopping, table
from gcorefs.cli.picture import duration, size
from gcorefs.cli.policy import takes_policy
from gcorefs.cli.target import Selected, Targets, takes_targets, tell
from gcorefs.forecast import Forecast, forecast
from gcorefs.kernel.proc import tasks
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.policy import Policy
from gcorefs.process.bounded_questions import AT_WORK, ask_each
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.search import search

_NUMBERS = ("PID", "THREADS", "SIZE", "STOP")
_SILENT = "/proc did not answer in time"


@click.command()
@takes_targets
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@takes_policy()
def ls(targets: Targets, as_json: bool, policy: Policy) -> None:
    """Show which processes can have a core, how large it would be, and for how long the process
    would stand still.

    Nobody is stopped.  The size is at most about that of the core; the time is a guess, for a core
    that is written to memory.  Without a target: every process.
    """
    selected = targets.select() if targets else _everybody()
    tell(selected.errors)
    rows = _forecasts(selected.processes, policy)
    if as_json:
        click.echo(json.dumps([_facts(each) for each in rows], indent=2))
    else:
        headings = ("PID", "NAME", "THREADS", "SIZE", "STOP", "WHY NOT")
        table.show(headings, _NUMBERS, [_cells(each) for each in rows])
    if selected.errors:
        raise click.exceptions.Exit(1)


def _everybody() -> Selected:
    if not tasks.is_ours():
        raise click.ClickException(tasks.NOT_OURS)
    return Selected(search(lambda pid, stat: True).processes)


def _forecasts(processes: Sequence[Process], policy: Policy) -> list[Forecast]:
    """Without those that have ended meanwhile."""
    answers = ask_each(
        [(f"process {each.pid}", partial(_ask, each, policy)) for each in processes],
        otherwise=lambda number: _silent(processes[number]),
        at_work=AT_WORK,
    )
    return [each for each in answers if each is not None]


def _ask(process: Process, policy: Policy, may_wait: bool) -> Forecast | None:
    if not may_wait:
        return _silent(process)
    try:
        with stopping.refusals_told(process.pid):
            return forecast(process, policy)
    except click.ClickException as error:
        refusal = ProcessError(Reason.NOT_SHOWN, process.pid, error.message)
        return Forecast(process.pid, b"", refusal=refusal)


def _silent(process: Process) -> Forecast:
    refusal = ProcessError(Reason.STUCK, process.pid, _SILENT)
    return Forecast(process.pid, b"", refusal=refusal)


def _why(each: Forecast) -> str:
    """Why there will be no core; empty if there will be one."""
    return "" if each.refusal is None else str(each.refusal).partition(": ")[2]


def _cells(each: Forecast) -> list[str]:
    return [
        str(each.pid),
        each.name.decode(errors="replace"),
        str(each.threads or ""),
        size(each.size) if each.size else "",
        "" if each.refusal is not None else duration(each.stop_seconds),
        _why(each),
    ]


def _facts(each: Forecast) -> dict[str, object]:
    return {
        "pid": each.pid,
        "name": each.name.decode(errors="replace"),
        "threads": each.threads,
        "size": each.size,
        "stop_seconds": None if each.refusal is not None else float(f"{each.stop_seconds:.2g}"),
        "refused": _why(each) or None,
    }
