"""Where each file lies in a bundle: below root/, by its path in the process.

A path comes from the process or from the kernel, may have any bytes and any length, and may lead
through thousands of folders.  No place leads out of the bundle, no two files have one place, and no
file lies where another one needs a folder.
"""

import posixpath
from itertools import accumulate

ROOT = "root"
_OTHERS = "others"
"""Beside root/: files whose place another file has, as a library and the one that replaced it."""

_LONGEST = 3000
"""Letters of a place.  It is unpacked in a folder with a path of its own, and both together may
have PATH_MAX (limits.h)."""

_MOST_FOLDERS = 10_000
"""Each has a place in memory, and a header in the tar file."""


class Places:
    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()
        self._beside = 0

    def take(self, path: str) -> str:
        """The place of a file with this path."""
        place = _below(ROOT, path)
        if not self._use(place):
            self._beside += 1
            folder = f"{_OTHERS}/{self._beside}"
            place = _below(folder, path)
            if not self._use(place):
                place = f"{folder}/{posixpath.basename(place)}"
                self._files.add(place)
        return place

    def take_name(self, path: str) -> str:
        """The place of another name of a file; empty if it can have none."""
        place = _below(ROOT, path)
        return place if self._use(place) else ""

    def folders_of(self, path: str) -> list[str]:
        """The folders through which a path with .. in it leads: a debugger does not shorten it."""
        words = path.split("/")
        if ".." not in words or len(path) > _LONGEST:
            return []
        found = []
        for prefix in accumulate(words[:-1], "{}/{}".format):
            folder = _below(ROOT, prefix)  # those above it are among the former ones
            if not self._may_be_folders([folder]):
                break
            found.append(folder)
            self._folders.add(folder)
        return sorted({*found})

    def _use(self, place: str) -> bool:
        """Put a file there, unless that cannot be."""
        folders = _folders(place) if len(place) <= _LONGEST else None
        if folders is None or place in self._files or place in self._folders:
            return False
        if not self._may_be_folders(folders):
            return False
        self._files.add(place)
        self._folders.update(folders)
        return True

    def _may_be_folders(self, folders: list[str]) -> bool:
        new = sum(each not in self._folders for each in folders)
        return len(self._folders) + new <= _MOST_FOLDERS and self._files.isdisjoint(folders)


def _folders(place: str) -> list[str]:
    """The folders above a place, from the outermost."""
    words = place.split("/")
    return ["/".join(words[:count]) for count in range(1, len(words))]


def _below(folder: str, path: str) -> str:
    # normpath of an absolute path has no .. in it; it leaves two slashes at the beginning.
    rest = posixpath.normpath("/" + path).lstrip("/")
    return f"{folder}/{rest}" if rest else folder
