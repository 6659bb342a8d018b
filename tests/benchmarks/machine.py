"""The machine and the versions with which something was measured."""

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

PROGRAMS = {
    "gdb": ["gdb", "--version"],
    "coreutils": ["cp", "--version"],
    "fusermount3": ["fusermount3", "--version"],
    "gcc": ["gcc", "--version"],
}
LIBRARIES = ("pyfuse3", "trio", "dotnetcore2", "matplotlib")


def facts() -> dict[str, object]:
    return {
        "kernel": platform.release(),
        "processor": _of("/proc/cpuinfo", "model name"),
        "processors": len(os.sched_getaffinity(0)),
        "memory": _of("/proc/meminfo", "MemTotal"),
        "system": platform.freedesktop_os_release()["PRETTY_NAME"],
        "python": platform.python_version(),
        "transparent huge pages": _selected("/sys/kernel/mm/transparent_hugepage/enabled"),
        **{name: first_line(command) for name, command in PROGRAMS.items()},
        **{name: metadata.version(name) for name in LIBRARIES},
    }


def first_line(command: list[str]) -> str:
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return output.splitlines()[0]


def _of(path: str, key: str) -> str:
    found = re.search(rf"^{key}\s*:\s*(.*)$", Path(path).read_text(), re.MULTILINE)
    return found[1] if found else "unknown"


def _selected(path: str) -> str:
    """A setting that shows all possible values has the current one in brackets."""
    try:
        found = re.search(r"\[(\w+)\]", Path(path).read_text())
    except FileNotFoundError:
        return "none"
    return found[1] if found else "unknown"
