"""Subordinate uids: they belong to the user to whom subuid(5) gives them.

In a user namespace, such a user may be 65,536 other users (newuidmap(1)).  We ask the table and not
the namespace of the caller: the answer is needed before anything may wait, and a read of /proc may
wait.
"""

import pwd
import re
from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

_TABLE = Path("/etc/subuid")

_LINE = re.compile(r"^([^:#\s][^:\n]*):(\d{1,10}):(\d{1,10})$", re.MULTILINE)


class Subordinates:
    """The ranges of one table, `text`.  `uid_of` gives the uid of a user name, or None."""

    def __init__(self, text: str, uid_of: Callable[[str], int | None]) -> None:
        found = []
        for name, start, count in _LINE.findall(text):
            owner = int(name) if name.isdecimal() else uid_of(name)
            # Root's ranges are for the users in its containers.  They must not use root's share.
            if owner and int(count):
                found.append((int(start), int(start) + int(count), owner))
        # Ranges may overlap: then the range that begins last decides.
        self._ranges = sorted(found)
        self._starts = [start for start, _, _ in self._ranges]
        self._reach = list(accumulate((end for _, end, _ in self._ranges), max))
        """For each range, the highest end of this range and all ranges before it."""

    def owner(self, uid: int) -> int:
        """The user to whom `uid` was given; else `uid` itself."""
        index = bisect_right(self._starts, uid) - 1
        while index >= 0 and self._reach[index] > uid:
            _, end, owner = self._ranges[index]
            if uid < end:
                return owner
            index -= 1
        return uid


def of_this_host() -> Subordinates:
    """The table in /etc/subuid as it is now; empty if it cannot be read."""
    try:
        text = _TABLE.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return Subordinates(text, _uid_of)


def _uid_of(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None
