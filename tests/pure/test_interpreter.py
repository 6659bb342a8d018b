"""The interpreter of a server is configured before it serves."""

import gc
import sys
from collections.abc import Iterator

import pytest

from gcorefs.mount import interpreter


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    interval = sys.getswitchinterval()
    gc.unfreeze()  # the command line may have run here
    yield
    sys.setswitchinterval(interval)
    gc.unfreeze()


def test_the_collector_leaves_what_was_imported_alone() -> None:
    assert not gc.get_freeze_count()
    interpreter.settle()
    assert gc.get_freeze_count() > 1000
    assert gc.isenabled()


def test_a_thread_gives_the_interpreter_up_soon() -> None:
    interpreter.settle()
    assert sys.getswitchinterval() <= 1e-3
