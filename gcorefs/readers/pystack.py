"""The frames of Python, from pystack(1)."""

import re

from gcorefs.readers.frames import Frame, Frames

NAME = "pystack"

_THREAD = re.compile(r"^Traceback for thread (\d+) ")
_FRAME = re.compile(r'^ +\(Python\) File "(.*)", line (\d+), in (.+)$')


def command(program: str, core: str, executable: str) -> list[str]:
    return [program, "core", "--no-color", core, *([executable] if executable else [])]


def parse(text: str) -> dict[int, Frames]:
    """The stack of each thread; pystack writes the outermost frame first."""
    stacks: dict[int, list[Frame]] = {}
    frames: list[Frame] = []
    for line in text.split("\n"):
        if match := _THREAD.match(line):
            frames = stacks.setdefault(int(match[1]), [])
        elif match := _FRAME.match(line):
            frames.insert(0, Frame(match[3], source=f"{match[1]}:{match[2]}"))
    return {tid: each for tid, each in stacks.items() if each}
