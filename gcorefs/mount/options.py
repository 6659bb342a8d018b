"""What may stand behind -o: our own options, checked, and those of FUSE, passed on."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, get_args

import msgspec

from gcorefs.assembly import Unresponsive
from gcorefs.snapshot import DEFAULT_STOP_TIMEOUT

_MOST = 1e9
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=_MOST)]


class Options(msgspec.Struct, frozen=True):
    """Our own options.  Times in seconds."""

    idle_timeout: _Seconds = 60.0
    """A process is let go this long after the last read of its file; 0: never."""
    max_stop: _Seconds = 0.0
    """A process is let go this long after it was stopped, read or not; 0: never."""
    stop_timeout: _Seconds = DEFAULT_STOP_TIMEOUT
    """A thread that has not stopped by then is not waited for."""
    unresponsive: Unresponsive = "partial"
    """What the core has of such a thread."""


_CHOICES: dict[str, tuple[str, ...]] = {"unresponsive": get_args(Unresponsive)}


class OptionError(ValueError):
    """An option that nobody knows, or a value that it cannot have: one line for people."""


# mount.fuse3(8).  What would let a core be cached, or change what a reader sees, is not here.
_FUSE_FLAGS = frozenset(
    ("allow_other", "allow_root", "auto_unmount", "default_permissions", "debug", "ro",
     "nodev", "nosuid", "noexec", "noatime", "atime", "sync", "async", "dirsync"),
)  # fmt: skip
_FUSE_VALUES = frozenset(("fsname", "context", "fscontext", "rootcontext", "defcontext"))

# ro: writes fail in the kernel, with EROFS.  default_permissions: the kernel holds every
# opener to owner and mode before we hear of it.
_ALWAYS = frozenset(("default_permissions", "ro", "nodev", "nosuid", "noexec"))


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
            ours[name] = _choice(name, value) if name in _CHOICES else _seconds(name, value)
        elif (name in _FUSE_VALUES and value) or (name in _FUSE_FLAGS and not equals):
            fuse[name] = value
        else:
            known = ", ".join(sorted((*Options.__struct_fields__, *_FUSE_FLAGS, *_FUSE_VALUES)))
            raise OptionError(f"unknown option {word!r}; known are {known}")
    return Options(**ours), {f"{name}={value}" if value else name for name, value in fuse.items()}


def _choice(name: str, value: str) -> str:
    if value not in _CHOICES[name]:
        choices = ", ".join(_CHOICES[name])
        raise OptionError(f"option {name}: {value!r} is none of {choices}")
    return value


def _seconds(name: str, value: str) -> float:
    try:
        seconds = msgspec.convert(value, _Seconds, strict=False)
    except (msgspec.ValidationError, UnicodeError) as error:
        raise _not_seconds(name, value) from error
    if math.isnan(seconds):
        raise _not_seconds(name, value)
    return seconds


def _not_seconds(name: str, value: str) -> OptionError:
    return OptionError(f"option {name}: {value!r} is not a number of seconds from 0 to {_MOST:g}")
