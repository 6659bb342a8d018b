"""A reader that is installed, run with a time limit."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from gcorefs.errors import GcorefsError

TIMEOUT = 120.0
"""Seconds."""


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
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT,
            env=environment,
            cwd=home,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ReaderError(f"{name} has not ended after {TIMEOUT:g} s") from error
    except OSError as error:
        raise ReaderError(f"{name}: {error.strerror}") from error
    if done.returncode not in accepted:
        why = _error_in(done.stderr.decode(errors="replace"))
        raise ReaderError(f"{name} failed with status {done.returncode}: {why}")
    return done.stdout.decode(errors="replace")


def _error_in(text: str) -> str:
    """The line that says what went wrong: the first that speaks of an error, before a trace of
    where it came from, or the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    about = (line for line in lines if "error" in line.lower())
    return next(about, lines[-1] if lines else "it said nothing")
