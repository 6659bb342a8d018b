"""gcorefs check: what works here, what a core would cost, and how to mend the rest."""

import json
from collections.abc import Iterable, Sequence
from functools import partial

import click

from gcorefs.checkup.finding import Finding, Mark, note, ok, problem
from gcorefs.checkup.machine import Machine, ask_machine
from gcorefs.checkup.proc_view import NOT_OURS
from gcorefs.checkup.target import Cost, Diagnosis, diagnose
from gcorefs.cli import stopping
from gcorefs.cli.picture import duration, size
from gcorefs.cli.printable import printable
from gcorefs.cli.target import Selected, Targets, takes_targets, tell
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.process.bounded_questions import AT_WORK, ask_each

_MARK, _TOPIC = 8, 13
"""The widths of the first two columns."""
_SILENT = "/proc did not answer in time"


@click.command()
@takes_targets
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def check(targets: Targets, as_json: bool) -> None:
    """Look this machine over, and each target: what works, what does not and why, and how to mend
    it.

    Nobody is stopped, and nothing is changed.  The status is 1 if no core can be had: of a target,
    or, without a target, of any process.
    """
    # First: it starts processes of its own, and questions about targets are asked by threads.
    machine = ask_machine()
    found = [NOT_OURS] if machine is None else machine.findings()
    selected = _selected(targets)
    told = [] if machine is None else _diagnoses(selected.processes, machine)
    if as_json:
        click.echo(json.dumps(_facts(found, told), indent=2))
    else:
        _show(found)
        for each in told:
            click.echo()
            click.echo(printable(_title(each)))
            _show(_lines(each))
    tell(selected.errors)
    judged = [finding for each in told for finding in each.findings] if targets else found
    if selected.errors or any(each.mark is Mark.PROBLEM for each in judged):
        raise click.exceptions.Exit(1)


def _selected(targets: Targets) -> Selected:
    """Also of targets of which no process can be had: the machine may be why."""
    if not targets:
        return Selected()
    try:
        return targets.select()
    except click.UsageError:
        raise
    except click.ClickException as error:
        return Selected(errors=[error])


def _diagnoses(processes: Sequence[Process], machine: Machine) -> list[Diagnosis]:
    return ask_each(
        [(f"process {each.pid}", partial(_ask, each, machine)) for each in processes],
        otherwise=lambda number: _unknown(processes[number].pid, _SILENT),
        at_work=AT_WORK,
    )


def _ask(process: Process, machine: Machine, may_wait: bool) -> Diagnosis:
    if not may_wait:
        return _unknown(process.pid, _SILENT)
    try:
        with stopping.refusals_told(process.pid):
            return diagnose(process, machine)
    except click.ClickException as error:
        return _unknown(process.pid, error.message)


def _unknown(pid: int, why: str) -> Diagnosis:
    return Diagnosis(pid, b"", 0, [problem("core", why)])


def _show(findings: Iterable[Finding]) -> None:
    for each in findings:
        step = f"; {each.step}" if each.step else ""
        text = f"{each.mark.value:{_MARK}} {each.topic:{_TOPIC}} {each.fact}{step}"
        click.echo(printable(text))


def _title(each: Diagnosis) -> str:
    name = f" ({each.name.decode(errors='replace')})" if each.name else ""
    if not each.threads:
        return f"process {each.pid}{name}"
    return f"process {each.pid}{name}, {each.threads} thread{'s' * (each.threads > 1)}"


def _lines(each: Diagnosis) -> list[Finding]:
    found = [*each.findings, *map(_priced, each.costs)]
    if each.advice is not None:
        found.append(ok("take", f"--policy {each.advice.policy}: {each.advice.why}"))
    return found


def _priced(cost: Cost) -> Finding:
    fact = f"{size(cost.size)}; it stands still for about {duration(cost.stop_seconds)}"
    if cost.policy == "hold=precopy" and not cost.instead:
        fact += ", and longer the more it writes meanwhile"
    if cost.instead:
        return note(cost.policy, f"{fact}, {cost.instead}")
    return ok(cost.policy, fact)


def _facts(found: Iterable[Finding], told: Iterable[Diagnosis]) -> dict[str, object]:
    return {"machine": [_record(each) for each in found], "targets": [*map(_target, told)]}


def _record(each: Finding) -> dict[str, str | None]:
    step = each.step or None
    return {"topic": each.topic, "mark": each.mark.value, "fact": each.fact, "step": step}


def _target(each: Diagnosis) -> dict[str, object]:
    return {
        "pid": each.pid,
        "name": each.name.decode(errors="replace"),
        "threads": each.threads,
        "findings": [_record(finding) for finding in each.findings],
        "costs": [
            {
                "policy": cost.policy,
                "size": cost.size,
                "stop_seconds": float(f"{cost.stop_seconds:.2g}"),
                "instead": cost.instead or None,
            }
            for cost in each.costs
        ],
        "advice": None
        if each.advice is None
        else {"policy": each.advice.policy, "why": each.advice.why},
    }
