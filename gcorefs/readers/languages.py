"""In which languages a process runs functions that its native frames do not name."""

import re
from collections.abc import Iterable

from gcorefs.readers import delve, jhsdb, pystack
from gcorefs.readers.frames import GO, JAVA, PYTHON

READERS = {PYTHON: pystack.NAME, GO: delve.NAME, JAVA: jhsdb.NAME}
"""Which reader each needs."""

HOW_TO_HAVE = {
    PYTHON: "pipx install pystack",
    GO: "apt install delve",
    JAVA: "apt install default-jdk-headless, or the JDK of the program",
}

_PYTHON = re.compile(rb"/(?:libpython3[^/]*\.so[^/]*|python3(?:\.\d+)?t?)(?: \(deleted\))?$")
_JAVA = re.compile(rb"/libjvm\.so(?: \(deleted\))?$")


def languages(paths: Iterable[bytes], is_of_go: bool) -> list[str]:
    """By the mapped files, and by whether the linker of Go made the program."""
    names = [*paths]
    return [
        *([PYTHON] if any(map(_PYTHON.search, names)) else []),
        *([GO] if is_of_go else []),
        *([JAVA] if any(map(_JAVA.search, names)) else []),
    ]
