"""Native frames, from eu-stack(1) of elfutils."""

import re
from collections.abc import Sequence
from dataclasses import replace

from gcorefs.readers.frames import Frame, Frames

NAME = "eu-stack"

MOST_FRAMES = 2048
"""Of one thread."""

ACCEPTED = (0, 1)
"""1: a stack may end too early, as for a process whose outermost function does not say that it is
the outermost."""

# elfutils, src/stack.c, print_frame: the number, the address, the name if it is known, and behind a
# hyphen the file; below it the build-id with the place in the file, and the source.
_THREAD = re.compile(r"^TID (\d+):$")
_FRAME = re.compile(r"^#\d+ +0x([0-9a-f]+)(?: (?!- )(.+?))?(?: - (.+))?$")
_PLACE = re.compile(r"^    \[([0-9a-f]*)\]@0x[0-9a-f]+\+0x([0-9a-f]+)$")
_SOURCE = re.compile(r"^    (.+?):(\d+)(?::\d+)?$")
_VERSION = re.compile(r"@.*")


def command(program: str, core: str, executable: str, folders: Sequence[str]) -> list[str]:
    """`folders`: absolute directories with .build-id in them."""
    path = ":".join((".debug", "/usr/lib/debug", *folders))
    shown = ["--inlines", "--module", "--build-id", "--source"]
    words = [program, f"--core={core}", *shown, "-n", str(MOST_FRAMES), f"--debuginfo-path={path}"]
    return [*words, *(["-e", executable] if executable else [])]


def parse(text: str) -> dict[int, Frames]:
    """The stack of each thread."""
    stacks: dict[int, list[Frame]] = {}
    frames: list[Frame] = []
    for line in text.split("\n"):
        if match := _THREAD.match(line):
            frames = stacks.setdefault(int(match[1]), [])
        elif match := _FRAME.match(line):
            name = _VERSION.sub("", match[2] or "")
            module = module_name(match[3] or "")
            frames.append(Frame(name, module=module, address=int(match[1], 16)))
        elif frames and (match := _PLACE.match(line)):
            frames[-1] = replace(frames[-1], build_id=match[1], offset=int(match[2], 16))
        elif frames and (match := _SOURCE.match(line)):
            frames[-1] = replace(frames[-1], source=f"{match[1]}:{match[2]}")
    return dict(stacks)


def module_name(path: str) -> str:
    """The last part of a path.  elfutils names the pid in that of the vdso."""
    if path.startswith("["):
        return re.sub(r": \d+\]$", "]", path)
    return path.removesuffix(" (deleted)").rpartition("/")[2]


def renamed(frames: Frames, module: str, name: str) -> Frames:
    """The same with another name for one module."""
    return [replace(each, module=name) if each.module == module else each for each in frames]
