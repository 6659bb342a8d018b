"""Equal stacks, counted.  Pure.

The order depends on nothing but the stacks, so that the output of 1,000 hosts folds as well.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from gcorefs.readers.frames import Frame, Frames, Thread

Lines = tuple[tuple[str, tuple[str, ...]], ...]
"""The stacks as text: each language and its frames."""


@dataclass(frozen=True, slots=True)
class Style:
    """What the text of a frame has."""

    lines: bool = True
    """Source files and lines."""
    addresses: bool = False


@dataclass(slots=True)
class Fold:
    """Threads with equal stacks."""

    stacks: dict[str, Frames]
    lines: Lines
    threads: list[Thread] = field(default_factory=list)

    @property
    def names(self) -> list[tuple[str, int]]:
        """The names of the threads, and how many have each; numbers in them count as numbers."""
        counts = Counter(thread.name for thread in self.threads)
        return sorted(counts.items(), key=lambda item: _by_number(item[0]))


def fold(threads: Iterable[Thread], style: Style) -> list[Fold]:
    """The most frequent first, then by text."""
    found: dict[Lines, Fold] = {}
    for thread in threads:
        lines = tuple(
            (language, tuple(text(frame, style) for frame in frames))
            for language, frames in thread.stacks.items()
        )
        found.setdefault(lines, Fold(dict(thread.stacks), lines)).threads.append(thread)
    return sorted(found.values(), key=lambda each: (-len(each.threads), each.lines))


def text(frame: Frame, style: Style) -> str:
    """One line about a frame."""
    name = frame.function
    if not name:
        has_place = frame.module and frame.offset is not None
        name = f"{frame.module}+{frame.offset:#x}" if has_place else "??"
    source = frame.source if style.lines else ""
    module = frame.module if frame.function or frame.offset is None else ""
    address = f"{frame.address:#018x} " if style.addresses and frame.address is not None else ""
    place = source or module
    return f"{address}{name}  {place}" if place else f"{address}{name}"


def _by_number(name: str) -> list[tuple[int, str]]:
    """A key that sorts worker-10 behind worker-9."""
    parts = re.split(r"([0-9]{1,30})", name)
    return [
        (int(part), "") if part.isdecimal() and part.isascii() else (-1, part) for part in parts
    ]
