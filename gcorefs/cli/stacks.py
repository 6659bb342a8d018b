"""gcorefs stacks: the stacks of all threads, equal ones folded."""

import json

import click

from gcorefs.cli import stopping
from gcorefs.cli.policy import takes_policy
from gcorefs.cli.process_stacks import StackTaker, check_reader
from gcorefs.cli.stack_text import Report, as_json, draw
from gcorefs.cli.target import Targets, takes_targets, tell
from gcorefs.policy import Policy
from gcorefs.readers.fold import Style
from gcorefs.readers.process_stacks import NATIVE_READERS, Stacks


@click.command()
@takes_targets
@click.option(
    "--with", "reader", type=click.Choice(("auto", *NATIVE_READERS)), default="auto",
    show_default=True,
    help="Who reads native frames; auto: eu-stack, or gdb if only that is installed, if the "
    "process is in a container, or if it has more than 1000 threads.",
)  # fmt: skip
@click.option(
    "--heap", type=click.IntRange(min=0), metavar="MIB", default=1024, show_default=True,
    help="How much memory of a process may be copied for frames of Python, Go and Java, which its "
    "stacks alone do not tell; 0: native frames only.",
)  # fmt: skip
@click.option("--lines/--no-lines", default=True, help="Show source files and lines (if known).")
@click.option("--addresses", is_flag=True, help="Show the address of each frame.")
@click.option("--ids", is_flag=True, help="Show pid and tid of each thread.")
@click.option("--json", "is_json", is_flag=True, help="For programs.")
@takes_policy(profile="@stacks")
def stacks(targets: Targets, policy: Policy, reader: str, heap: int, **shown: bool) -> None:
    """Show the stacks of all threads of processes, the most frequent first.

    Threads with equal stacks are one entry, with their number and names.  The text has no pids and
    no addresses unless you ask for them: so equal states of many hosts give equal texts.

    A process stands still until its stacks are copied, for some milliseconds, and runs on while
    they are read.
    """
    selected = targets.select()
    stopping.end_in_good_order()
    check_reader(reader)
    taker = StackTaker(reader, heap << 20, policy)
    tell(selected.errors)
    found: list[Stacks] = []
    names: list[str] = []
    has_failed = bool(selected.errors)
    for process in selected.processes:
        try:
            taken = taker.take(process)
        except click.ClickException as error:
            tell([error])
            has_failed = True
        else:
            found.append(taken.stacks)
            names.append(taken.name)
    if found:
        report = Report(
            names,
            [thread for each in found for thread in each.threads],
            [goroutine for each in found for goroutine in each.goroutines],
            Style(shown["lines"], shown["addresses"]),
            shown["ids"],
        )
        if shown["is_json"]:
            click.echo(json.dumps(as_json(report), indent=2))
        else:
            click.echo("\n".join(draw(report)))
    if has_failed:
        raise click.exceptions.Exit(1)
