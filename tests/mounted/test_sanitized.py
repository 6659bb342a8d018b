"""Programs with a sanitizer: terabytes of shadow memory, hardly touched."""

import os
import subprocess
from collections.abc import Iterator
from functools import partial
from math import isqrt
from pathlib import Path

import pytest

from gcorefs.elfcore.smaps import parse_smaps
from gcorefs.elfcore.vma import VmFlag
from gcorefs.kernel.proc import address_space
from tests.conftest import CFLAGS, TARGETS, Mount, Target, text_of
from tests.mounted.conftest import eventually, is_free, opened
from tests.readers.debuggers import gdb_threads
from tests.readers.test_stacks import assert_locals

THREADS = 5
MIB, TIB = 1 << 20, 1 << 40
PHDR_SIZE = 56

IN_THE_CORE = "use_madv_dontdump=0"
"""By default the shadow memory is MADV_DONTDUMP, and in no core."""

# gdb searches a list of half a million segments for each word that it reads.
slow = [pytest.mark.full, pytest.mark.timeout(400)]


@pytest.fixture(
    params=[
        ("address", "ASAN_OPTIONS", ""),
        ("thread", "TSAN_OPTIONS", ""),
        pytest.param(("address", "ASAN_OPTIONS", IN_THE_CORE), marks=slow),
        pytest.param(("thread", "TSAN_OPTIONS", IN_THE_CORE), marks=slow),
    ],
    ids=" ".join,
)
def target(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Target]:
    kind, variable, options = request.param
    program = tmp_path / "threads"
    # With optimisation, gcc loses the locals of an instrumented function.
    command = ["gcc", *CFLAGS, "-O0", f"-fsanitize={kind}", "-o", program, TARGETS / "threads.c"]
    subprocess.run(text_of(command), check=True)
    monkeypatch.setenv(variable, options)
    # If the kernel places mappings too far away for the shadow memory, the program does not start.
    target = Target(["setarch", "--addr-no-randomize", str(program), str(THREADS)])
    yield target
    eventually(partial(is_free, target.pid))
    target.kill()


def test_one_does_not_notice(target: Target, mount: Mount, tmp_path: Path) -> None:
    """The core is as large as the touched memory, and gdb reads stacks and their variables."""
    core = tmp_path / "core"
    program = os.readlink(f"/proc/{target.pid}/exe")
    vmas = parse_smaps(address_space.read_mm(target.pid, "smaps"))
    assert sum(vma.size for vma in vmas) > 10 * TIB
    populated = sum(vma.pages.anonymous or 0 for vma in vmas)
    dumped = sum(vma.size for vma in vmas if VmFlag.DONTDUMP not in vma.vm_flags)
    with opened(mount / target.pid):
        subprocess.run(["cp", mount / target.pid, core], check=True, timeout=60)
        straight = gdb_threads(program, mount / target.pid, "--", "thread apply all bt full")
    # The costs of terabytes of zeros (elfcore/segments.py): the area, and as much in headers.
    zeros = 2 * isqrt(PHDR_SIZE * dumped)
    assert populated < core.stat().st_size < populated * 1.5 + zeros + 2 * MIB
    assert target.ask("wake") == {"woken": THREADS}
    copied = gdb_threads(program, core, "--", "thread apply all bt full")
    assert copied == straight
    assert_locals(copied, target)
