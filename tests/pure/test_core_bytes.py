"""The size of a core, which threads ask for as well."""

from types import SimpleNamespace
from typing import cast

import pytest

from gcorefs.core import Core
from gcorefs.mount.core_bytes import CoreBytes
from gcorefs.mount.keeper import Keeper
from gcorefs.mount.pools import Pools


def test_a_header_that_is_dropped_during_the_question_for_its_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thread that builds a status asks while the event loop forgets the stop."""
    found = CoreBytes(cast(Keeper, SimpleNamespace()), 0, cast(Pools, SimpleNamespace()))
    found.core = cast(Core, SimpleNamespace(size=4096))

    def is_ready(asked: CoreBytes) -> bool:
        asked.forget()
        return True

    monkeypatch.setattr(CoreBytes, "is_ready", property(is_ready))
    assert found.size == 4096
