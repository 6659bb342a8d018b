"""What may stand behind -o: our own options, checked, and those of FUSE, passed on."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gcorefs.option import OptionError, option, options_of
from gcorefs.policy import Policy


@dataclass(frozen=True, slots=True)
class Options(Policy):
    """How cores are taken, when their processes are let go, and how much users may have."""

    idle_timeout: float = option(
        60.0, "SECONDS", "A process is let go this long after the last read of its file; 0: never."
    )
    max_stop: float = option(
        0.0, "SECONDS", "A process is let go this long after it was stopped, read or not; 0: never."
    )
    open_timeout: float = option(
        5.0, "SECONDS",
        "A process that was stopped by a look-up below .gcorefs/exact is let go where nobody opens "
        "its file for so long; 0: no look-up stops anybody.",
    )  # fmt: skip
    user_files: int = option(
        4096, "N", "Files that one user may have open, directories among them."
    )
    max_files: int = option(16384, "N", "Files that all but root may have open together.")
    user_stops: int = option(256, "N", "Processes that one user may hold.")
    max_stops: int = option(1024, "N", "Processes that all but root may hold together.")
    user_memory: int = option(
        512, "MIB", "Memory that the headers of one user's files may take in the server."
    )
    max_memory: int = option(
        2048, "MIB", "Memory that the headers of all but root's files may take in the server."
    )
    user_read_ahead: int = option(64, "MIB", "Memory that one user's files may be read ahead into.")
    max_read_ahead: int = option(
        256, "MIB", "Memory that the files of all but root may be read ahead into together."
    )

    @property
    def policy(self) -> Policy:
        """How each core is taken."""
        return Policy(*(getattr(self, each.name) for each in dataclasses.fields(Policy)))


OPTIONS = options_of(Options)

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
        if name in OPTIONS:
            ours[name] = OPTIONS[name].parse(value)
        elif (name in _FUSE_VALUES and value) or (name in _FUSE_FLAGS and not equals):
            fuse[name] = value
        else:
            known = ", ".join(sorted((*OPTIONS, *_FUSE_FLAGS, *_FUSE_VALUES)))
            raise OptionError(f"unknown option {word!r}; known are {known}")
    return Options(**ours), {f"{name}={value}" if value else name for name, value in fuse.items()}
