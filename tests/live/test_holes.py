"""The page tables of a process, read in two ways, and its holes, found without touching them."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest

import gcorefs
from gcorefs.elfcore.smaps import parse_smaps
from gcorefs.elfcore.vma import Vma, VmFlag
from gcorefs.kernel.proc import address_space, leases, task_status, watches
from gcorefs.process.holes import Holes, find_holes
from gcorefs.process.pagemap import Pagemap, Unknown
from gcorefs.process.runs import Runs, runs_of
from gcorefs.process.shmem import Shmem
from gcorefs.process.walks import walk_before_stop, walk_beside_mappings
from gcorefs.tuning import Tuning
from tests.conftest import Target
from tests.features import needs_pagemap_scan
from tests.readers.corefile import Core
from tests.snapshot import Snapshot, find

PAGE = 4096


class ByEntries(Pagemap):
    """As on a kernel without PAGEMAP_SCAN (before Linux 6.7)."""

    def scan(self, *_: int, **bits: int) -> None:
        return None


class Ahead(Pagemap):
    """Everything is read in a separate thread first."""

    def __init__(self, tid: int) -> None:
        super().__init__(tid)
        self.look_ahead()


WAYS = pytest.mark.parametrize("way", [Pagemap, Ahead, ByEntries])


def mappings(pid: int) -> list[Vma]:
    return parse_smaps(address_space.read_mm(pid, "smaps"))


def in_pairs(columns: Holes) -> list[tuple[int, int]]:
    return [*zip(*columns, strict=True)]


def written(truth: dict[str, Any]) -> set[int]:
    """Addresses of the pages that tests/targets/reserve.c wrote."""
    start, count = int(truth["start"], 16), truth["size"] // PAGE
    return {start + n * truth["step"] % count * PAGE for n in range(truth["pages"])}


@WAYS
@pytest.mark.parametrize("words", [(1, 5000), (4, 300), (1, 700, "together")])
def test_the_runs_are_the_pages_that_were_written(
    spawn: Callable[..., Target], way: type[Pagemap], words: tuple[object, ...]
) -> None:
    target = spawn("reserve", *words)
    start = int(target.truth["start"], 16)
    runs = in_pairs(way(target.pid).runs(runs_of([(start, start + target.truth["size"])])))
    assert all(first < last for first, last in runs)
    assert all(one[1] < next_[0] for one, next_ in pairwise(runs))
    mapped = range(start, start + target.truth["size"])
    pages = [page for run in runs for page in range(*run, PAGE) if page in mapped]
    assert pages == sorted(written(target.truth))


@WAYS
def test_holes_and_written_pages_are_the_whole_mapping(
    spawn: Callable[..., Target], way: type[Pagemap]
) -> None:
    target = spawn("reserve", 1, 3000)
    start, size = int(target.truth["start"], 16), target.truth["size"]
    before = task_status.status(target.pid)["VmPTE"]
    vmas = mappings(target.pid)
    found = find_holes(vmas, [vma.size for vma in vmas], way(target.pid), Shmem(target.pid, vmas))
    (holes,) = (own for vma, own in zip(vmas, found, strict=True) if vma.start == start)
    pages = sorted({*range(start, start + size, PAGE)} - written(target.truth))
    assert in_pairs(holes) == list(in_runs(pages))
    assert task_status.status(target.pid)["VmPTE"] == before


def in_runs(pages: list[int]) -> Iterator[tuple[int, int]]:
    numbered = enumerate(pages)
    for _, group in groupby(numbered, lambda each: each[1] - each[0] * PAGE):
        run = [page for _, page in group]
        yield run[0], run[-1] + PAGE


@WAYS
def test_memory_of_every_kind_has_the_holes_that_the_program_says(
    spawn: Callable[..., Target], way: type[Pagemap]
) -> None:
    # tests/targets/holes.c: private, shared, memfd, System V, and one that another process wrote.
    target = spawn("holes")
    vmas = mappings(target.pid)
    found = find_holes(vmas, [vma.size for vma in vmas], way(target.pid), Shmem(target.pid, vmas))
    by_start = {vma.start: holes for vma, holes in zip(vmas, found, strict=True)}
    for region in target.truth["regions"]:
        start, count = int(region["start"], 16), region["size"] // PAGE
        empty = [start + n * PAGE for n in range(count) if n not in region["pages"]]
        assert in_pairs(by_start[start]) == list(in_runs(empty)), region["name"]


def test_without_a_pagemap_private_memory_has_no_holes_and_shared_memory_its_file_s(
    spawn: Callable[..., Target],
) -> None:
    target = spawn("holes")
    vmas = mappings(target.pid)
    known, unknown = (
        find_holes(vmas, [vma.size for vma in vmas], pagemap, Shmem(target.pid, vmas))
        for pagemap in (Pagemap(target.pid), Unknown("it is not shown"))
    )
    for vma, with_one, without in zip(vmas, known, unknown, strict=True):
        assert in_pairs(without) == (in_pairs(with_one) if VmFlag.MAYSHARE in vma.vm_flags else [])
    assert any(in_pairs(holes) for holes in unknown)


def test_a_memfd_that_may_be_watched_has_no_holes(
    spawn: Callable[..., Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = spawn("holes")
    vmas = mappings(target.pid)
    monkeypatch.setattr(watches, "watched_inodes", lambda tid: None)
    shared = Shmem(target.pid, vmas)
    why = f"/proc/{target.pid}/fd does not show which files it watches"
    assert shared.why_unknown == why
    have_holes = {vma.name.startswith(b"/memfd:") for vma in vmas if in_pairs(shared.holes(vma))}
    assert have_holes == {False}


def test_a_file_that_is_opened_late_has_the_same_holes(spawn: Callable[..., Target]) -> None:
    target = spawn("holes")
    vmas = mappings(target.pid)
    known, late = (Shmem(target.pid, vmas, asks_at_once=each) for each in (True, False))
    found = [in_pairs(late.holes(vma)) for vma in vmas]
    assert any(found)
    assert found == [in_pairs(known.holes(vma)) for vma in vmas]


BEHIND_THE_END = """
import ctypes, mmap, os, sys
size = 4 * mmap.PAGESIZE
if sys.argv[1] == "sysv":
    libc = ctypes.CDLL(None)
    libc.shmat.restype = ctypes.c_void_p
    number = libc.shmget(0, size - 100, 0o600)
    address = libc.shmat(number, None, 0)
    libc.shmctl(number, 0, None)
