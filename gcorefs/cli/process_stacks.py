"""The stacks of one process, for the commands that show or keep them."""

import contextlib
import os
import tempfile
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import click

from gcorefs import api
from gcorefs.api import Core, Stop
from gcorefs.cli import stopping
from gcorefs.cli.one_core import write_core
from gcorefs.cli.printable import printable
from gcorefs.cli.stack_text import Report, draw
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
from gcorefs.readers.process_stacks import MANY_THREADS, Stacks, Subject, native_reader, read
from gcorefs.readers.program import ReaderError

_NO_READER = "no reader of stacks is installed: apt install elfutils (eu-stack), or gdb"


def check_reader(reader: str) -> None:
    """ClickException: nobody can read native frames here."""
    if not native_reader(reader):
        missing = _NO_READER if reader == "auto" else f"{reader} is not installed"
        raise click.ClickException(missing)


class StacksTaken(NamedTuple):
    """The stacks of one process, and the core that they are from."""

    name: str
    stacks: Stacks
    stop: Stop
    core: Core


@dataclass(frozen=True, slots=True)
class StackTaker:
    """How stacks are taken."""

    reader: str
    most_heap: int
    """Bytes."""
    policy: Policy
    said: set[str] = field(default_factory=set)
    """Lines that are not said again."""

    def take(self, process: Process) -> "StacksTaken":
        """ClickException."""
        pid = process.pid
        with contextlib.ExitStack() as stack:
            stack.enter_context(stopping.refusals_told(pid))
            with told(pid, Reason.GONE):
                tid = tasks.ask_live_thread(pid, lambda tid: tid)
                name = comm(pid, pid)
                files = stack.enter_context(contextlib.closing(Files(tid)))
                is_elsewhere = not _is_in_our_mounts(tid)
            readable = self._readable(process, files)
            policy = replace(self.policy, memory="filter") if readable else self.policy
            names = _names(pid)
            core = os.memfd_create("gcorefs-stacks", os.MFD_CLOEXEC)
            stack.callback(os.close, core)
            stop, taken = self._copy(process, policy, core)
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
        return StacksTaken(name, found, stop, taken)

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

    def _copy(self, process: Process, policy: Policy, core: int) -> tuple[Stop, Core]:
        """Write a core into an open file.  The process runs on when this returns."""
        stop = api.stop(process, policy)
        taken = write_core(
            stop,
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
        return stop, taken

    def _say(self, line: str) -> None:
        if line not in self.said:
            self.said.add(line)
            click.echo(printable(line), err=True)


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
                found[tid] = comm(pid, tid)
    return found


def comm(pid: int, tid: int) -> str:
    return procfile.read_of(pid, tid, "comm").removesuffix(b"\n").decode(errors="replace")


def text_of(taken: StacksTaken) -> str:
    """The text that `gcorefs stacks` shows of one process."""
    found = taken.stacks
    report = Report([taken.name], found.threads, found.goroutines, Style())
    return "\n".join(draw(report)) + "\n"
