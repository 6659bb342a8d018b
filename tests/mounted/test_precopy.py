"""hold=precopy through the mount, the command and the Python API: the memory of the stop, most of
which was copied before.  Without marks of the kernel it is hold=copy, and says so."""

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import gcorefs
from gcorefs.kernel import soft_dirty
from tests.conftest import Mount, Target
from tests.mounted.conftest import (
    errno_of,
    eventually,
    is_free,
    note_of,
    offset_of,
    opened,
    run,
    whole,
)
from tests.mounted.conftest import gcorefs as command
from tests.mounted.test_hold import attributes, await_copied

PAGE = 4096
SIZE = 16
WORD = 8
MANY = 1 << 64
WHY = "the kernel does not mark the pages that a process writes (soft-dirty)"


def expected() -> dict[str, str]:
    if soft_dirty.is_supported():
        return {"hold": "precopy", "held": "precopy"}
    return {"hold": "precopy", "held": "copy", "held_why": WHY}


def canary(number: int) -> int:
    """As in tests/targets/target.h."""
    return 0x9E3779B97F4A7C15 * (number + 1) % MANY


def assert_arena(data: bytes, target: Target, first: int = 0) -> None:
    """The core has the arena as it was filled: its pages have the canaries from `first` on."""
    place = offset_of(data, int(target.truth["arena"], 16))
    count = target.truth["size"] // PAGE
    words = [
        int.from_bytes(data[at : at + WORD], "little")
        for at in range(place + WORD, place + count * PAGE, PAGE)
    ]
    assert words == [canary(first + index) for index in range(count)]


def test_a_file_has_the_memory_of_its_stop(mount: Mount, spawn: Callable[..., Target]) -> None:
    target = spawn("writer", SIZE)
    path = mount.path / "@hold=precopy" / str(target.pid)
    with opened(path) as fd:
        os.read(fd, 1)
        facts = await_copied(mount, target.pid)
        assert {name: facts[name] for name in expected()} == expected()
        assert target.ask("all") == {"did": "all"}
        data = whole(fd)
        assert_arena(data, target)
        assert whole(fd) == data
        assert note_of(data)["policy"].items() >= expected().items()
        assert attributes(path)["policy.held"] == expected()["held"]
    with opened(path) as fd:
        assert_arena(whole(fd), target, target.truth["size"] // PAGE)
    eventually(lambda: is_free(target.pid))


def test_a_file_that_is_closed_early_leaves_nothing(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    target = spawn("writer", SIZE)
    for _ in range(5):
        with opened(mount.path / "@hold=precopy" / str(target.pid)):
            pass
        eventually(lambda: is_free(target.pid))
    assert target.ask("write 9") == {"did": "write"}


def test_a_process_that_dies_while_it_is_copied_is_an_error(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    for _ in range(5):
        target = spawn("writer", SIZE)
        with opened(mount.path / "@hold=precopy" / str(target.pid)) as fd:
            target.kill()
            assert errno_of(partial(os.read, fd, 1)) in (0, errno.EIO, errno.ESRCH)
    mount.allow("the process died, or called execve(2), while it was being dumped")
    mount.allow("there is no such process, or no thread of it lives")


def test_two_policies_share_one_stop(mount: Mount, spawn: Callable[..., Target]) -> None:
    target = spawn("writer", SIZE)
    with (
        opened(mount / target.pid) as held,
        opened(mount.path / "@hold=precopy" / str(target.pid)) as ahead,
    ):
        assert_arena(whole(held), target)
        data = whole(ahead)
        assert_arena(data, target)
        if soft_dirty.is_supported():
            why = "the stop began without hold=precopy"
            eventually(lambda: attributes(Path(f"/proc/self/fd/{ahead}"))["policy.held_why"] == why)


def test_the_command_and_the_api_copy_ahead_too(
    spawn: Callable[..., Target], tmp_path: Path
) -> None:
    target = spawn("writer", SIZE)
    output = tmp_path / "core"
    result = command("dump", "--hold", "precopy", "-o", output, target.pid)
    assert result.returncode == 0, result
    data = output.read_bytes()
    assert_arena(data, target)
    assert note_of(data)["policy"].items() >= expected().items()
    with gcorefs.stop(target.pid, gcorefs.Policy(hold="precopy")) as stop:
        core = stop.core()
        assert target.ask("all") == {"did": "all"}
        assert_arena(core.read(0, core.size), target)


@pytest.mark.parametrize("option", ["precopy_rounds=0", "precopy_time=-1", "precopy_time=x"])
def test_a_bad_bound_is_refused(mount: Mount, spawn: Callable[..., Target], option: str) -> None:
    target = spawn("threads", 1)
    result = run("cat", mount.path / f"@hold=precopy,{option}" / str(target.pid))
    assert b"Invalid argument" in result.stderr
    mount.expect(f"option {option.split('=', maxsplit=1)[0]}")
