"""What may stand behind -o: our own options, checked, and those of FUSE, passed on."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, get_args, get_type_hints

import msgspec

from gcorefs.policy import DEFAULT, Hold, MemoryRule, Policy, Unresponsive, XState
from gcorefs.process.copy import DEFAULT_LIMIT

_MOST = 1e9
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=_MOST)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=int(_MOST))]


class Options(msgspec.Struct, frozen=True):
    """Our own options.  Times in seconds."""

    idle_timeout: _Seconds = 60.0
    """A process is let go this long after the last read of its file; 0: never."""
    max_stop: _Seconds = 0.0
    """A process is let go this long after it was stopped, read or not; 0: never."""
    open_timeout: _Seconds = 5.0
    """A process that was stopped by a look-up below .gcorefs/exact is let go where nobody opens
    its file for so long; 0: no look-up stops anybody."""
    stop_timeout: _Seconds = DEFAULT.stop_timeout
    """A thread that has not stopped by then is not waited for."""
    unresponsive: Unresponsive = DEFAULT.unresponsive
    """What the core has of such a thread."""
    memory: MemoryRule = DEFAULT.memory
    """Which memory the core has."""
    xstate: XState = DEFAULT.xstate
    """The layout of the vector registers in the core."""
    hold: Hold = "stop"
    """Until its file is closed, or until its memory is copied."""
    copy_limit: _Count = max(1, DEFAULT_LIMIT >> 20)
    """MiB that the copies of one user's files may take; those of all but root's twice that."""
    user_files: _Count = 4096
    """Files that one user may have open, directories among them."""
    max_files: _Count = 16384
    """Files that all but root may have open together."""
    user_stops: _Count = 256
    """Processes that one user may hold."""
    max_stops: _Count = 1024
    """Processes that all but root may hold together."""
    user_memory: _Count = 512
    """MiB that the headers of one user's files may take in the server."""
    max_memory: _Count = 2048
    """MiB that the headers of all but root's files may take in the server."""

    @property
    def policy(self) -> Policy:
        """How each core is taken."""
        return Policy(self.stop_timeout, self.unresponsive, self.memory, self.xstate)


_KINDS = get_type_hints(Options, include_extras=True)


class OptionError(ValueError):
    """An option that nobody knows, or a value that it cannot have: one line for people."""


# mount.fuse3(8).  What would let a core be cached, or change what a reader sees, is not here.
_FUSE_FLAGS = frozenset(
    ("allow_other", "allow_root", "auto_unmount", "default_permissions", "debug", "ro",
     "nodev", "nosuid", "noexec", "noatime", "atime", "sync", "async", "dirsync"),
)  # fmt: skip
_FUSE_VALUES = frozenset(("fsname", "context", "fscontext", "rootcontext", "defcontext"))

# default_permissions: the kernel holds every opener to owner and mode before we hear of it.
# Not ro: there is one file to write to, that lets a process go (names.py).
_ALWAYS = frozenset(("default_permissions", "nodev", "nosuid", "noexec"))


def parse(words: Sequence[str]) -> tuple[Options, set[str]]:
    """The values of one or more -o, each a list with commas: ours, and those for FUSE.

    OptionError where one is unknown or wrong.
    """
    ours: dict[str, Any] = {}
    fuse: dict[str, str] = dict.fromkeys(_ALWAYS, "")
    fuse |= {"subtype": "gcorefs", "fsname": "gcorefs"}
    for word in filter(None, ",".join(words).split(",")):
        name, equals, value = word.partition("=")
        if name in Options.__struct_fields__:
            ours[name] = _value(name, value)
        elif (name in _FUSE_VALUES and value) or (name in _FUSE_FLAGS and not equals):
            fuse[name] = value
        else:
            known = ", ".join(sorted((*Options.__struct_fields__, *_FUSE_FLAGS, *_FUSE_VALUES)))
            raise OptionError(f"unknown option {word!r}; known are {known}")
    return Options(**ours), {f"{name}={value}" if value else name for name, value in fuse.items()}


def _value(name: str, text: str) -> object:
    kind = _KINDS[name]
    try:
        value: object = msgspec.convert(text, kind, strict=False)
    except (msgspec.ValidationError, UnicodeError) as error:
        raise _refusal(name, text, kind) from error
    if isinstance(value, float) and math.isnan(value):
        raise _refusal(name, text, kind)
    return value


def _refusal(name: str, text: str, kind: object) -> OptionError:
    if kind == _Seconds:
        wanted = f"not a number of seconds from 0 to {_MOST:g}"
    elif kind == _Count:
        wanted = f"not a whole number from 1 to {_MOST:g}"
    else:
        wanted = f"none of {', '.join(get_args(kind))}"
    return OptionError(f"option {name}: {text!r} is {wanted}")
