"""The scripts that open a bundle, and the text for people.

A bundle may come from a process that nobody trusts: the scripts let a debugger load no code and run
no script out of it.
"""

import posixpath
import re
from collections.abc import Sequence

from gcorefs.bundle.manifest import Placed
from gcorefs.bundle.places import ROOT

PROGRAM = "program"
"""A link to the program, whatever its name is."""

_OPEN = """#!/bin/sh
# Opens the core with {name}, from any directory.  Further words go to {name}.
CDPATH= cd -- "$(dirname -- "$0")" && exec "${{{variable}:-{name}}}" {option} "$@"
"""
OPEN_GDB = _OPEN.format(name="gdb", variable="GDB", option="-x open.gdb").encode()
OPEN_LLDB = _OPEN.format(name="lldb", variable="LLDB", option="-s open.lldb").encode()

_README = """This is the core of process {pid}, taken by gcorefs {when}, with the files that it had mapped.

    ./open-gdb                          # or: gdb -x open.gdb in this directory; then: bt, thread apply all bt
    ./open-lldb                         # or: lldb -s open.lldb in this directory; then: bt all

Nothing of it need be on this machine.  root/ has each file by its path in the process, and others/
files whose path another one had.  manifest.json has sizes and build-ids, and says what is missing.
proc/ has what /proc told.  The core holds all secrets of the process: passwords, keys, environment.
The scripts let no debugger run code of this directory.  Do not change that if you distrust it.
"""  # noqa: E501

_PLAIN = re.compile(r"[^\w./+@%,=-]")


def readme(pid: int, when: str) -> bytes:
    return _README.format(pid=pid, when=when).encode()


def for_gdb(files: Sequence[Placed]) -> bytes:
    lines = [
        "# In the directory of this file: gdb -x open.gdb",
        "set auto-load off",
        f"set sysroot {ROOT}",
    ]
    # A colon divides folders, and a backslash at the end of a line continues it.
    folders = [each for each in _folders(files) if ":" not in each and not each.endswith("\\")]
    if folders:
        lines.append(f"set solib-search-path {':'.join(folders)}")
    if program := _program(files):
        lines.append(f"file {_PLAIN.sub(_escaped, program)}")
    return _text([*lines, "core-file core"])


def for_lldb(files: Sequence[Placed]) -> bytes:
    lines = [
        "# In the directory of this file: lldb -s open.lldb",
        "settings set target.load-script-from-symbol-file false",
        "settings set target.load-cwd-lldbinit false",
    ]
    lines += [
        f"settings append target.exec-search-paths {_PLAIN.sub(_escaped, each)}"
        for each in _folders(files)
    ]
    program = _program(files)
    words = f" {_PLAIN.sub(_escaped, program)}" if program else ""
    return _text([*lines, f"target create --core core{words}"])


def _program(files: Sequence[Placed]) -> str:
    """The place of the program; no line of a script can have a newline in it."""
    for each in files:
        if each.kept.is_program:
            return PROGRAM if "\n" in each.place else each.place
    return ""


def _folders(files: Sequence[Placed]) -> list[str]:
    found = {
        posixpath.dirname(each.place)
        for each in files
        if each.kept.is_elf and not each.kept.is_program
    }
    return sorted(each for each in found if "\n" not in each)


def _escaped(match: re.Match[str]) -> str:
    return "\\" + match[0]


def _text(lines: Sequence[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode(errors="surrogateescape")
