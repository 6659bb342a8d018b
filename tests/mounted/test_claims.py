"""memory=stacks of a program that lies about itself: what it claims to have takes neither memory
of gcorefs nor time, which were gigabytes here, and minutes.
"""

from collections.abc import Callable

import pytest

from tests.conftest import Target
from tests.mounted.conftest import is_free, most_memory_of

MOST = 256 << 20


@pytest.mark.parametrize(
    ("policy", "claim"),
    [
        ("@stacks", ("lists", 60, 3000)),
        ("@stacks", ("stacks", 1000, 1)),
        ("@stacks,stack_limit=10000000", ("stacks", 1, 2000)),
        ("@stacks,referenced=10000000", ("stacks", 3, 100)),
        ("@stacks,referenced=1000000000", ("stacks", 3, 1)),
    ],
)
def test_what_it_claims_takes_no_memory(
    spawn: Callable[..., Target], policy: str, claim: tuple[object, ...]
) -> None:
    target = spawn("claims", *claim)
    assert most_memory_of("info", target.pid, "--policy", policy) < MOST
    assert is_free(target.pid)
