"""Every byte of the rarer kinds of memory (targets/kinds.c)."""

import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gcorefs.elfcore.smaps import parse_smaps
from gcorefs.kernel.proc import address_space
from tests.conftest import Mount, Target, wait_until_asleep
from tests.features import why_no_bpf
from tests.readers.corefile import Core
from tests.readers.test_memory import bounds, known, regions

ALWAYS_LEFT_OUT = {
    "droppable",  # the kernel marks it so (mm/mmap.c, do_mmap: VM_DROPPABLE)
    "perf_ring",  # pages of the kernel (VM_IO), and marked
    "secret",  # mm/secretmem.c, secretmem_mmap marks it
    "emptied",  # these have no written page left
    "split_rest",
}
SEEN_BY_BPF = {"emptied", "split_rest"}
"""Nothing but BPF shows that the kernel takes them.  A dump does without it if it may (sources)."""
LEFT_OUT = {
    "0x33": ALWAYS_LEFT_OUT
    | {
        "hugetlb_shared",
        "tmpfs_holes",
        "tmpfs_private",
        "swapped_file",
        "sysv_read_only_rest",
        "shrunk_shared",
        "shrunk_shared_tail",
        "shrunk_shared_past_eof",
        "empty_file_past_eof",
        "guard_in_file",
        "guard_in_file_rest",
        "io_uring_entries",
        "io_uring_rings",
        "packet_ring",
        "secret_in_core",
    },
    "0x7f": ALWAYS_LEFT_OUT,
}
# Nobody can read these, and the process itself can read only some.
BAD = {
    "shrunk_private_past_eof",
    "shrunk_shared_past_eof",
    "shrunk_memfd_past_eof",
    "empty_file_past_eof",
    "secret_in_core",
    "uffd_poison",
}
# The process itself cannot read these, so they are no loss.
GUARDS = {"guard_alone", "guard_in_file"}


def is_in_file(core: Core, start: int, end: int) -> bool:
    """True if the whole range is in the file; the file must have all or nothing of it."""
    held = 0
    for load in core.loads:
        held += max(0, min(end, load.vaddr + load.filesz) - max(start, load.vaddr))
    assert held in (0, end - start), f"{start:#x}-{end:#x}"
    return held > 0


def assert_every_byte(core: Core, target: Target, left_out: set[str]) -> None:
    everything = {region["name"]: region for region in target.truth["regions"]}
    found = {name for name, region in everything.items() if not is_in_file(core, *bounds(region))}
    # An old kernel does not have every kind.
    assert found == left_out & everything.keys()
    for name, (region, expected) in regions(target).items():
        if name not in left_out:
            assert core.read(*bounds(region)) == expected, name
    for name in (BAD | GUARDS) & everything.keys() - left_out:
        start, end = bounds(everything[name])
        assert core.read(start, end) == bytes(end - start), name


@pytest.mark.parametrize("mask", sorted(LEFT_OUT))
def test_a_copy_holds_every_byte_of_every_kind(
    kinds: Callable[[], Target], dump: Callable[[int], Path], mask: str
) -> None:
    target = kinds()
    assert target.truth["thp"], "no transparent huge page was had"
    Path(f"/proc/{target.pid}/coredump_filter").write_text(mask)
    assert_every_byte(Core(dump(target.pid)), target, LEFT_OUT[mask])


def test_the_mounted_file_holds_every_byte_of_every_kind(
    kinds: Callable[[], Target], mount: Mount
) -> None:
    target = kinds()
    Path(f"/proc/{target.pid}/coredump_filter").write_text("0x7f")
    with (mount / target.pid).open("rb"):  # one stop
        left_out = LEFT_OUT["0x7f"] - (set() if why_no_bpf() else SEEN_BY_BPF)
        assert_every_byte(Core(mount / target.pid), target, left_out)


def test_the_mounted_file_holds_every_byte_of_the_usual_kinds(
    spawn: Callable[..., Target], mount: Mount, tmp_path: Path
) -> None:
    target = spawn("memory", tmp_path)
    Path(f"/proc/{target.pid}/coredump_filter").write_text("0x7f")
    with (mount / target.pid).open("rb"):
        core = Core(mount / target.pid)
        for name, (region, expected) in regions(target).items():
            if name not in ("dontdump", "reserved"):
                assert core.read(*bounds(region)) == expected, name


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Path]:
    lower, upper, work, path = (tmp_path / name for name in ("lower", "upper", "work", "overlay"))
    for folder in (lower, upper, work, path):
        folder.mkdir()
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", path], check=True)
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


