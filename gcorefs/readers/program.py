"""A reader that is installed, run with limits of its time, of its memory and of what it says."""

import contextlib
import os
import resource
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gcorefs.errors import GcorefsError
from gcorefs.kernel.proc.system_files import available_memory
from gcorefs.process import cgroups

TIMEOUT = 120.0
"""Seconds."""

MOST_OUTPUT = 64 << 20
"""Bytes.  The stacks of 10,000 threads take 40 MiB."""

LONGEST_LINE = 16 << 10
"""Bytes.  The name of a function may be as long as its program: the rest of a line is left out."""

CUT = b"..."
"""Stands for the rest of a line."""

_SHARE_OF_MEMORY = 2
"""A reader may have half of the memory that is left: a small file may have a section that is
inflated to gibibytes (ELF, SHF_COMPRESSED)."""

_MOST_ERRORS = 64 << 10
_PIECE = 64 << 10  # of a pipe (pipe(7))


class ReaderError(GcorefsError):
    """A reader has failed.  One line."""


def find(name: str) -> str:
    """The path of a program: on PATH, or beside our own interpreter; empty if there is none."""
    beside = Path(sys.executable).with_name(name)
    return shutil.which(name) or (str(beside) if os.access(beside, os.X_OK) else "")


def run(command: Sequence[str], home: str, accepted: Sequence[int] = (0,)) -> str:
    """The standard output of a reader.

    `home`: a directory for its own files.  `accepted`: the statuses with which its output counts.
    ReaderError.
    """
    # No question goes to a server of debugging information: that takes minutes, and gives two hosts
    # two answers.
    environment = {name: text for name, text in os.environ.items() if name != "DEBUGINFOD_URLS"}
    environment |= {"LC_ALL": "C.UTF-8", "TERM": "dumb", "HOME": home, "XDG_CONFIG_HOME": home}
    name = os.path.basename(command[0])
    try:
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=home,
        ) as process:
            try:
                _limit_memory(process.pid)
                output, errors = _said(process)
            except BaseException:
                process.kill()
                raise
    except subprocess.TimeoutExpired as error:
        raise ReaderError(f"{name} has not ended after {TIMEOUT:g} s") from error
    except _TooMuch as error:
        raise ReaderError(f"{name} says more than {MOST_OUTPUT >> 20} MiB") from error
    except OSError as error:
        raise ReaderError(f"{name}: {error.strerror}") from error
    if process.returncode not in accepted:
        why = _error_in(errors.decode(errors="replace"))
        raise ReaderError(f"{name} failed with status {process.returncode}: {why}")
    return output.decode(errors="replace")


def _limit_memory(pid: int) -> None:
    """What it allocates counts, and not the files that it maps (getrlimit(2), RLIMIT_DATA)."""
    left = min([available_memory(), *(limit.left for limit in cgroups.memory_limits())])
    most = max(0, left) // _SHARE_OF_MEMORY
    with contextlib.suppress(OSError):  # it has ended
        soft, hard = resource.prlimit(pid, resource.RLIMIT_DATA)
        resource.prlimit(pid, resource.RLIMIT_DATA, (_lower(soft, most), _lower(hard, most)))


def _lower(limit: int, most: int) -> int:
    return most if limit == resource.RLIM_INFINITY else min(limit, most)


class _TooMuch(Exception):
    """A reader says more than we take."""


class _Lines:
    """What a reader says, each line cut to LONGEST_LINE."""

    def __init__(self) -> None:
        self.text = bytearray()
        # Of the line that is not complete yet:
        self._room = LONGEST_LINE
        self._is_cut = False

    def add(self, data: bytes) -> None:
        first, *others = data.split(b"\n")
        self._add(first)
        for each in others:
            self.text += b"\n"
            self._room, self._is_cut = LONGEST_LINE, False
            self._add(each)

    def _add(self, part: bytes) -> None:
        if self._is_cut:
            return
        self.text += part[: self._room]
        self._is_cut = len(part) > self._room
        self._room -= len(part)
        if self._is_cut:
            self.text += CUT


def _said(process: "subprocess.Popen[bytes]") -> tuple[bytearray, bytearray]:
    """Wait for its end.  What it has said to standard output, and the beginning of what it has said
    to standard error.  TimeoutExpired, _TooMuch."""
    end = time.monotonic() + TIMEOUT
    output, errors = _Lines(), _Lines()
    with selectors.DefaultSelector() as pipes:
        for pipe, lines in ((process.stdout, output), (process.stderr, errors)):
            assert pipe is not None
            pipes.register(pipe, selectors.EVENT_READ, lines)
        while pipes.get_map():
            ready = pipes.select(max(0.0, end - time.monotonic()))
            if not ready:
                raise subprocess.TimeoutExpired(process.args, TIMEOUT)
            for key, _ in ready:
                data = os.read(key.fd, _PIECE)
                if not data:
                    pipes.unregister(key.fileobj)
                elif key.data is output or len(errors.text) < _MOST_ERRORS:
                    key.data.add(data)
            if len(output.text) > MOST_OUTPUT:
                raise _TooMuch
    process.wait(max(0.0, end - time.monotonic()))
    return output.text, errors.text


def _error_in(text: str) -> str:
    """The line that says what went wrong: the first that speaks of an error, before a trace of
    where it came from, or the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    about = (line for line in lines if "error" in line.lower())
    return next(about, lines[-1] if lines else "it said nothing")
