"""gcorefs with other time-outs and sizes than its users'."""

import contextlib
from collections.abc import Iterator

from gcorefs import tuning
from gcorefs.tuning import Tuning


@contextlib.contextmanager
def tuned(values: Tuning) -> Iterator[None]:
    """In this process, and in those that it forks."""
    before = tuning.now()
    tuning.use(values)
    try:
        yield
    finally:
        tuning.use(before)
