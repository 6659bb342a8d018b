"""Time-outs and sizes that are no options: one value fits every user.

Tests change them: a time-out of ten seconds is more than a test needs.  A program does that by
`use`, before it begins anything; processes that it forks have the same values.  gcorefs itself
never does: it reads no environment variable and has no option for it, so no user comes by other
values.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """All of them, with the values that gcorefs has."""

    most_status: int = 64 << 20
    """Characters of a status file that are read.  A thousand stops take less than one MiB."""


_in_use = [Tuning()]


def now() -> Tuning:
    """The values of this process."""
    return _in_use[0]


def use(tuning: Tuning) -> None:
    """Give this process other values."""
    _in_use[0] = tuning
