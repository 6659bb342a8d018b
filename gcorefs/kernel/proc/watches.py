"""The files that a process watches by inotify(7) and fanotify(7): proc_pid_fdinfo(5)."""

import contextlib
import os

from gcorefs.kernel.proc import procfile
from gcorefs.kernel.proc.procfile import FormatError

# fs/notify/inotify/inotify_user.c, do_inotify_init; fs/notify/fanotify/fanotify_user.c,
# fanotify_init.
_WATCHERS = ("anon_inode:inotify", "anon_inode:[fanotify]")
_KINDS = (b"inotify", b"fanotify")


_MOST = 4 << 20
"""Bytes of fdinfo: some 40,000 watches, which take a tenth of a second.  A process has as many as
it likes, and each duplicate of a descriptor shows all of them."""


def watched_inodes(tid: int) -> set[int] | None:
    """Inodes that a thread watches: an open of such a file is an event that it can read.

    None if this cannot be known: /proc does not show us its open files, or too many watches.
    """
    found: set[int] = set()
    left = _MOST
    try:
        for number in os.listdir(f"/proc/{tid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # a process that shares them closed it
                if os.readlink(f"/proc/{tid}/fd/{number}") in _WATCHERS:
                    for text in procfile.pieces(f"{tid}/fdinfo/{number}"):
                        found |= parse_watches(text)
                        left -= len(text)
                        if left < 0:
                            return None
    except OSError:
        return None
    return found


def parse_watches(text: bytes) -> set[int]:
    """The inodes in the fdinfo of one watcher (fs/notify/fdinfo.c).  FormatError."""
    try:
        return {
            int(word.removeprefix(b"ino:"), 16)
            for kind, *words in map(bytes.split, filter(None, text.splitlines()))
            if kind in _KINDS
            for word in words
            if word.startswith(b"ino:")
        }
    except ValueError as error:
        raise FormatError("unexpected text in fdinfo") from error
