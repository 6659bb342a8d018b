"""Programs with every kind of memory, and what a core with all of it has of each mapping."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gcorefs.elfcore.smaps import parse_smaps
from gcorefs.elfcore.vma import Vma, VmFlag
from gcorefs.kernel.proc import address_space
from tests.conftest import Target


def start_whole(
    name: str, request: pytest.FixtureRequest, spawn: Callable[..., Target], folder: Path
) -> Target:
    """`kinds` or `memory`, with all memory in its core that is not marked dontdump."""
    target: Target
    target = request.getfixturevalue("kinds")() if name == "kinds" else spawn(name, folder)
    Path(f"/proc/{target.pid}/coredump_filter").write_text("0x7f")
    return target


def mappings(target: Target) -> list[Vma]:
    return parse_smaps(address_space.read_mm(target.pid, "smaps"))


def taken(target: Target) -> list[tuple[Vma, int]]:
    """The mappings, with their sizes in such a core."""
    return [(vma, 0 if VmFlag.DONTDUMP in vma.vm_flags else vma.size) for vma in mappings(target)]
