"""All values of coredump_filter's bits, compared with the kernel's own core.

The tests compare the ranges whose bytes are in the core.  The kernel writes the program headers
first, so RLIMIT_CORE may cut off the rest (fs/coredump.c, dump_emit): only the headers are read.
"""

import os
import resource
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from gcorefs.policy import Policy
from gcorefs.sources import bpf_choice
from tests.conftest import Target, wait_until_gone
from tests.features import has_pagemap_scan
from tests.readers.corefile import Core
from tests.readers.test_memory import bounds
from tests.snapshot import Snapshot, find

HEADERS = 1 << 20  # more than the headers and notes of these programs

# Mappings that the kernel takes with bit 0, although nothing but BPF shows that.
NOT_SEEN = {
    "emptied": "MADV_DONTNEED leaves vma->anon_vma as it was (mm/madvise.c)",
    "split_rest": "the halves of a mapping that was split share it (mm/vma.c, __split_vma)",
}
# Bits 7 and 8 are for DAX, which needs memory that is a device; tests/pure/test_filter.py has the
# effect of STATX_ATTR_DAX.  Here they have none: so each value of the other seven bits has one of
# the four values of these two, and each of those four comes with each of the seven bits.
ALL = list(range(512))
MIXED = [mask | ((mask ^ mask >> 2 ^ mask >> 4 ^ mask >> 6) & 3) << 7 for mask in range(128)]


def held(core: Core) -> set[int]:
    """The pages whose bytes are in the core."""
    return {
        page for load in core.loads for page in range(load.vaddr, load.vaddr + load.filesz, 4096)
    }


def ours(pid: int, path: Path) -> Core:
    snapshot = Snapshot(find(pid), policy=Policy(memory="kernel"))
    try:
        snapshot.take()
        path.write_bytes(snapshot.layout.header)
    finally:
        snapshot.close()
    return Core(path)


def kernels(pid: int, core_pattern: Path) -> Core:
    path = Path(f"{core_pattern}.{pid}")
    resource.prlimit(pid, resource.RLIMIT_CORE, (HEADERS, HEADERS))
    os.kill(pid, signal.SIGABRT)
    wait_until_gone(pid)
    try:
        return Core(path)
    finally:
        path.unlink()


def not_seen_of(pid: int) -> set[str]:
    """Names of regions."""
    names = set(NOT_SEEN)
    if not has_pagemap_scan():
        names.add("huge_zero_page")
    if b" gu " not in Path(f"/proc/{pid}/smaps").read_bytes():  # before 6.18
        names |= {"guard_alone", "guard_alone_rest", "guard_in_file", "guard_in_file_rest"}
    return names


def spans(pages: set[int]) -> list[str]:
    """The places of the pages, as text."""
    ordered = sorted(pages)
    starts = ordered[:1] + [b for a, b in pairwise(ordered) if b != a + 4096]
    return [f"{start:#x}" for start in starts]


def assert_the_same_is_held(target: Target, mask: int, core_pattern: Path, path: Path) -> None:
    Path(f"/proc/{target.pid}/coredump_filter").write_text(hex(mask))
    is_all_seen = bpf_choice.uses_bpf("auto") or not mask & 1
    names: set[str] = set() if is_all_seen else not_seen_of(target.pid)
    found = held(ours(target.pid, path))
    wanted = held(kernels(target.pid, core_pattern))
    not_seen = {
        page
        for region in target.truth["regions"]
        if region["name"] in names
        for page in range(*bounds(region), 4096)
    }
    only = {"ours": spans(found - wanted), "the kernel's": spans(wanted - found)}
    assert only == {"ours": [], "the kernel's": spans(not_seen)}, hex(mask)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "masks", [MIXED, pytest.param(ALL, marks=pytest.mark.full)], ids=["mixed", "all"]
)
@pytest.mark.parametrize("program", ["memory", "kinds"])
def test_the_kernel_holds_the_same_under_every_mask(
    kinds: Callable[[], Target],
    spawn: Callable[..., Target],
    core_pattern: Path,
    tmp_path: Path,
    program: str,
    masks: list[int],
) -> None:
    for mask in masks:
        # A new process each time, because the dump kills it.
        target = kinds() if program == "kinds" else spawn("memory", tmp_path)
        assert_the_same_is_held(target, mask, core_pattern, tmp_path / "ours")
        target.kill()


@pytest.mark.usefixtures("bpf")
@pytest.mark.parametrize("mask", [0x01, 0x04, 0x10, 0x11, 0x21, 0x33, 0x7F])
@pytest.mark.parametrize("program", ["memory", "kinds"])
def test_with_bpf_the_kernel_holds_exactly_the_same(
    kinds: Callable[[], Target],
    spawn: Callable[..., Target],
    core_pattern: Path,
    tmp_path: Path,
    program: str,
    mask: int,
) -> None:
    target = kinds() if program == "kinds" else spawn("memory", tmp_path)
    names = {region["name"] for region in target.truth["regions"]}
    assert program == "memory" or names >= NOT_SEEN.keys()
    assert_the_same_is_held(target, mask, core_pattern, tmp_path / "ours")


@pytest.mark.usefixtures("swap")
@pytest.mark.parametrize("mask", [0x01, 0x04, 0x33])
def test_the_kernel_holds_the_same_of_what_is_swapped_out(
    kinds: Callable[[], Target], core_pattern: Path, tmp_path: Path, mask: int
) -> None:
    target = kinds()
    target.ask("swap")
    assert_the_same_is_held(target, mask, core_pattern, tmp_path / "ours")
