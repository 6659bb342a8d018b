"""One bundle of one process, for the commands that write them."""

import contextlib
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from gcorefs import api
from gcorefs.api import Core, Stop
from gcorefs.bundle.contents import CORE, Collected, write_rest
from gcorefs.bundle.facts import facts
from gcorefs.bundle.link_names import link_names
from gcorefs.bundle.manifest import Origin
from gcorefs.bundle.mapped_files import MappedFiles
from gcorefs.bundle.tarball import Tarball
from gcorefs.cli import stopping
from gcorefs.cli.one_core import lacks
from gcorefs.cli.output import Output
from gcorefs.export.sink import Sink
from gcorefs.kernel.proc import address_space, procfile, tasks
from gcorefs.kernel.proc.task_stat import Process
from gcorefs.policy import Policy
from gcorefs.process.bounded_questions import ask_each
from gcorefs.process.errors import Reason, told

_MOST_FILES = 65536
_MOST_LINES = 10
"""So many files that are missing are told."""


class Bundled(NamedTuple):
    """A bundle that was written."""

    core: Core
    stop: Stop
    missing: list[str]
    """What it lacks; one line each."""


class BundleTaker(NamedTuple):
    """How bundles are taken."""

    policy: Policy
    file_limit: int
    """Bytes of a mapped file that is no ELF file."""
    has_environ: bool

    def take(self, process: Process, name: str, when: float, to: Callable[[], Sink]) -> Bundled:
        """Write a bundle to the sink that `to` makes.  ProcessError, SinkError, FormatError,
        MapsError, OSError: the process runs on, and the sink is aborted."""
        _allow_many_files()
        with contextlib.ExitStack() as stack:
            files = stack.enter_context(contextlib.closing(MappedFiles(self.file_limit)))
            told_first = _ask(process.pid, files, self.has_environ)
            stop = api.stop(process, self.policy)
            sink = to()
            stack.callback(sink.abort)
            work = _Work(stop, files, told_first)
            with stopping.late_awaited([stop]):
                core, missing = work.write(sink, name, when)
                sink.commit()
        return Bundled(core, stop, [*lacks(stop, core), *missing])


def _allow_many_files() -> None:
    """Each mapped file is open at the same time."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@dataclass(frozen=True, slots=True)
class _Told:
    """What /proc has told of a program."""

    known: dict[str, bytes]
    unknown: dict[str, str]
    has_environ: bool
    vector: bytes
    """Its auxiliary vector: execve(2) makes another one (getauxval(3))."""

    def again(self, pid: int, tid: int) -> "_Told":
        """The same, now that the process stands still.  If it executes another program since then,
        all that was told is of the one before."""
        if address_space.read_mm(tid, "auxv") != self.vector:
            return _of_program(tid, self.has_environ)
        return replace(self, known={**self.known, "comm": procfile.read_of(pid, pid, "comm")})


def _of_program(tid: int, has_environ: bool) -> _Told:
    vector = address_space.read_mm(tid, "auxv")
    return _Told(*facts(tid, has_environ), has_environ, vector)


def _ask(pid: int, files: MappedFiles, has_environ: bool) -> _Told:
    """Ask /proc and open the files, before the process stands still."""
    with told(pid, Reason.GONE):
        tid = tasks.ask_live_thread(pid, lambda tid: tid)
        files.look(tid)
        return _of_program(tid, has_environ)


class _Work:
    def __init__(self, stop: Stop, files: MappedFiles, told_first: _Told) -> None:
        self._stop = stop
        self._files = files
        self._told = told_first

    def write(self, sink: Sink, name: str, when: float) -> tuple[Core, list[str]]:
        """The core, and what the bundle lacks.  The process runs on when its core is written."""
        tarball = Tarball(sink, name, when)
        # After a signal the tarball is closed first: then the thread that writes ends soon.
        with contextlib.closing(Output()) as writer, contextlib.closing(tarball):
            with self._stop:
                names = self._look_again()
                core = self._stop.core()
                writer.do_held(self._stop, core, tarball.add, CORE, core.size, core.read)
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
            origin = Origin(name, self._stop.pid, at, core.size)
            collected = Collected(self._files, names, self._told.known, self._told.unknown)
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
            self._told = self._told.again(pid, tid)
        with contextlib.suppress(OSError):
            (names,) = ask_each([(f"/proc/{pid}/mem", partial(_names, tid))], lambda number: [])
            return names
        return []


def _names(tid: int, may_wait: bool) -> list[tuple[bytes, int]]:
    return link_names(tid) if may_wait else []
