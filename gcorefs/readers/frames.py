"""One frame, and the stacks of one thread.  Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

NATIVE = "native"
PYTHON = "Python"
GO = "Go"
JAVA = "Java"


@dataclass(frozen=True, slots=True)
class Frame:
    """One call.  An empty text, or None, is unknown."""

    function: str = ""
    source: str = ""
    """File and line, with a colon between them; of Java the line alone."""
    module: str = ""
    """The name of the file that has the code, without its directory."""
    offset: int | None = None
    """Of the code in the module: the same on every machine, unlike the address."""
    build_id: str = ""
    """Of the module, in hexadecimal digits."""
    address: int | None = None


Frames = Sequence[Frame]
"""The innermost first."""


@dataclass(frozen=True, slots=True)
class Thread:
    """The stacks of one thread, or of one goroutine."""

    pid: int
    tid: int
    """0 for a goroutine that no thread runs."""
    name: str
    """Of a goroutine: what it waits for."""
    stacks: Mapping[str, Frames] = field(default_factory=dict)
    """By language.  A stack of a language has only the frames of that language."""
