"""TARGET: the processes that a command is about, by pid or by another name.

Several targets are taken together, and each process once.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import click

from gcorefs.cli import stopping
from gcorefs.cli.named_path import absolute
from gcorefs.cli.printable import printable
from gcorefs.kernel.proc import procfile, tasks
from gcorefs.kernel.proc.mountinfo import parse_mounts
from gcorefs.kernel.proc.procfile import FormatError
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.process import group_names, search
from gcorefs.process.admission import find
from gcorefs.process.errors import Reason, named_with_limit
from gcorefs.process.group_names import GroupNameError
from gcorefs.process.search import Found

PID = click.IntRange(min=1)

_MOST_NAMED = 10
"""So many pids stand in one line."""


class Kind(NamedTuple):
    """One way to name processes."""

    metavar: str
    help: str
    search: Callable[[str], Found]
    """GroupNameError, OSError."""
    words: str
    """What a process is that has this name; {} stands for the name."""
    hint: str = ""
    """What may help if there is none."""


def _below(text: str) -> group_names.Question:
    return group_names.below(text, [*parse_mounts(procfile.read("self/mountinfo"))])


def _in_group(question: Callable[[str], group_names.Question]) -> Callable[[str], Found]:
    return lambda text: search.search(search.in_group(question(text)))


KINDS = {
    "name": Kind(
        "NAME",
        "The processes of this name, all of it: comm, as pgrep -x, or the last part of argv[0] or "
        "of the path of the program, as pidof.",
        lambda text: search.search(search.named(text)),
        "has the name {}",
        "pgrep -fl finds parts of names and of arguments",
    ),
    "exe": Kind(
        "PATH",
        "Those that run this program: the file that is there, or one of that path that was "
        "deleted.",
        lambda text: search.search(search.running(absolute(text))),
        "runs the program {}",
        "ls -l /proc/PID/exe shows the program of a process",
    ),
    "unit": Kind(
        "UNIT",
        "Those of a unit of systemd; foo means foo.service.",
        _in_group(group_names.in_unit),
        "is in the unit {}",
        "systemctl status PID tells the unit of a process; the name must not be an alias",
    ),
    "cgroup": Kind(
        "PATH",
        "Those in a control group and below it: a path below /sys/fs/cgroup, or as in "
        "/proc/PID/cgroup.",
        _in_group(_below),
        "is in the control group {}",
        "cat /proc/PID/cgroup shows those of a process",
    ),
    "container": Kind(
        "ID",
        "Those in a container: 12 digits of its id, or more.",
        _in_group(group_names.in_container),
        "is in the container {}",
        "cat /proc/PID/cgroup shows the ids that are known here",
    ),
    "pod": Kind(
        "UID",
        "Those in a pod of Kubernetes or podman: 12 digits of its uid, or more.",
        _in_group(group_names.in_pod),
        "is in the pod {}",
        "cat /proc/PID/cgroup shows the ids that are known here",
    ),
    "tree": Kind(
        "PID",
        "A process and all its descendants.",
        lambda text: search.tree(int(text)),
        "is process {} or descends from it",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Selected:
    """The processes of some targets."""

    processes: list[Process] = field(default_factory=list)
    errors: list[click.ClickException] = field(default_factory=list)
    """Why other targets have no process that can have a core."""

    def one(self) -> Process:
        """The only process that is meant.  ClickException: there are more."""
        if self.errors:
            raise self.errors[0]
        if len(self.processes) > 1:
            pids = listed([each.pid for each in self.processes])
            raise click.ClickException(
                f"{len(self.processes)} processes are meant, and the command takes one: {pids}"
            )
        return self.processes[0]


@dataclass(frozen=True, slots=True)
class Targets:
    """What the user named."""

    pids: Sequence[int] = ()
    names: Sequence[tuple[str, str]] = ()
    """A key of KINDS, and the name."""

    def __bool__(self) -> bool:
        return bool(self.pids or self.names)

    def with_pids(self, pids: Sequence[int]) -> "Targets":
        return Targets(pids, self.names)

    @property
    def is_single(self) -> bool:
        """The user named one target, which may be several processes."""
        return len(self.pids) + len(self.names) == 1

    def select(self) -> Selected:
        """The processes, in the order in which they are named; at least one, or ClickException."""
        self._check(looks_at_proc=True)
        selected = Selected()
        known: set[int] = set()
        for ask in self._questions():
            try:
                found = ask()
            except click.UsageError:
                raise
            except click.ClickException as error:
                selected.errors.append(error)
                continue
            selected.processes.extend(each for each in found if each.pid not in known)
            known.update(each.pid for each in found)
        if not selected.processes:
            raise click.ClickException("; ".join(each.message for each in selected.errors))
        return selected

    def numbers(self) -> list[int]:
        """The pids, without a look at those that stand in the command itself.  ClickException: no
        process has one of the names."""
        self._check(looks_at_proc=bool(self.names))
        found = [process.pid for key, text in self.names for process in _search(key, text)]
        return [*dict.fromkeys([*self.pids, *found])]

    def _check(self, looks_at_proc: bool) -> None:
        if not self:
            options = ", ".join(f"--{name}" for name in KINDS)
            raise click.UsageError(f"Which process?  Give its pid, or one of {options}.")
        if looks_at_proc and not tasks.is_ours():
            raise click.ClickException(tasks.NOT_OURS)

    def _questions(self) -> Iterator[Callable[[], Sequence[Process]]]:
        for pid in self.pids:
            yield partial(_find, pid)
        for key, text in self.names:
            yield partial(_search, key, text)


def _find(pid: int) -> Sequence[Process]:
    with stopping.refusals_told(pid):
        return [find(pid)]


def _search(key: str, text: str) -> Sequence[Process]:
    """The processes of one name; at least one, or ClickException."""
    kind = KINDS[key]
    if not text:
        raise click.UsageError(f"--{key}: it cannot be empty")
    with _refusals_told(key):
        found = kind.search(text)
    if found.silent:
        pids = listed(found.silent)
        click.echo(f"--{key}: left out, because /proc does not answer for them: {pids}", err=True)
    if not found.processes:
        hint = f" ({kind.hint})" if kind.hint else ""
        raise click.ClickException(f"no process {kind.words.format(text)}{hint}")
    return found.processes


def tell(errors: Iterable[click.ClickException]) -> None:
    """A line on standard error for each, as click writes the last one."""
    for error in errors:
        click.ClickException(printable(error.format_message())).show()


def listed(pids: Sequence[int]) -> str:
    """Pids for a line of text: not all of them if they are many."""
    more = len(pids) - _MOST_NAMED
    text = ", ".join(map(str, pids[:_MOST_NAMED]))
    return f"{text} and {more} more" if more > 0 else text


@contextlib.contextmanager
def _refusals_told(key: str) -> Iterator[None]:
    try:
        yield
    except GroupNameError as error:
        raise click.UsageError(f"--{key}: {error}") from error
    except ProcessLookupError as error:
        raise click.ClickException(
            f"--{key}: there is no such process; {Reason.GONE.step}"
        ) from error
    except FormatError as error:
        raise click.ClickException(f"--{key}: {error}") from error
    except OSError as error:
        raise click.ClickException(f"--{key}: {named_with_limit(error)}") from error


def names_targets(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of KINDS to a command: its parameter `targets` has what they name."""

    @functools.wraps(command)
    def with_targets(*arguments: Any, **named: Any) -> None:
        texts = {key: named.pop(_parameter(key)) for key in KINDS}
        names = tuple((key, str(text)) for key, several in texts.items() for text in several)
        command(*arguments, targets=Targets(names=names), **named)

    decorated: Callable[..., None] = with_targets
    for key, kind in reversed(KINDS.items()):
        decorated = click.option(
            f"--{key}",
            _parameter(key),
            metavar=kind.metavar,
            multiple=True,
            type=PID if key == "tree" else str,
            help=kind.help,
        )(decorated)
    return decorated


def takes_targets(command: Callable[..., None]) -> Callable[..., None]:
    """The same, and pids as arguments."""

    @functools.wraps(command)
    def with_pids(*arguments: Any, pids: tuple[int, ...], targets: Targets, **named: Any) -> None:
        command(*arguments, targets=targets.with_pids(pids), **named)

    return click.argument("pids", metavar="[PID]...", type=PID, nargs=-1)(names_targets(with_pids))


def _parameter(key: str) -> str:
    return f"target_{key}"