else:
    file = os.memfd_create("short")
    os.truncate(file, size - 100)
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    address = libc.mmap(None, ctypes.c_long(size), 3, int(sys.argv[2]), file, ctypes.c_long(0))
ctypes.memset(address, 0x43, size)
print('{"pid": %d, "address": %d, "size": %d}' % (os.getpid(), address, size), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("kind", [("memfd", 1), ("memfd", 2), ("sysv",)], ids=str)
@pytest.mark.parametrize("hold", ["stop", "copy"])
def test_what_is_written_behind_the_end_of_the_file_is_there(
    kind: tuple[object, ...], hold: str, tmp_path: Path
) -> None:
    """The kernel maps all of the last page, and keeps what is written there (mmap(2))."""
    target = Target([sys.executable, "-c", BEHIND_THE_END, *map(str, kind)])
    try:
        address, size = target.truth["address"], target.truth["size"]
        with gcorefs.stop(target.pid, gcorefs.Policy.of(f"hold={hold}")) as stop:
            core = stop.core()
            (tmp_path / "core").write_bytes(core.read(0, core.size))
        assert Core(tmp_path / "core").read(address, address + size) == b"\x43" * size
    finally:
        target.kill()


MANY_DESCRIPTORS = """
import mmap, os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
file = os.memfd_create("many")
os.truncate(file, 1 << 20)
mapped = mmap.mmap(file, 1 << 20)
mapped[:1] = b"x"
for _ in range(int(sys.argv[1])):
    os.dup(0)
print('{"pid": %d}' % os.getpid(), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("count", [10, 3000])
def test_the_descriptors_of_a_process_are_looked_at_if_they_are_not_too_many(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    target = Target([sys.executable, "-c", MANY_DESCRIPTORS, str(count)])
    try:
        vmas = mappings(target.pid)
        asked = []

        def ask(tid: int) -> set[int]:
            asked.append(tid)
            return set()

        monkeypatch.setattr(watches, "watched_inodes", ask)
        shared = Shmem(target.pid, vmas)
        (memfd,) = [vma for vma in vmas if vma.name.startswith(b"/memfd:many")]
        assert in_pairs(shared.holes(memfd)) == [(memfd.start + PAGE, memfd.end)]
        assert asked == ([target.pid] if count < 1024 else [])
    finally:
        target.kill()


def test_shared_memory_that_may_be_under_a_lease_has_no_holes(
    spawn: Callable[..., Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = spawn("holes")
    vmas = mappings(target.pid)
    monkeypatch.setattr(leases, "leases", lambda tid, paths: None)
    shared = Shmem(target.pid, vmas)
    assert shared.why_unknown == "/proc/locks does not show which files are under a lease"
    opened = [vma for vma in vmas if vma.name.startswith(b"/memfd:")]
    assert not any(in_pairs(shared.holes(vma)) for vma in opened)
    buffer = memoryview(bytearray(PAGE))
    assert not any(shared.read_into(vma.start, buffer) for vma in opened)
    # Of System V and /dev/zero no program has a descriptor that could have a lease.
    known = {vma.name[:5] for vma in vmas if in_pairs(shared.holes(vma))}
    assert known == {b"/dev/", b"/SYSV"}
    private = [vma for vma in vmas if VmFlag.MAYSHARE not in vma.vm_flags]
    assert Shmem(target.pid, private).why_unknown == ""


def test_a_lease_on_another_device_hides_no_holes(
    spawn: Callable[..., Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = spawn("holes")
    vmas = mappings(target.pid)
    known = [in_pairs(Shmem(target.pid, vmas).holes(vma)) for vma in vmas]
    assert any(known)
    for has_lease in (False, True):
        held = {vma.inode: {vma.dev if has_lease else "ff:ff"} for vma in vmas}
        monkeypatch.setattr(leases, "leases", lambda tid, paths, held=held: held)
        shared = Shmem(target.pid, vmas)
        for vma, holes in zip(vmas, known, strict=True):
            is_hidden = has_lease and vma.name.startswith(b"/memfd:")
            assert in_pairs(shared.holes(vma)) == ([] if is_hidden else holes)


def test_what_is_not_wanted_in_the_core_is_not_asked_about(spawn: Callable[..., Target]) -> None:
    target = spawn("holes")
    vmas = mappings(target.pid)
    found = find_holes(vmas, [0 for _ in vmas], Pagemap(target.pid), Shmem(target.pid, vmas))
    assert not any(starts for starts, _ in found)


READ_ONLY = """
import ctypes, mmap, os
memory = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
memory[4096 * 9] = 1
assert memory[4096 * 3] == 0  # maps the kernel's page of zeros
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
print('{"pid": %d, "start": "%#x"}' % (os.getpid(), start), flush=True)
input()
"""


@pytest.mark.parametrize("way", [Pagemap, ByEntries])
def test_a_page_that_was_only_read_is_not_populated(way: type[Pagemap]) -> None:
    target = Target([sys.executable, "-c", READ_ONLY])
    try:
        start = int(target.truth["start"], 16)
        runs = way(target.pid).runs(runs_of([(start, start + (1 << 20))]))
        assert in_pairs(runs) == [(start + 9 * PAGE, start + 10 * PAGE)]
    finally:
        target.kill()


@pytest.mark.usefixtures("swap")
@WAYS
def test_a_page_that_is_swapped_out_is_seen(
    kinds: Callable[[], Target], way: type[Pagemap]
) -> None:
    target = kinds()
    regions = {region["name"]: region for region in target.truth["regions"]}

    def has_swapped_pages(name: str) -> bool:
        start, end = (int(regions[name][key], 16) for key in ("start", "end"))
        return way(target.pid).has_swapped_pages(start, end)

    assert not has_swapped_pages("swapped")
    target.ask("swap")
    assert has_swapped_pages("swapped")
    assert not has_swapped_pages("swapped_file")  # it was read only
    assert Unknown("it is not shown").has_swapped_pages(0, PAGE)


ODD_END = """
import ctypes, mmap, os
fd = os.memfd_create("odd")
os.ftruncate(fd, 4096 * 4)
memory = mmap.mmap(fd, 4096 * 4)
os.ftruncate(fd, 10_000)
memory[0] = 1
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
print('{"pid": %d, "start": "%#x"}' % (os.getpid(), start), flush=True)
input()
"""


def test_a_hole_at_the_end_of_a_file_goes_to_the_end_of_its_page() -> None:
    target = Target([sys.executable, "-c", ODD_END])
    try:
        start = int(target.truth["start"], 16)
        vmas = mappings(target.pid)
        (vma,) = (vma for vma in vmas if vma.start == start)
        # The fourth page is past the end of the file: it is not even zeros.
        holes = Shmem(target.pid, vmas).holes(vma)
        assert in_pairs(holes) == [(start + PAGE, start + 3 * PAGE)]
    finally:
        target.kill()


def has_few_runs(pid: int) -> bool:
    tables = address_space.page_tables(pid)
    assert tables is not None
    return tables.have_few_runs


def test_page_tables_that_are_many_and_hardly_filled(spawn: Callable[..., Target]) -> None:
    assert has_few_runs(spawn("reserve", 100, 2000).pid)
    assert not has_few_runs(spawn("reserve", 1, 2000, "together").pid)


def test_page_tables_that_are_many_and_nearly_full(
    spawn: Callable[..., Target], tune: Callable[[Tuning], None]
) -> None:
    full, half = spawn("bulk", 300).pid, spawn("mappings", 5000).pid
    assert not has_few_runs(full)  # not many
    tune(Tuning(many_tables=100))
    assert has_few_runs(full)
    assert not has_few_runs(half)


@pytest.mark.parametrize("many", [100, 1 << 20])
@pytest.mark.parametrize("words", [("bulk", 100), ("mappings", 20000), ("reserve", 100, 2000)])
def test_a_walk_beside_the_mappings_finds_what_a_later_one_does(
    spawn: Callable[..., Target],
    tune: Callable[[Tuning], None],
    words: tuple[object, ...],
    many: int,
) -> None:
    tune(Tuning(many_tables=many))
    pid = spawn(*words).pid
    tables = address_space.page_tables(pid)
    assert tables is not None
    assert tables.is_mostly_private
    assert not replace(tables, resident=tables.resident * 2).is_mostly_private
    before = walk_before_stop(pid)
    own = [vma for vma in mappings(pid) if vma.kind.is_plain]
    sizes = [vma.size for vma in own]
    shmem = Shmem(pid, own)
    for known in (None, before):
        walked = Pagemap(pid)
        walk_beside_mappings(walked, pid, known)
        assert find_holes(own, sizes, walked, shmem) == find_holes(own, sizes, Pagemap(pid), shmem)


PRIVATE_MEMFD = """
import mmap, os, sys

PAGE, SIZE = 4096, 1 << 30
file = os.memfd_create("sparse")
os.ftruncate(file, SIZE)
os.pwrite(file, b"file", 3 * PAGE)
os.pwrite(file, b"file", 5 * PAGE)
memory = mmap.mmap(file, SIZE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
memory[5 * PAGE : 5 * PAGE + 3] = b"own"
memory[8 * PAGE : 8 * PAGE + 3] = b"own"
print('{"pid": %d}' % os.getpid(), flush=True)
for _ in sys.stdin:
    print('{"allocated": %d}' % (os.fstat(file).st_blocks * 512), flush=True)
"""


def test_a_private_mapping_of_a_memfd_fills_no_hole_of_the_file(tmp_path: Path) -> None:
    target = Target([sys.executable, "-c", PRIVATE_MEMFD])
    try:
        before = target.ask("x")
        (sparse,) = (vma for vma in mappings(target.pid) if b"memfd:sparse" in vma.name)
        snapshot = Snapshot(find(target.pid))
        try:
            snapshot.take()
            assert snapshot.size < sparse.size
            path = tmp_path / "core"
            path.write_bytes(snapshot.read(0, snapshot.size))
        finally:
            snapshot.close()
        expected = {3: b"file", 5: b"owne", 8: b"own"}
        for page in range(10):
            start = sparse.start + page * PAGE
            assert Core(path).read(start, start + PAGE) == expected.get(page, b"").ljust(
                PAGE, b"\0"
            )
        end = sparse.end
        assert Core(path).read(end - PAGE, end) == bytes(PAGE)
        # The pages of the file, and the page of zeros that the process has copied (mm/shmem.c).
        assert target.ask("x") == before
    finally:
        target.kill()


TMPFS_FILE = """
import mmap, os, sys

SIZE, PAGE = 64 << 20, 4096
path, kind, end = sys.argv[1:]
file = os.open(path, os.O_RDWR | os.O_CREAT)
os.ftruncate(file, SIZE)
os.pwrite(file, b"file", 3 * PAGE)
flags = mmap.MAP_SHARED if kind == "shared" else mmap.MAP_PRIVATE
memory = mmap.mmap(file, SIZE, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
if end == "unlinked":
    os.unlink(path)
memory[8 * PAGE : 8 * PAGE + 3] = b"own"
print('{"pid": %d}' % os.getpid(), flush=True)
for _ in sys.stdin:
    found = os.fstat(file)
    print('{"allocated": %d, "read": %d}' % (found.st_blocks * 512, found.st_atime_ns), flush=True)
"""


# The holes are charged to the memory cgroup of the process, and to the size of the tmpfs.
@pytest.mark.parametrize("end", ["unlinked", "named"])
@pytest.mark.parametrize("kind", ["shared", "private"])
def test_no_hole_of_a_file_on_a_tmpfs_is_filled(
    tmpfs: Path, tmp_path: Path, kind: str, end: str
) -> None:
    target = Target([sys.executable, "-c", TMPFS_FILE, str(tmpfs / "sparse"), kind, end])
    try:
        Path(f"/proc/{target.pid}/coredump_filter").write_text("0x3f")
        before = target.ask("x")
        (sparse,) = (vma for vma in mappings(target.pid) if b"/sparse" in vma.name)
        snapshot = Snapshot(find(target.pid))
        try:
            snapshot.take()
            path = tmp_path / "core"
            path.write_bytes(snapshot.read(0, snapshot.size))
        finally:
            snapshot.close()
        core = Core(path)
        expected = {3: b"file", 8: b"own"}
        for page in [*range(10), sparse.size // PAGE - 1]:
            start = sparse.start + page * PAGE
            assert core.read(start, start + PAGE) == expected.get(page, b"").ljust(PAGE, b"\0")
        assert target.ask("x") == before
    finally:
        target.kill()


class Asked(Pagemap):
    """Remembers the ranges of all calls."""

    def __init__(self, tid: int) -> None:
        super().__init__(tid)
        self.asked: list[tuple[int, int]] = []

    def runs(self, ranges: Runs) -> Runs:
        self.asked.append((ranges[0][0], ranges[1][-1]))
        return super().runs(ranges)


def test_what_is_known_to_have_no_holes_is_not_looked_through(
    spawn: Callable[..., Target],
) -> None:
    target = spawn("mappings", 1000)
    start = int(target.truth["start"], 16)
    pagemap = Asked(target.pid)
    vmas = mappings(target.pid)
    found = find_holes(vmas, [vma.size for vma in vmas], pagemap, Shmem(target.pid, vmas))
    assert pagemap.asked
    assert all(end <= start or first >= start + 2000 * PAGE for first, end in pagemap.asked)
    assert any(starts for starts, _ in found)


def test_of_a_process_that_is_gone_there_are_no_runs() -> None:
    target = Target([sys.executable, "-c", READ_ONLY])
    pagemap, by_entries = Pagemap(target.pid), ByEntries(target.pid)
    start = int(target.truth["start"], 16)
    target.kill()
    assert in_pairs(by_entries.runs(runs_of([(start, start + (1 << 20))]))) == []
    needs_pagemap_scan()
    with pytest.raises(ProcessLookupError):
        pagemap.runs(runs_of([(start, start + (1 << 20))]))


def test_shared_memory_is_found_between_addresses(spawn: Callable[..., Target]) -> None:
    target = spawn("holes")
    vmas = mappings(target.pid)
    shared = Shmem(target.pid, vmas)
    for vma in vmas:
        ours = VmFlag.MAYSHARE in vma.vm_flags
        assert shared.overlaps(vma.start, vma.end) == ours
        assert shared.overlaps(vma.end - PAGE, vma.end) == ours
    assert not shared.overlaps(0, vmas[0].start)
    assert shared.overlaps(0, 1 << 63)
