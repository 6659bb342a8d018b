"""Whose a uid is: subordinate uids belong to the user to whom subuid(5) gives them.

Such a user may be 65,536 others at a time, in a user namespace (newuidmap(1)).  Asked of the
table, and not of the namespace of whoever calls: the answer is wanted before anything may wait,
and /proc may make its reader wait.
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
    """The ranges of one table, as `text`; `uid_of` knows users by name, None for nobody."""

    def __init__(self, text: str, uid_of: Callable[[str], int | None]) -> None:
        found = []
        for name, start, count in _LINE.findall(text):
            owner = int(name) if name.isdecimal() else uid_of(name)
            # Root's are those of whoever runs in its containers, and not to use up its own share.
            if owner and int(count):
                found.append((int(start), int(start) + int(count), owner))
        # Where ranges overlap, which nothing forbids, the one that begins last has it.
        self._ranges = sorted(found)
        self._starts = [start for start, _, _ in self._ranges]
        self._reach = list(accumulate((end for _, end, _ in self._ranges), max))
        """How far each of them, and all before it, reach."""

    def owner(self, uid: int) -> int:
        """The user to whom `uid` was given, or `uid` itself where it was given to nobody."""
        index = bisect_right(self._starts, uid) - 1
        while index >= 0 and self._reach[index] > uid:
            _, end, owner = self._ranges[index]
            if uid < end:
                return owner
            index -= 1
        return uid


def of_this_host() -> Subordinates:
    """Those of /etc/subuid as it is now; none where it cannot be read."""
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
