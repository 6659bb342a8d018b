"""Who has the file of a stop open, and who has looked it up to open it.

A look-up asks this for every caller, so no answer takes longer if more files are open.
"""

from collections import Counter
from typing import TypeVar

from gcorefs.process.access import Opener

T = TypeVar("T")


class Holders:
    """The event loop changes it, and other threads may read it: each access is one step of the
    interpreter."""

    def __init__(self) -> None:
        self._files: Counter[Opener] = Counter()
        self._users: Counter[int] = Counter()  # the same, by uid
        self._askers: dict[Opener, None] = {}
        self._asked: set[int] = set()

    @property
    def are_about_to_open(self) -> bool:
        """True while somebody has looked it up and nobody has opened it."""
        return bool(self._askers)

    def open(self, opener: Opener) -> None:
        self._files[opener] += 1
        self._users[opener.uid] += 1
        self._askers.clear()

    def close(self, opener: Opener) -> None:
        _take_one(self._files, opener)
        _take_one(self._users, opener.uid)

    def look_up(self, opener: Opener) -> None:
        self._askers[opener] = None

    def include(self, uid: int) -> bool:
        """True if one of them has the uid `uid`."""
        return uid in self._users or any(each.uid == uid for each in [*self._askers])

    def ask(self, uid: int) -> None:
        """A user has looked it up, whoever has it open."""
        self._asked.add(uid)

    @property
    def were_asked(self) -> bool:
        return bool(self._asked)

    def were_asked_by(self, uid: int) -> bool:
        return uid in self._asked

    def of(self, uid: int | None) -> list[Opener]:
        """Each of them once, in the order in which they came; with `uid`, only those of that
        user."""
        found = dict.fromkeys([*self._files, *self._askers])
        return [each for each in found if uid in (None, each.uid)]

    def files(self, uid: int | None) -> int:
        """The number of open files, or of those of `uid`."""
        counts = [*self._files.items()]
        return sum(count for opener, count in counts if uid in (None, opener.uid))


def _take_one(counter: Counter[T], key: T) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
