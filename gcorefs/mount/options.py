"""The options after -o: our own, which are checked, and those of FUSE, which are passed on."""

import dataclasses
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any, TypeVar

from gcorefs.option import OptionError, option, options_of
from gcorefs.policy import Policy
from gcorefs.profiles import Profiles

_P = TypeVar("_P", bound=Policy)


@dataclass(frozen=True, slots=True)
class MountPolicy(Policy):
    """How a core is taken, and when its process is let go."""

    idle_timeout: float = option(
        60.0, "SECONDS", "Let a process go this long after the last read of its file; 0: never."
    )
    max_stop: float = option(
        0.0, "SECONDS", "Let a process go this long after the stop, read or not; 0: never."
    )

    @property
    def policy(self) -> Policy:
        """How the core is taken."""
        return _part(Policy, self)


def _part(kind: type[_P], options: _P) -> _P:
    """The fields of a base class of `options`, as an object of that class."""
    return kind(*(getattr(options, each.name) for each in dataclasses.fields(kind)))


DEFAULT = MountPolicy()


@dataclass(frozen=True, slots=True)
class Options(MountPolicy):
    """The policy of a core that names no other, and how much users may have."""

    open_timeout: float = option(
        5.0, "SECONDS",
        "Let a process go that a look-up below .gcorefs/exact has stopped, if nobody opens its "
        "file within this time; 0: no look-up stops a process.",
    )  # fmt: skip
    user_files: int = option(
        4096, "N", "How many files one user may have open, including directories."
    )
    max_files: int = option(16384, "N", "How many files all users but root may have open together.")
    user_stops: int = option(256, "N", "How many processes one user may hold.")
    max_stops: int = option(1024, "N", "How many processes all users but root may hold together.")
    user_memory: int = option(
        512, "MIB", "How much memory the headers of one user's files may take in the server."
    )
    max_memory: int = option(
        2048, "MIB", "How much memory the headers of all users' files but root's may take."
    )
    user_read_ahead: int = option(64, "MIB", "How much memory one user has for reading ahead.")
    max_read_ahead: int = option(
        256, "MIB", "How much memory all users but root have together for reading ahead."
    )

    @property
    def mount_policy(self) -> MountPolicy:
        """The policy of a core that names no other."""
        return _part(MountPolicy, self)


OPTIONS = options_of(Options)

# mount.fuse3(8), without the options that would cache a core or change what a reader sees.
_FUSE_FLAGS = frozenset(
    ("allow_other", "allow_root", "auto_unmount", "default_permissions", "debug", "ro",
     "nodev", "nosuid", "noexec", "noatime", "atime", "sync", "async", "dirsync"),
)  # fmt: skip
_FUSE_VALUES = frozenset(("fsname", "context", "fscontext", "rootcontext", "defcontext"))


@dataclass(frozen=True, slots=True)
class Configuration:
    """All that a mount is told when it begins."""

    options: Options
    fuse: Set[str]
    """Options for FUSE."""
    profiles: Profiles
    read_again: Callable[[], Profiles] | None = None
    """Reads the profiles again, at a SIGHUP.  ProfileError, OSError.  None: a SIGHUP ends the
    mount, because it tells that the terminal is gone."""


FUSE_OPTIONS = _FUSE_FLAGS | _FUSE_VALUES

# default_permissions: the kernel checks owner and mode of every open before we hear of it.
# No ro: a process is let go by a write to a file (names.py).
_ALWAYS = frozenset(("default_permissions", "nodev", "nosuid", "noexec"))


def parse(words: Sequence[str]) -> tuple[Options, set[str]]:
    """The values in one or more -o, each a list with commas: our options, and those for FUSE.

    OptionError if an option is unknown or has a wrong value.
    """
    ours: dict[str, Any] = {}
    fuse: dict[str, str] = dict.fromkeys(_ALWAYS, "")
    fuse |= {"subtype": "gcorefs", "fsname": "gcorefs"}
    for word in filter(None, ",".join(words).split(",")):
        name, equals, value = word.partition("=")
        if name in OPTIONS:
            ours[name] = OPTIONS[name].parse(value)
        elif (name in _FUSE_VALUES and value) or (name in _FUSE_FLAGS and not equals):
            fuse[name] = value
        else:
            known = ", ".join(sorted((*OPTIONS, *_FUSE_FLAGS, *_FUSE_VALUES)))
            raise OptionError(f"unknown option {word!r}; the known options are {known}")
    return Options(**ours), {f"{name}={value}" if value else name for name, value in fuse.items()}
