"""gcorefs stacks: the stacks of all threads, equal ones folded."""

import contextlib
import json
import os
import tempfile
from dataclasses import dataclass, field, replace

import click

from gcorefs import api
from gcorefs.cli import stopping
from gcorefs.cli.one_core import write_core
from gcorefs.cli.policy import takes_policy
from gcorefs.cli.stack_text import Report, as_json, draw
from gcorefs.cli.target import Targets, takes_targets, tell
from gcorefs.elfcore.provenance import How
from gcorefs.export.sink import StreamSink
from gcorefs.kernel.proc import procfile, tasks
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.look import estimate, look
from gcorefs.policy import Policy
from gcorefs.process.errors import Reason, told
from gcorefs.readers import program
from gcorefs.readers.files import Files
from gcorefs.readers.fold import Style
from gcorefs.readers.languages import HOW_TO_HAVE, READERS, languages
from gcorefs.readers.process_stacks import (
    MANY_THREADS,
    NATIVE_READERS,
    Stacks,
    Subject,
    native_reader,
    read,
)
from gcorefs.readers.program import ReaderError

_NO_READER = "no reader of stacks is installed: apt install elfutils (eu-stack), or gdb"


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
    if not native_reader(reader):
        missing = _NO_READER if reader == "auto" else f"{reader} is not installed"
        raise click.ClickException(missing)
    command = _Command(reader, heap << 20, policy)
    tell(selected.errors)
    found: list[Stacks] = []
    names: list[str] = []
    has_failed = bool(selected.errors)
    for process in selected.processes:
        try:
            with stopping.refusals_told(process.pid), told(process.pid, Reason.GONE):
                name = _comm(process.pid, process.pid)
            found.append(command.stacks_of(process))
            names.append(name)
        except click.ClickException as error:
            tell([error])
            has_failed = True
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


@dataclass(frozen=True, slots=True)
class _Command:
    """How stacks are taken."""

    reader: str
    most_heap: int
    """Bytes."""
    policy: Policy
    said: set[str] = field(default_factory=set)
    """Lines that are not said again."""

    def stacks_of(self, process: Process) -> Stacks:
        """ClickException."""
        pid = process.pid
        with contextlib.ExitStack() as stack:
            stack.enter_context(stopping.refusals_told(pid))
            with told(pid, Reason.GONE):
                tid = tasks.ask_live_thread(pid, lambda tid: tid)
                files = stack.enter_context(contextlib.closing(Files(tid)))
                is_elsewhere = not _is_in_our_mounts(tid)
            readable = self._readable(process, files)
            policy = replace(self.policy, memory="filter") if readable else self.policy
            names = _names(pid)
            core = os.memfd_create("gcorefs-stacks", os.MFD_CLOEXEC)
            stack.callback(os.close, core)
            self._take(process, policy, core)
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gcorefs-"))
            files.link(folder)
            subject = Subject(
                pid,
                f"/proc/{os.getpid()}/fd/{core}",
                files,
                folder,
                _names(pid) | names,
                f"/proc/{tid}/root" if is_elsewhere else "",
            )
            try:
                # gdb finds the files of another mount namespace; eu-stack those that we may open.
                is_for_gdb = is_elsewhere or len(names) > MANY_THREADS
                found = read(subject, native_reader(self.reader, is_for_gdb), readable)
            except ReaderError as error:
                raise click.ClickException(f"process {pid}: {error}") from error
        for line in found.errors:
            self._say(f"process {pid}: {line}")
        return found

    def _readable(self, process: Process, files: Files) -> list[str]:
        """The languages whose frames can be had."""
        wanted = languages([*files.mapped, files.program], files.is_of_go)
        if not wanted or not self.most_heap:
            return []
        for each in wanted:
            if not program.find(READERS[each]):
                self._say(
                    f"{READERS[each]} is not installed; it would show the frames of {each} "
                    f"({HOW_TO_HAVE[each]})"
                )
        found = [each for each in wanted if program.find(READERS[each])]
        size = estimate(look(process.pid), replace(self.policy, memory="filter"))
        if found and size > self.most_heap:
            self._say(
                f"process {process.pid}: frames of {', '.join(found)} need a copy of up to "
                f"{-(-size >> 20)} MiB of its memory, and --heap allows {self.most_heap >> 20}"
            )
            return []
        return found

    def _take(self, process: Process, policy: Policy, core: int) -> None:
        """Write a core into an open file.  The process runs on when this returns."""
        taken = write_core(
            api.stop(process, policy),
            lambda: StreamSink(os.dup(core), "memory"),
            lambda: contextlib.nullcontext(lambda done, size: None),
        )
        threads = taken.facts["threads"]
        others = [
            f"{count} {how}" for how, count in threads.items() if count and not How(how).is_exact
        ]
        if others:
            self._say(
                f"process {process.pid}: threads that did not stop: {', '.join(others)}; their "
                "frames may be incomplete"
            )

    def _say(self, line: str) -> None:
        if line not in self.said:
            self.said.add(line)
            click.echo(line, err=True)


def _is_in_our_mounts(tid: int) -> bool:
    """True also if that cannot be known."""
    try:
        return os.stat(f"/proc/{tid}/ns/mnt").st_ino == os.stat("/proc/self/ns/mnt").st_ino
    except OSError:
        return True


def _names(pid: int) -> dict[int, str]:
    """The name of each thread."""
    found = {}
    with contextlib.suppress(OSError):
        for tid in tasks.tids(pid):
            with contextlib.suppress(OSError):
                found[tid] = _comm(pid, tid)
    return found


def _comm(pid: int, tid: int) -> str:
    return procfile.read_of(pid, tid, "comm").removesuffix(b"\n").decode(errors="replace")
