"""The stacks of goroutines, from delve (dlv)."""

import re

from gcorefs.readers.frames import GO, Frame, Thread

NAME = "dlv"

MOST_FRAMES = 200
COMMANDS = f"goroutines -t {MOST_FRAMES}\nexit\n"
"""What `script` has in it."""

# service/debugger of delve: pkg/terminal/command.go, printGoroutines, formatGoroutine, printStack.
_GOROUTINE = re.compile(
    r"^[ *] Goroutine (\d+) - .*?(?: \(thread (\d+)\))?(?: \[(.*?)(?: \d+)?\])?$"
)
_FRAME = re.compile(r"^\s+\d+  0x([0-9a-f]+) in (.+)$")
_SOURCE = re.compile(r"^\s+at (.+:\d+)$")


def command(program: str, core: str, executable: str, script: str) -> list[str]:
    options = ["--allow-non-terminal-interactive=true", "--check-go-version=false"]
    return [program, "core", executable, core, *options, "--init", script]


def parse(pid: int, text: str) -> list[Thread]:
    """Every goroutine."""
    found: list[Thread] = []
    frames: list[Frame] = []
    for line in text.splitlines():
        if match := _GOROUTINE.match(line):
            frames = []
            found.append(Thread(pid, int(match[2] or 0), match[3] or "running", {GO: frames}))
        elif match := _FRAME.match(line):
            frames.append(Frame(match[2], address=int(match[1], 16)))
        elif frames and (match := _SOURCE.match(line)):
            last = frames.pop()
            frames.append(Frame(last.function, source=match[1], address=last.address))
    return found
