"""Unreadable memory is known before any read, is lost page by page, and is counted."""

import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import gcorefs
from gcorefs.elfcore.vma import Vma, VmFlag
from gcorefs.kernel import statx
from gcorefs.kernel.pagemap_scan import PRESENT
from gcorefs.kernel.proc import current_call, task_status
from gcorefs.process import unreadable
from gcorefs.process.mapped_files import MappedFiles
from gcorefs.process.pagemap import Pagemap
from tests.conftest import Target, more_huge_pages
from tests.features import needs_pagemap_scan
from tests.live.programs import mappings, start_whole, taken
from tests.readers.corefile import Core
from tests.readers.test_kinds import BAD
from tests.snapshot import Snapshot, find
from tests.turns import alone

PAGE = 4096
READ = 0  # its number on x86-64
UNREADABLE = {
    "kinds": BAD,
    "memory": {"file_short_past_eof"},
}


@pytest.fixture
def start(
    request: pytest.FixtureRequest, spawn: Callable[..., Target], tmp_path: Path
) -> Iterator[Callable[[str], Target]]:
    yield lambda program: start_whole(program, request, spawn, tmp_path)


def regions(target: Target) -> dict[str, dict[str, Any]]:
    return {region["name"]: region for region in target.truth["regions"]}


def bounds(region: dict[str, Any]) -> tuple[int, int]:
    return int(region["start"], 16), int(region["end"], 16)


def found(target: Target, wanted: list[tuple[Vma, int]]) -> list[tuple[int, int]]:
    return unreadable.unreadable(MappedFiles(target.pid), wanted, Pagemap(target.pid))


def expected(target: Target, program: str) -> list[tuple[int, int]]:
    by_name = regions(target)
    # An old kernel does not have every kind.
    return sorted(bounds(by_name[name]) for name in UNREADABLE[program] & by_name.keys())


@pytest.mark.parametrize("program", sorted(UNREADABLE))
def test_what_cannot_be_read_is_known_before(start: Callable[[str], Target], program: str) -> None:
    target = start(program)
    assert found(target, taken(target)) == expected(target, program)


@pytest.mark.parametrize("program", sorted(UNREADABLE))
def test_what_is_known_before_is_what_is_counted(
    start: Callable[[str], Target], program: str
) -> None:
    target = start(program)
    known = found(target, taken(target))
    snapshot = Snapshot(find(target.pid))
    try:
        snapshot.take()
        for offset in range(0, snapshot.size, 1 << 20):
            snapshot.read(offset, 1 << 20)
        assert snapshot.unreadable == sum(end - start for start, end in known) // PAGE
    finally:
        snapshot.close()


@pytest.mark.parametrize("program", sorted(UNREADABLE))
def test_finding_them_touches_nothing(start: Callable[[str], Target], program: str) -> None:
    target = start(program)
    wanted = taken(target)
    keys = ("VmRSS", "VmPTE", "RssAnon", "RssFile", "RssShmem", "VmSwap")

    def footprint() -> list[bytes]:
        status = task_status.status(target.pid)
        return [status[key] for key in keys]

    # Until it waits for its next command, the program may touch memory itself.
    while (call := current_call.system_call(target.pid, target.pid)) is None or call[0] != READ:
        pass
    before = footprint()
    found(target, wanted)
    assert footprint() == before


def test_only_what_is_in_the_core_counts(start: Callable[[str], Target]) -> None:
    target = start("kinds")
    by_name = regions(target)
    first, last = bounds(by_name["shrunk_shared_past_eof"])
    # One page of it, as for an ELF file; all but the last page; nothing.
    (vma,) = (vma for vma in mappings(target) if vma.start <= first < vma.end)
    assert found(target, [(vma, PAGE)]) == []
    assert found(target, [(vma, vma.size - PAGE)]) == [(first, last - PAGE)]
    assert found(target, [(vma, vma.size)]) == [(first, last)]
    assert found(target, [(vma, 0)]) == []
    assert found(target, []) == []