@pytest.mark.parametrize("place", ["tmpfs", "overlay"])
def test_files_of_other_file_systems(
    request: pytest.FixtureRequest,
    spawn: Callable[..., Target],
    dump: Callable[[int], Path],
    place: str,
) -> None:
    target = spawn("memory", request.getfixturevalue(place))
    Path(f"/proc/{target.pid}/coredump_filter").write_text("0x7f")
    core = Core(dump(target.pid))
    for name, (region, expected) in regions(target).items():
        if name not in ("dontdump", "reserved"):
            assert core.read(*bounds(region)) == expected, name


def test_a_child_has_zeros_where_it_was_wiped(
    kinds: Callable[[], Target], dump: Callable[[int], Path]
) -> None:
    target = kinds()
    child = target.ask("fork")["child"]
    Path(f"/proc/{child}/coredump_filter").write_text("0x7f")
    core = Core(dump(child))
    by_name = regions(target)
    region, _ = by_name["wipe_on_fork"]
    start, end = bounds(region)
    # No page of it is written, so it is left out as in the kernel's core: zeros to a debugger.
    assert not is_in_file(core, start, end)
    assert any(load.vaddr <= start and end <= load.end for load in core.loads)
    region, expected = by_name["swapped"]
    assert core.read(*bounds(region)) == expected


PAGEMAP_SWAPPED = 1 << 62


def pagemap(pid: int, start: int, end: int) -> list[int]:
    with Path(f"/proc/{pid}/pagemap").open("rb") as file:
        file.seek(start // 4096 * 8)
        text = file.read((end - start) // 4096 * 8)
    return [entry for (entry,) in struct.iter_unpack("<Q", text)]


@pytest.mark.usefixtures("swap")
def test_what_is_swapped_out(kinds: Callable[[], Target], dump: Callable[[int], Path]) -> None:
    target = kinds()
    Path(f"/proc/{target.pid}/coredump_filter").write_text("0x7f")
    by_name = regions(target)
    assert target.ask("swap")["swapped"] == 4
    start, end = bounds(by_name["swapped"][0])
    assert all(entry & PAGEMAP_SWAPPED for entry in pagemap(target.pid, start, end))
    core = Core(dump(target.pid))
    for name in ("swapped", "swapped_shared", "swapped_file"):
        region, expected = by_name[name]
        assert core.read(*bounds(region)) == expected, name


@pytest.mark.usefixtures("swap")
def test_the_swap_of_a_tmpfs_file_is_not_that_of_its_private_mapping(
    kinds: Callable[[], Target], dump: Callable[[int], Path]
) -> None:
    target = kinds()
    target.ask("swap")
    # Not by regions(), which would read the file and so load it again.
    (region,) = (r for r in target.truth["regions"] if r["name"] == "swapped_file")
    start, end = bounds(region)
    (vma,) = (
        vma for vma in parse_smaps(address_space.read_mm(target.pid, "smaps")) if vma.start == start
    )
    assert (vma.pages.anonymous, vma.pages.swapped) == (0, 4 * 4096)
    # coredump_filter is 0x33: it takes private memory that was written, but this was not.
    assert not is_in_file(Core(dump(target.pid)), start, end)


def mappings(pid: int) -> dict[str, tuple[int, int]]:
    """The first mapping of each name."""
    found: dict[str, tuple[int, int]] = {}
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, *_, name = line.split(maxsplit=5)
        start, end = (int(word, 16) for word in span.split("-"))
        found.setdefault(name, (start, end))
    return found


def test_what_every_process_has_is_there_in_whole(
    kinds: Callable[[], Target], dump: Callable[[int], Path]
) -> None:
    target = kinds()
    Path(f"/proc/{target.pid}/coredump_filter").write_text("0x7f")
    wait_until_asleep(target.pid)
    core = Core(dump(target.pid))
    # It sleeps in read(2) before and after: its memory does not change.
    names = mappings(target.pid)
    with Path(f"/proc/{target.pid}/mem").open("rb", buffering=0) as memory:
        for name in ("[stack]", "[heap]", "[vdso]", "anon_inode:[io_uring]"):
            start, end = names[name]
            assert core.read(start, end) == os.pread(memory.fileno(), end - start, start), name
    # Nobody can read these from outside; the kernel's own core has zeros too.
    for name in ("[vvar]", "[vsyscall]"):
        start, end = names[name]
        assert core.read(start, end) == bytes(end - start), name


def test_the_vdso_is_the_one_that_the_process_sees(
    kinds: Callable[[], Target], dump: Callable[[int], Path]
) -> None:
    target = kinds()
    region: dict[str, Any]
    region, expected = regions(target)["vdso"]
    assert bounds(region) == mappings(target.pid)["[vdso]"]
    assert expected[:4] == b"\x7fELF"
    assert expected == known(region, 0, 4096)
    assert Core(dump(target.pid)).read(*bounds(region)) == expected
