"""The lists of pids that open directories are read from.

A directory that was read in part goes on in the list that it began.  With 30,000 processes a list
takes 120 KB, and a user may have thousands of directories open.  So only the last lists of each
user are kept.  A directory without a list asks for a new one, and goes on behind the last pid that
it gave.
"""

from array import array
from collections.abc import Callable, Iterable, Sequence

_MOST_OF_A_USER = 64


class PidLists:
    """The lists of one mount."""

    def __init__(self, owner: Callable[[int], int] = int) -> None:
        """`owner`: the user who is charged for a uid."""
        self._owner = owner
        self._last: dict[int, dict[object, Sequence[int]]] = {}
        """By user, and then by directory, in the order of their use."""

    def keep(self, uid: int, directory: object, pids: Iterable[int]) -> Sequence[int]:
        """The list, which is the directory's from now on."""
        kept = array("I", pids)
        last = self._last.setdefault(self._owner(uid), {})
        last.pop(directory, None)
        last[directory] = kept
        if len(last) > _MOST_OF_A_USER:
            del last[next(iter(last))]
        return kept

    def of(self, uid: int, directory: object) -> Sequence[int] | None:
        """The list of a directory; None if it has none any more."""
        last = self._last.get(self._owner(uid), {})
        pids = last.pop(directory, None)
        if pids is not None:
            last[directory] = pids
        return pids

    def drop(self, uid: int, directory: object) -> None:
        """The directory is closed."""
        owner = self._owner(uid)
        if last := self._last.get(owner):
            last.pop(directory, None)
            if not last:
                del self._last[owner]
