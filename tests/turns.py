"""Tests that change a setting of the whole machine run alone; all others may run side by side.

Every test holds a lock of flock(2) while it runs: shared, or exclusive if it is to be alone.  The
locks count for all workers, and for all runs of one user on the machine.
"""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator

import pytest

alone = pytest.mark.alone
"""For a test that changes such a setting, or that another test's load disturbs."""

MACHINE_WIDE = {"sysctl", "core_pattern", "slow_reader", "huge_pages", "stop_merging", "swap"}
"""Fixtures that change such a setting."""


@contextlib.contextmanager
def _locked(name: str, kind: int) -> Iterator[None]:
    path = os.path.join(tempfile.gettempdir(), f"gcorefs-tests-{name}-{os.getuid()}")
    with open(path, "ab") as file:
        fcntl.flock(file, kind)
        yield


@contextlib.contextmanager
def turn(is_alone: bool) -> Iterator[None]:
    """Wait until this test may run."""
    kind = fcntl.LOCK_EX if is_alone else fcntl.LOCK_SH
    with contextlib.ExitStack() as running:
        # A test that is to be alone waits in the doorway, so that no further ones overtake it.
        with _locked("doorway", fcntl.LOCK_EX):
            running.enter_context(_locked("room", kind))
        yield


def is_alone(item: pytest.Item) -> bool:
    """True if nothing may run beside this test."""
    fixtures = getattr(item, "fixturenames", ())
    return item.get_closest_marker("alone") is not None or not MACHINE_WIDE.isdisjoint(fixtures)
