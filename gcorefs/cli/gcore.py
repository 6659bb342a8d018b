"""gcorefs-gcore: takes the place of gdb's gcore(1), for scripts that call a program of that name.

Options, file names and statuses are those of gdb's script (gdb/gcore-1.in), and so are the lines
that scripts look for.  It differs in what a script cannot want: status 0 for a core that is
incomplete, or that an earlier call has left there.
"""

import contextlib
import errno
import getopt
import os
import re
import signal
import sys
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

import click

from gcorefs import __version__, api
from gcorefs.cli import stopping, victim
from gcorefs.cli.one_core import lacks, write_core
from gcorefs.cli.one_line import told_in_one_line
from gcorefs.cli.printable import printable
from gcorefs.export.sink import Sink, SinkError, open_sink
from gcorefs.kernel.proc import tasks
from gcorefs.policy import Policy
from gcorefs.process.errors import ProcessError

USAGE = "usage:  gcore [-a] [-o prefix] [-d data-directory] [-g gdb] pid1 [pid2...pidN]"

HELP = f"""\
{USAGE}

Write the core of each process to PREFIX.PID, and let the process go on.

  -a             every byte that can be read, whatever coredump_filter says, and
                 what the process wants in no core (MADV_DONTDUMP)
  -o PREFIX      the beginning of the names; default: core
  -d DIR, -g GDB of gdb's gcore: accepted, without a meaning here
  -h, --help     this text
  -v, --version  the version of gcorefs, which takes the place of gdb's gcore
"""

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 128 + signal.SIGINT

_PID = re.compile("[0-9]{1,10}")

_GDB_SAYS = {
    errno.ESRCH: "ptrace: No such process.",
    errno.EPERM: "ptrace: Operation not permitted.",
    errno.EACCES: "ptrace: Operation not permitted.",
    errno.EBUSY: "ptrace: Operation not permitted.",
}
"""What gdb says instead of the reason, by the errno of the reason."""


class Request(NamedTuple):
    """What the words of the command line ask for."""

    pids: list[str]
    prefix: str = "core"
    policy: Policy = Policy()


def main() -> NoReturn:
    """The program."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # as in gcorefs.cli.main
    victim.volunteer()
    try:
        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def run(words: list[str]) -> int:
    """Do what the words of a command line ask for.  Its status."""
    try:
        options, pids = getopt.getopt(words, "hvao:d:g:", ["help", "version"])
    except getopt.GetoptError as error:
        _say(2, f"gcore: {error.msg}")
        _say(1, USAGE)
        return WRONG_USAGE
    names = {name for name, _ in options}
    if names & {"-h", "--help"}:
        _say(1, *HELP.splitlines())
        return 0
    if names & {"-v", "--version"}:
        _say(1, f"gcore (gcorefs) {__version__}")
        return 0
    if not pids:
        _say(1, USAGE)
        return WRONG_USAGE
    request = Request(pids)
    for name, value in options:
        if name == "-o":
            request = request._replace(prefix=value)
        elif name == "-a":
            request = request._replace(policy=Policy(memory="all+dontdump"))
    stopping.end_in_good_order()
    return 0 if all(_is_written(request, pid) for pid in pids) else FAILED


def _is_written(request: Request, pid: str) -> bool:
    """Write the core of one process, and say so.  False: there is none, and it is said why."""
    name = f"{request.prefix}.{pid}"
    try:
        with told_in_one_line():
            warnings = _write(request, pid, name)
    except click.ClickException as error:
        _say(2, error.format_message())
        _say(1, f"gcore: failed to create {name}")
        return False
    for each in warnings:
        _say(2, f"warning: {each}")
    # A script may take the last line but one for the former.
    _say(1, f"Saved corefile {name}", f"[Inferior 1 (process {pid}) detached]")
    return True


def _write(request: Request, word: str, name: str) -> list[str]:
    """What the core has otherwise than it was asked for.  ClickException."""
    if not tasks.is_ours():
        raise click.ClickException(tasks.NOT_OURS)
    victim.spare_others()
    pid = _pid(word)
    with stopping.refusals_told(pid), _in_words_of_gdb():
        stop = api.stop(pid, request.policy)
        core = write_core(
            stop,
            lambda: _open(name),
            lambda: contextlib.nullcontext(lambda done, size: None),
        )
        return lacks(stop, core)


def _pid(word: str) -> int:
    """ClickException, in the words of gdb: it is none."""
    if not word:
        raise click.ClickException("Argument required (process-id to attach).")
    if not _PID.fullmatch(word):
        raise click.ClickException(f"Illegal process-id: {word}.")
    if not int(word):
        raise click.ClickException(f"{_GDB_SAYS[errno.ESRCH]} (no process has the pid 0)")
    return int(word)


@contextlib.contextmanager
def _in_words_of_gdb() -> Iterator[None]:
    """Say first what gdb says, for scripts that look for it, and then the reason."""
    try:
        yield
    except ProcessError as error:
        if (words := _GDB_SAYS.get(error.errno or 0)) is None:
            raise
        raise click.ClickException(f"{words} ({error})") from error


def _open(name: str) -> Sink:
    try:
        # The user chose PREFIX, and not PREFIX.PID.
        return open_sink(name, is_chosen=False)
    except SinkError as error:
        text = f"Failed to open '{name}' for output. ({error.strerror})"
        raise click.ClickException(text) from error


def _say(stream: int, *lines: str) -> None:
    """Print lines.  A stream that is closed, or full, does not make a failure of a core."""
    text = "".join(f"{printable(line)}\n" for line in lines)
    with contextlib.suppress(OSError):
        os.write(stream, text.encode())
