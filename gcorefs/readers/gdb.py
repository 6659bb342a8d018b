"""Native frames, from gdb(1)."""

import re
from collections.abc import Sequence

from gcorefs.readers.eu_stack import MOST_FRAMES, module_name
from gcorefs.readers.frames import Frame, Frames

NAME = "gdb"

# gdb/stack.c, print_frame.
_THREAD = re.compile(r"^Thread \d+ \(.*?LWP (\d+)\)")
_FRAME = re.compile(r"^#\d+ +(?:0x([0-9a-f]+) in )?(.*)$")
_LINE = re.compile(r":\d+$")
_AT, _FROM = " at ", " from "
_UNKNOWN = "??"


def command(
    program: str, core: str, executable: str, folders: Sequence[str], root: str = ""
) -> list[str]:
    """`root`: the directory in which the paths of the process begin; empty: ours."""
    settings = [
        "debuginfod enabled off",
        "auto-load off",  # a file of the process must not run commands here
        f"debug-file-directory {':'.join(('/usr/lib/debug', *folders))}",
        *([f"sysroot {root}"] if root else []),
        "pagination off",
        "width 0",
        "style enabled off",
        f"backtrace limit {MOST_FRAMES}",
        "backtrace past-main on",
        "backtrace past-entry on",
        "print frame-arguments none",
        "print entry-values no",
    ]
    words = [program, "-nx", "-batch"]
    for setting in settings:
        words += ["-iex", f"set {setting}"]
    words += ["-ex", "thread apply all backtrace"]
    return [*words, f"--core={core}", *([f"--exec={executable}"] if executable else [])] + (
        [f"--symbols={executable}"] if executable else []
    )


def parse(text: str) -> dict[int, Frames]:
    """The stack of each thread."""
    stacks: dict[int, list[Frame]] = {}
    frames: list[Frame] | None = None
    for line in text.split("\n"):
        if line.endswith(":") and (match := _THREAD.match(line)):
            frames = stacks.setdefault(int(match[1]), [])
        elif frames is not None and (match := _FRAME.match(line)):
            address, text = match.groups()
            function, source, module = _divided(text)
            frames.append(
                Frame(
                    "" if function == _UNKNOWN else function,
                    source=source,
                    module=module_name(module),
                    address=int(address, 16) if address else None,
                )
            )
    return dict(stacks)


def _divided(text: str) -> tuple[str, str, str]:
    """The function, its source and its module.

    One expression for all of that would take a time that grows with the square of a name, and a
    name may have thousands of letters.
    """
    at = text.find(_AT) if _LINE.search(text) else -1
    of = text.find(_FROM)
    source = module = ""
    if at >= 0 and (of < 0 or at < of):
        text, source = text[:at], text[at + len(_AT) :]
    elif of >= 0:
        text, module = text[:of], text[of + len(_FROM) :]
    return _without_arguments(text), source, module


def _without_arguments(text: str) -> str:
    """Without the values of arguments the last parentheses are theirs."""
    start = text.rfind(" (")
    is_theirs = start >= 0 and text.endswith(")") and not {"(", ")"} & {*text[start + 2 : -1]}
    return text[:start] if is_theirs else text