def test_neighbours_of_a_page_that_cannot_be_read_are_read(start: Callable[[str], Target]) -> None:
    # Half of the ranges touch another mapping, or a readable page: these do not belong to them.
    target = start("kinds")
    by_name = regions(target)
    known = found(target, taken(target))
    rests = {"guard_alone_rest", "shrunk_private", "shrunk_shared", "uffd", "uffd_protected_rest"}
    for name in rests & by_name.keys():
        start_, end = bounds(by_name[name])
        assert not any(a < end and start_ < b for a, b in known), name


def test_what_is_mapped_past_the_end_of_a_file_can_be_read(
    start: Callable[[str], Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file of tracefs has no size, but pages that its driver put into the mapping.
    target = start("kinds")
    first, last = bounds(regions(target)["shrunk_shared_past_eof"])
    (vma,) = (vma for vma in mappings(target) if vma.start <= first < vma.end)
    for there, rest in (
        ([(first, first + PAGE)], [(first + PAGE, last)]),
        ([(first + PAGE, last)], [(first, first + PAGE)]),
        ([(first, first + PAGE), (first + PAGE, last)], []),
    ):
        columns = [*zip(*there, strict=True)]
        monkeypatch.setattr(Pagemap, "scan", lambda *_, columns=columns, **bits: columns)
        assert found(target, [(vma, vma.size)]) == rest


def test_what_is_mapped_past_the_end_of_a_file_is_found_without_pagemap_scan(
    start: Callable[[str], Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = start("kinds")
    first, last = bounds(regions(target)["shrunk_shared_past_eof"])
    (vma,) = (vma for vma in mappings(target) if vma.start <= first < vma.end)
    monkeypatch.setattr(Pagemap, "scan", lambda *arguments, **bits: None)
    assert found(target, [(vma, vma.size)]) == [(first, last)]
    monkeypatch.setattr(Pagemap, "flags", lambda *_: b"\x80" + bytes((last - first) // PAGE - 1))
    assert found(target, [(vma, vma.size)]) == [(first + PAGE, last)]


@pytest.mark.usefixtures("swap")
def test_what_is_swapped_out_can_be_read(start: Callable[[str], Target]) -> None:
    target = start("kinds")
    before = found(target, taken(target))
    target.ask("swap")
    assert found(target, taken(target)) == before


def test_a_kernel_without_pagemap_scan_still_shows_files(
    start: Callable[[str], Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = start("kinds")
    monkeypatch.setattr(Pagemap, "scan", lambda *arguments, **bits: None)
    by_name = regions(target)
    unseen = {bounds(by_name[name]) for name in {"uffd_poison"} & by_name.keys()}
    rest = [span for span in expected(target, "kinds") if span not in unseen]
    assert found(target, taken(target)) == rest


def test_a_file_is_described_as_stat_describes_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(12345))
    path.chmod(0o640)
    os.link(path, tmp_path / "other")
    found_ = statx.cached_stat(str(path))
    of_os = path.stat()
    identity = os.major(of_os.st_dev), os.minor(of_os.st_dev), of_os.st_ino
    allocated = of_os.st_blocks * 512
    expected_ = (stat.S_IFREG | 0o640, 2, 12345, False, identity, int(of_os.st_mtime), allocated)
    assert found_ == expected_


@pytest.mark.parametrize("follow", [False, True])
def test_a_symbolic_link_is_followed_on_request(tmp_path: Path, follow: bool) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("file")
    mode = statx.cached_stat(str(tmp_path / "link"), follow).mode
    assert stat.S_IFMT(mode) == (stat.S_IFREG if follow else stat.S_IFLNK)


def test_a_scan_that_finds_more_than_it_takes_at_once_goes_on(spawn: Callable[..., Target]) -> None:
    needs_pagemap_scan()
    pages = 4 * 4096 + 1
    target = spawn("scattered", pages)
    start_ = int(target.truth["start"], 16)
    wanted = [(start_ + 2 * n * PAGE, start_ + (2 * n + 1) * PAGE) for n in range(pages)]
    scan = Pagemap(target.pid).scan
    columns = scan(start_, start_ + 2 * pages * PAGE, all_of=PRESENT)
    assert columns is not None
    assert [*zip(*columns, strict=True)] == wanted


HUGE = """
import mmap, os, signal
MAP_HUGETLB, MAP_NORESERVE = 0x40000, 0x4000
kept = []
for flags in (mmap.MAP_PRIVATE, mmap.MAP_PRIVATE | MAP_NORESERVE, mmap.MAP_SHARED | MAP_NORESERVE):
    memory = mmap.mmap(-1, 4 << 20, flags=flags | mmap.MAP_ANONYMOUS | MAP_HUGETLB)
    memory[:3] = b"abc"
    kept.append(memory)
print('{"pid": %d}' % os.getpid(), flush=True)
signal.pause()
"""

HUGE_FILES = """
import mmap, os, signal
SIZE, MAP_NORESERVE, MFD_HUGETLB = 4 << 20, 0x4000, 4
for flags in (mmap.MAP_PRIVATE, mmap.MAP_SHARED):
    file = os.memfd_create("huge", MFD_HUGETLB)
    os.ftruncate(file, SIZE)
    memory = mmap.mmap(file, SIZE, flags=flags | MAP_NORESERVE)
    memory[:3] = b"abc"
    globals()[f"kept{flags}"] = memory
print('{"pid": %d}' % os.getpid(), flush=True)
signal.pause()
"""


@alone
@pytest.mark.parametrize(
    ("program", "count"),
    [pytest.param(HUGE, 3, id="anonymous"), pytest.param(HUGE_FILES, 2, id="files")],
)
def test_huge_pages_that_were_never_touched_stay_so(
    tmp_path: Path, program: str, count: int
) -> None:
    """`count`: the mappings, of two pages each.  The first page of each is touched."""
    # Four huge pages: the touched ones, and one that is reserved for the mapping that reserves.
    # The second halves of the others have no page left, and are zeros too.
    with more_huge_pages(4):
        target = Target([sys.executable, "-c", program])
        try:
            Path(f"/proc/{target.pid}/coredump_filter").write_text("0x7f")
            touched = task_status.status(target.pid)["HugetlbPages"]
            assert touched == b"%d kB" % (2048 * count)
            snapshot = Snapshot(find(target.pid))
            try:
                snapshot.take()
                path = tmp_path / "core"
                path.write_bytes(snapshot.read(0, snapshot.size))
                assert snapshot.unreadable == 0
            finally:
                snapshot.close()
            huge = [vma for vma in mappings(target) if VmFlag.HUGETLB in vma.vm_flags]
            assert [vma.size for vma in huge] == [4 << 20] * count
            core = Core(path)
            for vma in huge:
                assert core.read(vma.start, vma.end) == b"abc".ljust(4 << 20, b"\0")
            assert task_status.status(target.pid)["HugetlbPages"] == touched
        finally:
            target.kill()


CLOSED = """
import ctypes, mmap, os, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
size = 16 * mmap.PAGESIZE
file = os.open(sys.argv[1], os.O_RDONLY)
address = libc.mmap(None, ctypes.c_long(size), 3, mmap.MAP_PRIVATE, file, ctypes.c_long(0))
ctypes.memset(address + 3 * mmap.PAGESIZE, 0x45, mmap.PAGESIZE)
libc.mprotect(ctypes.c_void_p(address), ctypes.c_long(size), 0)
print('{"pid": %d, "address": %d}' % (os.getpid(), address), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("hold", ["stop", "copy"])
def test_a_file_that_nobody_may_read_is_read_from_the_disk(tmp_path: Path, hold: str) -> None:
    """As the kernel does (mm/gup.c, get_dump_page): the mapping is PROT_NONE, and of its pages only
    those that were written are in the page tables."""
    path = tmp_path / "file"
    path.write_bytes(b"\x44" * 16 * PAGE)
    target = Target([sys.executable, "-c", CLOSED, str(path)])
    try:
        start = target.truth["address"]
        with gcorefs.stop(target.pid, gcorefs.Policy.of(f"hold={hold}")) as stop:
            core = stop.core()
            (tmp_path / "core").write_bytes(core.read(0, core.size))
            assert core.unreadable == core.facts["bytes"]["unreadable"] // PAGE
        found = Core(tmp_path / "core").read(start, start + 16 * PAGE)
        assert found == b"\x44" * 3 * PAGE + b"\x45" * PAGE + b"\x44" * 12 * PAGE
    finally:
        target.kill()
