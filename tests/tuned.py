"""gcorefs with other time-outs and sizes than its users': in this process, or as a program."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from gcorefs import tuning
from gcorefs.tuning import Tuning

GCOREFS_HAS = Tuning()

PROGRAM = """#!{python}
{first}
import dataclasses

from gcorefs import tuning
from gcorefs.tuning import Tuning

reach = tuning.now().reach
{reach}
tuning.use(dataclasses.replace({tuning!r}, reach=reach))

from gcorefs.__main__ import main

main()
"""


@contextlib.contextmanager
def tuned(values: Tuning) -> Iterator[None]:
    """In this process, and in those that it forks."""
    before = tuning.now()
    tuning.use(values)
    try:
        yield
    finally:
        tuning.use(before)


def program(folder: Path, values: Tuning = GCOREFS_HAS, first: str = "", reach: str = "") -> Path:
    """The command line, as a program in `folder`.  It has the name of the real one: people find a
    server by that.

    It runs `first` before all else, code that has a function of the system fail.  `reach`: code
    that defines a function of that name, for the tuning; the one in `values` is not used.
    """
    path = folder / "gcorefs"
    path.write_text(PROGRAM.format(python=sys.executable, first=first, reach=reach, tuning=values))
    path.chmod(0o755)
    return path
