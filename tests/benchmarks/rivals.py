"""Other programs that write a core, or something like one, of a process that goes on.

Each runs in a folder of its own and leaves its result there.  Which of them there are differs from
machine to machine, and from release to release of Debian.
"""

import importlib.util
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from tests.conftest import GCOREFS

PID = "{pid}"
_LONGEST = 600
"""Seconds.  lldb takes a minute for a large process."""


@dataclass(frozen=True)
class Rival:
    name: str
    program: str | Path
    """Its name, or its path."""
    words: tuple[str, ...]
    asked: tuple[str | Path, ...] = ()
    """A command that says its version, if any does."""

    def is_installed(self) -> bool:
        return shutil.which(self.program) is not None

    def version(self) -> str:
        if not self.asked:
            return ""
        done = run(*self.asked)
        found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
        return found[0] if found else ""

    def of(self, pid: int, folder: Path) -> "subprocess.CompletedProcess[str]":
        """Have it do its work in a folder.  Its status is not judged."""
        return run(self.program, *(word.format(pid=pid) for word in self.words), folder=folder)


def run(*words: object, folder: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """One that takes too long has status 124, as with timeout(1)."""
    command = [str(word) for word in words]
    try:
        return subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LONGEST,
            cwd=folder,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"it took more than {_LONGEST} s")


def _createdump() -> Path:
    """.NET's createdump, in the package of the runtime (pyproject.toml, bench)."""
    found = importlib.util.find_spec("dotnetcore2")
    if found is None or found.origin is None:
        return Path("createdump")
    programs = Path(found.origin).parent.glob("bin/shared/*/*/createdump")
    return next(programs, Path("createdump"))


def _procdump() -> Rival:
    """Version 1 knows a pid by an option; version 2 takes what follows the option for a name."""
    rival = Rival("ProcDump", "procdump", ("-n", "1", PID), asked=("procdump", "-h"))
    if rival.is_installed() and rival.version().startswith("1."):
        return replace(rival, words=("-p", PID, "-n", "1"))
    return rival


def _beside(name: str) -> Path:
    """A program of the virtual environment, whatever has its name elsewhere."""
    return Path(sys.executable).with_name(name)


def _lldb(name: str, program: str | Path, *options: str) -> Rival:
    save = " ".join(("process save-core", *options, "core"))
    words = ("--batch", "--no-lldbinit", "-p", PID, "-o", save)
    return Rival(name, program, words, asked=(program, "--version"))


GCORE = Rival("gcore", "gcore", ("-o", "core", PID), asked=("gdb", "--version"))
CREATEDUMP = Rival(".NET's createdump", _createdump(), ("--full", "-f", "core", PID))
PROCDUMP = _procdump()
CRIU = Rival(
    "criu dump --leave-running",
    "criu",
    ("dump", "-t", PID, "-D", ".", "--leave-running", "--shell-job"),
    asked=("criu", "--version"),
)
FULL = ("--plugin-name=minidump", "--style", "full")
OTHERS = (
    GCORE,
    CREATEDUMP,
    PROCDUMP,
    _lldb("Debian's lldb, save-core", "lldb", *FULL),
    _lldb("PyPI's lldb, save-core", _beside("lldb"), *FULL),
    CRIU,
)
OURS = (
    Rival("gcorefs dump", GCOREFS, ("dump", PID, "-o", "core")),
    Rival("gcorefs dump --hold copy", GCOREFS, ("dump", PID, "--hold", "copy", "-o", "core")),
)


def _of_python(name: str, program: str, *words: str) -> Rival:
    return Rival(name, _beside(program), words, asked=(_beside(program), "--version"))


PY_SPY = _of_python("py-spy dump", "py-spy", "dump", "--pid", PID)
OF_PYTHON = (
    Rival("gcorefs stacks", GCOREFS, ("stacks", PID)),
    PY_SPY,
    _of_python("py-spy dump --native", "py-spy", "dump", "--native", "--pid", PID),
    _of_python("pystack remote", "pystack", "remote", "--no-color", PID),
)
"""They write the stacks of a Python program to their output."""
