"""The frames of Java, from jhsdb(1) of the JDK of the process."""

import re
from dataclasses import dataclass

from gcorefs.readers.frames import Frame, Frames

NAME = "jhsdb"

# jdk.hotspot.agent, tools/StackTrace.java and runtime/JavaThread.java.
# The rest of a line behind the name of a thread.
_THREAD = re.compile(r"\d+ .*?\bnid=(0x[0-9a-f]+|\d+) ")
_FRAME = re.compile(r"^ - ([^\s(]+)\(.*?\) @bci=-?\d+(?:, line=(\d+))?")
# A hidden class has a number or an address in its name, which differ from run to run.
_HIDDEN = re.compile(r"(\$\$Lambda)?(?:[$/]\d+)?[+/]0x[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class JavaThread:
    name: str
    """The name that the program gave it; the kernel knows 15 bytes of it."""
    frames: Frames


def command(program: str, core: str, executable: str) -> list[str]:
    return [program, "jstack", "--exe", executable, "--core", core]


def parse(text: str) -> dict[int, JavaThread]:
    """The threads of Java by tid; some have no frame."""
    found: dict[int, JavaThread] = {}
    frames: list[Frame] = []
    for line in text.split("\n"):
        name, mark, rest = line.rpartition('" #')
        if mark and name.startswith('"') and (match := _THREAD.match(rest)):
            frames = []
            found[int(match[1], 0)] = JavaThread(name[1:], frames)
        elif match := _FRAME.match(line):
            name = _HIDDEN.sub(r"\1", match[1])
            frames.append(Frame(name, source=f"line {match[2]}" if match[2] else ""))
    return found
