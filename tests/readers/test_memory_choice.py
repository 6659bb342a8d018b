"""Memory by kind, by name, by address and by size: the bytes of the process, or none of them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gcorefs import Policy
from tests.conftest import Target
from tests.readers.corefile import Core
from tests.readers.test_memory import bounds, regions
from tests.snapshot import Snapshot, find

PAGE = 4096
GUARDS = {"guard_before", "guard", "guard_after"}

KINDS = {
    "anon": {"anon_private", "anon_holes", "prot_none", "read_only", *GUARDS},
    "jit": {"exec_only"},
    "shm": {"anon_shared", "memfd_holes", "sysv_shm", "file_deleted_shared"},
    "file": {
        "file_private_clean", "file_private_dirty", "file_private_clean_2", "file_shared_written",
        "file_shared", "file_deleted", "file_short", "file_short_tail", "file_short_past_eof",
    },
    "text": {"exe_text"},
}  # fmt: skip


@pytest.fixture
def take(tmp_path: Path) -> Callable[[int, str], Core]:
    """The core of a process under a policy."""

    def write(pid: int, text: str) -> Core:
        path = tmp_path / "core"
        snapshot = Snapshot(find(pid), policy=Policy.of(text))
        try:
            snapshot.take()
            path.write_bytes(snapshot.read(0, snapshot.size))
        finally:
            snapshot.close()
        return Core(path)

    return write


def left_out(core: Core) -> dict[str, int]:
    found: dict[str, int] = json.loads(core.own_notes[0].desc)["left_out"]
    assert found["policy"] >= 0
    return found


def is_in(core: Core, address: int) -> bool:
    return any(load.vaddr <= address < load.vaddr + load.filesz for load in core.loads)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_its_own_regions_whole(
    spawn: Callable[..., Target], tmp_path: Path, take: Callable[[int, str], Core], kind: str
) -> None:
    target = spawn("memory", tmp_path)
    core = take(target.pid, f"memory={kind}")
    taken = {
        region["name"]
        for region in target.truth["regions"]
        if is_in(core, bounds(region)[0]) and is_in(core, bounds(region)[1] - 1)
    }
    others = set().union(*KINDS.values()) - taken
    expected = KINDS[kind] & {region["name"] for region in target.truth["regions"]}
    # The regions that the program knows nothing of have no kind here.
    assert taken & set().union(*KINDS.values()) == expected
    assert not any(is_in(core, bounds(each)[0]) for each in target.truth["regions"]
                   if each["name"] in others)  # fmt: skip
    for name, (region, content) in regions(target).items():
        if name in taken:
            assert core.read(*bounds(region)) == content, name


def test_stacks_and_heap_are_kinds(
    spawn: Callable[..., Target], take: Callable[[int, str], Core]
) -> None:
    target = spawn("threads", 5)
    core = take(target.pid, "memory=heap+stack")
    for thread in target.truth["threads"]:
        for canary in thread["canaries"].values():
            value = core.read(int(canary["address"], 16), int(canary["address"], 16) + 8)
            assert int.from_bytes(value, "little") == int(canary["value"], 16)
    maps = Path(f"/proc/{target.pid}/maps").read_text().splitlines()
    for line in maps:
        start = int(line.partition("-")[0], 16)
        if line.endswith(("[heap]", "[stack]")):
            assert core.segment(start).filesz
        elif "/libc" in line:
            assert not core.segment(start).filesz


def test_pages_in_the_middle_are_taken_and_left_out(
    spawn: Callable[..., Target], tmp_path: Path, take: Callable[[int, str], Core]
) -> None:
    target = spawn("memory", tmp_path)
    region, content = regions(target)["anon_private"]
    start, end = bounds(region)
    assert end - start == 16 * PAGE
    inner = f"{start + 3 * PAGE + 5:x}-{start + 5 * PAGE + 1:x}"  # three pages
    core = take(target.pid, f"memory=none,include={inner}")
    inside = range(start + 3 * PAGE, start + 6 * PAGE)
    assert core.read(inside.start, inside.stop) == content[3 * PAGE : 6 * PAGE]
    assert [is_in(core, page) for page in range(start, end, PAGE)] == [
        page in inside for page in range(start, end, PAGE)
    ]
    core = take(target.pid, f"memory=filter,exclude={inner}")
    assert [is_in(core, page) for page in range(start, end, PAGE)] == [
        page not in inside for page in range(start, end, PAGE)
    ]
    assert core.read(start, inside.start) == content[: 3 * PAGE]
    assert core.read(inside.stop, end) == content[6 * PAGE :]
    assert left_out(core)["excluded"] == 3 * PAGE


def test_names_choose_mappings(
    spawn: Callable[..., Target], tmp_path: Path, take: Callable[[int, str], Core]
) -> None:
    target = spawn("memory", tmp_path)
    by_name = regions(target)
    (shared, content), (private, _) = by_name["file_shared"], by_name["anon_private"]
    name = Path(shared["path"]).name
    core = take(target.pid, f"include={name},exclude=heap+ld-*")
    assert core.read(*bounds(shared)) == content
    assert is_in(core, bounds(private)[0])
    for line in Path(f"/proc/{target.pid}/maps").read_text().splitlines():
        if line.endswith("[heap]") or "/ld-" in line:
            assert not is_in(core, int(line.partition("-")[0], 16))
    assert left_out(core)["excluded"] > 0


def test_a_large_mapping_is_left_out_and_counted(
    spawn: Callable[..., Target], take: Callable[[int, str], Core]
) -> None:
    target = spawn("bulk", 64)
    small = take(target.pid, "largest=8")
    whole = take(target.pid, "largest=0")
    assert left_out(small)["too_large"] >= 64 << 20
    assert left_out(whole)["too_large"] == 0
    taken = [sum(load.filesz for load in core.loads) for core in (small, whole)]
    assert taken[0] < 8 << 20 < 64 << 20 < taken[1]


def test_memory_that_no_core_has_is_not_included(
    spawn: Callable[..., Target], tmp_path: Path, take: Callable[[int, str], Core]
) -> None:
    target = spawn("memory", tmp_path)
    (region,) = (each for each in target.truth["regions"] if each["name"] == "dontdump")
    start, end = bounds(region)
    core = take(target.pid, f"memory=all,include={start:x}-{end:x}")
    assert not core.segment(start).filesz
    assert left_out(core)["dontdump"] >= end - start


def test_what_the_stacks_point_to_can_be_followed(
    spawn: Callable[..., Target], take: Callable[[int, str], Core]
) -> None:
    target = spawn("threads", 5)
    alone = take(target.pid, "memory=stacks,exclude=heap")
    core = take(target.pid, "memory=stacks,referenced=4")
    # Each thread has its own struct thread, on the heap, and its functions have its address.
    for thread in target.truth["threads"]:
        at = int(thread["counter"]["address"], 16)
        assert not is_in(alone, at)
        value = int.from_bytes(core.read(at, at + 8), "little")
        assert value == int(thread["counter"]["value"], 16)
