"""gcorefs bundle: a core with all that a debugger needs to open it on another machine."""

import contextlib
import resource
import time
from functools import partial

import click

from gcorefs import api
from gcorefs.api import Core, Stop
from gcorefs.bundle.contents import CORE, Collected, write_rest
from gcorefs.bundle.facts import facts
from gcorefs.bundle.link_names import link_names
from gcorefs.bundle.manifest import Origin
from gcorefs.bundle.mapped_files import MappedFiles
from gcorefs.bundle.tarball import Tarball
from gcorefs.cli import stopping
from gcorefs.cli.compression import LEVEL
from gcorefs.cli.core_line import core_line
from gcorefs.cli.one_core import lacks, refuse_no_name
from gcorefs.cli.output import Output
from gcorefs.cli.policy import takes_policy
from gcorefs.cli.printable import printable
from gcorefs.cli.target import Targets, takes_targets
from gcorefs.export.compressed import DEFAULT_LEVEL, CompressedSink
from gcorefs.export.sink import Sink, open_sink
from gcorefs.kernel.proc import tasks
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.policy import Policy
from gcorefs.process.bounded_questions import ask_each
from gcorefs.process.errors import Reason, told

_MOST_FILES = 65536
_MOST_LINES = 10
"""So many files that are missing are told."""


@click.command()
@takes_targets
@click.option(
    "-o", "output", metavar="FILE",
    help="Where to; '-' is standard output.  Default: bundle-PID-TIME.tar.zst.",
)  # fmt: skip
@click.option(
    "--file-limit", type=click.IntRange(min=0), metavar="MIB", default=512, show_default=True,
    help="Leave out each mapped file that is larger and is no ELF file.",
)  # fmt: skip
@click.option(
    "--environ", is_flag=True,
    help="Take /proc/PID/environ as a file, too.  The core may have the environment in any case.",
)  # fmt: skip
@click.option(
    "--level", type=LEVEL, default=DEFAULT_LEVEL, show_default=True,
    help="Of the compression: the higher, the smaller the file, and the longer it takes.",
)  # fmt: skip
@takes_policy(profile="hold=copy")
def bundle(
    targets: Targets,
    output: str | None,
    file_limit: int,
    environ: bool,
    level: int,
    policy: Policy,
) -> None:
    """Write a core with the program, the libraries and all other mapped files of the process.

    The tar file, compressed by zstd, also has build-ids, a script for gdb and one for lldb, and
    what /proc tells.  It opens on a machine that has none of the files: unpack it, and run
    ./open-gdb.

    A process stands still until its memory is copied to that of gcorefs (--policy hold=copy), or,
    if there is no room for that, until the core is written.
    """
    process = targets.select().one()
    stopping.end_in_good_order()
    refuse_no_name(output)
    _allow_many_files()
    when = time.time()
    name = f"bundle-{process.pid}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(when))}"
    place = output or f"{name}.tar.zst"
    with stopping.refusals_told(process.pid), contextlib.ExitStack() as stack:
        files = stack.enter_context(contextlib.closing(MappedFiles(file_limit << 20)))
        known, unknown = _facts(process, files, environ)
        stop = api.stop(process, policy)
        sink = CompressedSink(open_sink(place, output is not None), level)
        stack.callback(sink.abort)
        work = _Work(stop, files, known, unknown)
        with stopping.late_awaited([stop]):
            core, missing = work.write(sink, name, when)
            sink.commit()
    for each in [*lacks(stop, core), *missing]:
        click.echo(printable(each), err=True)
    if place != "-":
        click.echo(printable(core_line(place, core, stop.stopped_seconds)))


def _allow_many_files() -> None:
    """Each mapped file is open at the same time."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _facts(
    process: Process, files: MappedFiles, has_environ: bool
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Ask /proc and open the files, before the process stands still."""
    with told(process.pid, Reason.GONE):
        tid = tasks.ask_live_thread(process.pid, lambda tid: tid)
        files.look(tid)
        return facts(tid, has_environ)


class _Work:
    def __init__(
        self, stop: Stop, files: MappedFiles, known: dict[str, bytes], unknown: dict[str, str]
    ) -> None:
        self._stop = stop
        self._files = files
        self._known = known
        self._unknown = unknown

    def write(self, sink: Sink, name: str, when: float) -> tuple[Core, list[str]]:
        """The core, and what the bundle lacks.  The process runs on when its core is written."""
        tarball = Tarball(sink, name, when)
        # After a signal the tarball is closed first: then the thread that writes ends soon.
        with contextlib.closing(Output()) as writer, contextlib.closing(tarball):
            with self._stop:
                names = self._look_again()
                core = self._stop.core()
                writer.do(tarball.add, CORE, core.size, core.read)
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
            origin = Origin(name, self._stop.pid, at, core.size)
            collected = Collected(self._files, names, self._known, self._unknown)
            missing = writer.do(write_rest, tarball, origin, collected)
        more = len(missing) - _MOST_LINES
        if more > 0:
            missing = [*missing[:_MOST_LINES], f"and {more} more: see manifest.json"]
        return core, missing

    def _look_again(self) -> list[tuple[bytes, int]]:
        """The names of the libraries.  What was mapped meanwhile is opened, too."""
        pid = self._stop.pid
        with told(pid, Reason.GONE):
            tid = tasks.ask_live_thread(pid, lambda tid: tid)
            self._files.look(tid)
        with contextlib.suppress(OSError):
            (names,) = ask_each([(f"/proc/{pid}/mem", partial(_names, tid))], lambda number: [])
            return names
        return []


def _names(tid: int, may_wait: bool) -> list[tuple[bytes, int]]:
    return link_names(tid) if may_wait else []
