"""The stacks of goroutines, from delve (dlv)."""

import re

from gcorefs.readers.frames import GO, Frame, Thread

NAME = "dlv"

MOST_FRAMES = 200
COMMANDS = f"goroutines -t {MOST_FRAMES}\nexit\n"
"""What `script` has in it."""

# service/debugger of delve: pkg/terminal/command.go, printGoroutines, formatGoroutine, printStack.
_GOROUTINE = re.compile(r"^[ *] Goroutine \d+ - ")
_ON_THREAD = re.compile(r" \(thread (\d+)\)$")
_SINCE = re.compile(r" \d+$")
_FRAME = re.compile(r"^\s+\d+  0x([0-9a-f]+) in (.+)$")
_SOURCE = re.compile(r"^\s+at (.+:\d+)$")


def command(program: str, core: str, executable: str, script: str) -> list[str]:
    options = ["--allow-non-terminal-interactive=true", "--check-go-version=false"]
    return [program, "core", executable, core, *options, "--init", script]


def parse(pid: int, text: str) -> list[Thread]:
    """Every goroutine."""
    found: list[Thread] = []
    frames: list[Frame] = []
    for line in text.split("\n"):
        if _GOROUTINE.match(line):
            frames = []
            found.append(Thread(pid, *_goroutine(line), {GO: frames}))
        elif match := _FRAME.match(line):
            frames.append(Frame(match[2], address=int(match[1], 16)))
        elif frames and (match := _SOURCE.match(line)):
            last = frames.pop()
            frames.append(Frame(last.function, source=match[1], address=last.address))
    return found


def _goroutine(line: str) -> tuple[int, str]:
    """The thread of a goroutine (0: none), and for what it waits.

    Both stand at the end.  A program chooses the names before them, so each part of the line is
    looked at once.
    """
    before, mark, reason = line.rpartition(" [")
    if not (mark and reason.endswith("]")):
        before, reason = line, "]"
    match = _ON_THREAD.search(before, max(0, len(before) - _LONGEST_THREAD))
    return int(match[1]) if match else 0, _SINCE.sub("", reason[:-1]) or "running"


_LONGEST_THREAD = len(" (thread 4194304)")
