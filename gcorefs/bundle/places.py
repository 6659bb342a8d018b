"""Where each file lies in a bundle: below root/, by its path in the process.

A path comes from the process or from the kernel, and may have any bytes.  No place leads out of the
bundle, and no two files have one place.
"""

import posixpath

ROOT = "root"
_OTHERS = "others"
"""Beside root/: files whose place another file has, as a library and the one that replaced it."""


class Places:
    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def take(self, path: str) -> str:
        """The place of a file with this path."""
        place = _below(ROOT, path)
        number = 0
        while not self._is_free(place):
            number += 1
            place = _below(f"{_OTHERS}/{number}", path)
        self._use(place)
        return place

    def take_name(self, path: str) -> str:
        """The place of another name of a file; empty if it is in use."""
        place = _below(ROOT, path)
        if not self._is_free(place):
            return ""
        self._use(place)
        return place

    def folders_of(self, path: str) -> list[str]:
        """The folders through which a path with .. in it leads: a debugger does not shorten it."""
        if ".." not in path.split("/"):
            return []
        words = path.split("/")
        wanted = {_below(ROOT, "/".join(words[:count])) for count in range(1, len(words))}
        found = sorted(each for each in wanted if each not in self._files)
        self._folders.update(found)
        return found

    def _is_free(self, place: str) -> bool:
        """Not if a file is where this one needs a folder, or the reverse."""
        folders = _folders(place)
        return place not in self._files | self._folders and not self._files.intersection(folders)

    def _use(self, place: str) -> None:
        self._files.add(place)
        self._folders.update(_folders(place))


def _folders(place: str) -> list[str]:
    words = place.split("/")
    return ["/".join(words[:count]) for count in range(1, len(words))]


def _below(folder: str, path: str) -> str:
    # normpath of an absolute path has no .. in it; it leaves two slashes at the beginning.
    rest = posixpath.normpath("/" + path).lstrip("/")
    return f"{folder}/{rest}" if rest else folder
