"""Unreadable pages are lost one by one and reported; untouched pages stay untouched."""

import errno
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gcorefs.elfcore.smaps import parse_smaps
from gcorefs.hold.room import Room
from gcorefs.kernel import process_vm
from gcorefs.kernel.proc import address_space, current_call, task_stat, task_status
from gcorefs.process.copy_on_write import CopyOnWrite
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.process.mem import MemFile
from gcorefs.process.memory import Memory, Ways
from gcorefs.process.page_providers import PageProviders
from gcorefs.process.pagemap import Pagemap
from gcorefs.process.shmem import Shmem
from gcorefs.process.unreadable_pages import UnreadablePages
from tests.conftest import Target
from tests.readers.corefile import Core
from tests.snapshot import Snapshot, find

PAGE = 4096
UNREADABLE = {"file_short_past_eof"}


def unreadable_after_reading_all(target: Target) -> int:
    snapshot = Snapshot(find(target.pid))
    try:
        snapshot.take()
        buffer = memoryview(bytearray(1 << 20))
        offset = 0
        while count := snapshot.read_into(offset, buffer):
            offset += count
        assert offset == snapshot.size
        return int(snapshot.unreadable)
    finally:
        snapshot.close()


def test_what_only_the_kernel_can_read_is_no_loss(spawn: Callable[..., Target]) -> None:
    # [vvar] and [vsyscall] are zeros in every core.
    assert unreadable_after_reading_all(spawn("threads", 1)) == 0


def test_unreadable_pages_are_counted(spawn: Callable[..., Target], tmp_path: Path) -> None:
    target = spawn("memory", tmp_path)
    Path(f"/proc/{target.pid}/coredump_filter").write_text("0x7f")
    regions = {region["name"]: region for region in target.truth["regions"]}
    pages = sum(
        (int(regions[name]["end"], 16) - int(regions[name]["start"], 16)) // PAGE
        for name in UNREADABLE & regions.keys()
    )
    assert pages > 0
    assert unreadable_after_reading_all(target) == pages


def footprint(pid: int) -> dict[str, bytes]:
    """Without the pages of mapped files: their ELF headers are read."""
    status = task_status.status(pid)
    return {key: status[key] for key in ("VmPTE", "RssAnon", "RssShmem", "VmSwap")}


def test_untouched_memory_stays_untouched(spawn: Callable[..., Target], tmp_path: Path) -> None:
    target = spawn("holes")
    Path(f"/proc/{target.pid}/coredump_filter").write_text("0x37")  # also read-only shared memory
    target.ask("ping")  # from now on it has all the memory that it needs to read a line
    before = footprint(target.pid)
    path = tmp_path / "core"
    snapshot = Snapshot(find(target.pid))
    try:
        snapshot.take()
        path.write_bytes(snapshot.read(0, snapshot.size))
    finally:
        snapshot.close()
    assert footprint(target.pid) == before
    core = Core(path)
    for region in target.truth["regions"]:
        start, size = int(region["start"], 16), region["size"]
        data = core.read(start, start + size)
        for page in range(0, size, PAGE):
            written = page // PAGE in region["pages"]
            expected = struct.pack("<Q", start + page) if written else bytes(8)
            assert data[page : page + PAGE] == expected.ljust(PAGE, b"\0"), (region, page)


def test_what_is_read_at_once_is_what_is_read_otherwise(
    spawn: Callable[..., Target], tmp_path: Path
) -> None:
    target = spawn("memory", tmp_path)
    Path(f"/proc/{target.pid}/coredump_filter").write_text("0x7f")
    regions = {region["name"]: region for region in target.truth["regions"]}
    snapshot = Snapshot(find(target.pid))
    at_once = set()
    try:
        snapshot.take()
        for offset in range(0, snapshot.size - PAGE, PAGE):
            buffer = bytearray(b"\xa5" * PAGE)
            here = snapshot.read_here(offset, memoryview(buffer))
            if here or snapshot.read_at_once(offset, memoryview(buffer)):
                assert buffer == snapshot.read(offset, PAGE)
                for extent in snapshot.layout.extents(offset, PAGE):
                    at_once.add(extent.at)
        # Not across the boundary of two pieces of the file.
        first = snapshot.layout.memory_offset
        for read in (snapshot.read_here, snapshot.read_at_once):
            assert not read(first - 1, memoryview(bytearray(2)))
            assert not read(snapshot.size - 1, memoryview(bytearray(2)))
    finally:
        snapshot.close()
    assert 0 in at_once  # zeros, which are at no address
    starts = {name: int(region["start"], 16) for name, region in regions.items()}
    assert {name for name in AT_ONCE if starts[name] not in at_once} == set()
    assert {name for name in NOT_AT_ONCE & starts.keys() if starts[name] in at_once} == set()


AT_ONCE = ("anon_private", "read_only")
NOT_AT_ONCE = {"prot_none", "anon_shared", "guard", *UNREADABLE}  # an old kernel has no guards


def plain_memory(pid: int, only_pinned: bool = False) -> Memory:
    """The memory of a process that has only private memory, shared with nobody."""
    pagemap = Pagemap(pid)
    ways = Ways(
        Shmem(pid, []),
        PageProviders(pid, [], pagemap),
        CopyOnWrite([], pagemap),
        pagemap,
        only_pinned,
    )
    return Memory(MemFile(pid, pid), ways, UnreadablePages(), lambda: None)


def test_nothing_is_brought_by_reading_at_once(spawn: Callable[..., Target]) -> None:
    target = spawn("holes")
    target.ask("ping")
    before = footprint(target.pid)
    snapshot = Snapshot(find(target.pid))
    try:
        snapshot.take()
        memory = plain_memory(target.pid)
        buffer = memoryview(bytearray(PAGE))
        count = 0
        for region in target.truth["regions"]:
            untouched = {*range(region["size"] // PAGE)} - {*region["pages"]}
            for page in untouched:
                count += memory.read_at_once(int(region["start"], 16) + page * PAGE, buffer)
        assert count == 0
    finally:
        snapshot.close()
    assert footprint(target.pid) == before


def test_the_memory_of_a_program_is_not_that_of_the_next() -> None:
    """A thread that did not stop may still call execve, for example of a set-uid program."""
    process = subprocess.Popen(["sh", "-c", "read line; exec sleep 100"], stdin=subprocess.PIPE)
    try:
        while current_call.system_call(process.pid, process.pid) is None:
            pass  # until it waits for its line
        start = parse_smaps(address_space.read_mm(process.pid, "smaps"))[0].start
        memory = plain_memory(process.pid, only_pinned=True)
        assert memory.read_bytes(start, 4) == b"\x7fELF"
        memory.check_pinned()
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        while task_stat.stat(process.pid).comm != b"sleep":
            pass
        while current_call.system_call(process.pid, process.pid) is None:
            pass  # until the new program is complete
        new = parse_smaps(address_space.read_mm(process.pid, "smaps"))[0].start
        for address in (start, new):
            with pytest.raises(ProcessError) as caught:
                memory.read_bytes(address, 4)
            assert caught.value.reason is Reason.DIED
            with pytest.raises(ProcessError):
                memory.check_pinned()
    finally:
        process.kill()
        process.communicate()


LEASED = """
import fcntl, mmap, os, signal
fd = os.memfd_create("leased")
os.ftruncate(fd, 1 << 16)
memory = mmap.mmap(fd, 1 << 16)
memory[:] = b"x" * (1 << 16)
again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)  # memfd_create's own fd takes no lease
fcntl.fcntl(again, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print('{"pid": %d}' % os.getpid(), flush=True)
signal.pause()
"""


def test_a_file_under_a_lease_is_not_opened() -> None:
    # An open would send SIGIO to the process, which would kill it after the release.
    target = Target([sys.executable, "-c", LEASED])
    try:
        assert unreadable_after_reading_all(target) == 0
        status = task_status.status(target.pid)
        assert int(status["SigPnd"], 16) == int(status["ShdPnd"], 16) == 0
        assert target.popen.poll() is None
    finally:
        target.kill()


WATCHED = """
import ctypes, json, mmap, os, sys
libc = ctypes.CDLL(None)
fd = os.memfd_create("watched")
os.ftruncate(fd, 1 << 16)
memory = mmap.mmap(fd, 1 << 16)
memory[:4096] = b"x" * 4096
path = b"/proc/self/fd/%d" % fd
if sys.argv[1] == "inotify":
    watcher = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(watcher, path, 0xFFF) > 0  # IN_ALL_EVENTS
else:
    watcher = libc.fanotify_init(0x4 | 0x2, 0)  # FAN_CLASS_CONTENT, FAN_NONBLOCK
    allow_first = ctypes.c_uint64(0x10000 | 0x20000)  # FAN_OPEN_PERM, FAN_ACCESS_PERM
    assert libc.fanotify_mark(watcher, 1, allow_first, -100, path) == 0  # FAN_MARK_ADD
print(json.dumps({"pid": os.getpid()}), flush=True)
for _ in sys.stdin:
    try:
        events = len(os.read(watcher, 1 << 16))
    except BlockingIOError:
        events = 0
    print(json.dumps({"events": events}), flush=True)
"""


@pytest.mark.parametrize("watcher", ["inotify", "fanotify"])
def test_a_file_that_the_process_watches_is_not_opened(watcher: str) -> None:
    # It would read of our open.  A listener of fanotify(7) would have to allow it first.
    target = Target([sys.executable, "-c", WATCHED, watcher])
    try:
        assert unreadable_after_reading_all(target) == 0
        assert target.ask("events") == {"events": 0}
    finally:
        target.kill()


ACCESSED = """
import json, mmap, os, sys
fd = os.memfd_create("accessed")
os.ftruncate(fd, 1 << 16)
memory = mmap.mmap(fd, 1 << 16)
memory[:4096] = b"x" * 4096
print(json.dumps({"pid": os.getpid()}), flush=True)
for _ in sys.stdin:
    print(json.dumps(list(os.fstat(fd)) + [os.fstat(fd).st_atime_ns]), flush=True)
"""


def test_the_access_time_of_a_memfd_stays() -> None:
    target = Target([sys.executable, "-c", ACCESSED])
    try:
        before = target.ask("fstat")
        assert unreadable_after_reading_all(target) == 0
        assert target.ask("fstat") == before
    finally:
        target.kill()


def test_who_may_not_keep_the_access_time_reads_nevertheless(
    spawn: Callable[..., Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = spawn("holes")
    open_ = os.open

    def refuse(path: str, flags: int, *more: int) -> int:
        if flags & os.O_NOATIME:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)
        return open_(path, flags, *more)

    snapshot = Snapshot(find(target.pid))
    try:
        snapshot.take()
        monkeypatch.setattr(os, "open", refuse)
        for region in target.truth["regions"]:
            for page in region["pages"]:
                address = int(region["start"], 16) + page * PAGE
                assert any(snapshot.stop.memory.read_bytes(address, PAGE))
    finally:
        snapshot.close()


@pytest.mark.parametrize("is_copied", [False, True])
def test_what_the_kernel_refuses_to_read_is_refused_and_no_surprise(
    spawn: Callable[..., Target], monkeypatch: pytest.MonkeyPatch, is_copied: bool
) -> None:
    target = spawn("threads", 2)

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    # In both ways: if only the first is refused, the second reads the memory.

    room = Room(1 << 30) if is_copied else None
    snapshot = Snapshot(find(target.pid), room=room)
    try:
        snapshot.take()
        for name in ("read_memory", "read_memory_vector"):
            monkeypatch.setattr(process_vm, name, refuse)
        monkeypatch.setattr(os, "preadv", refuse)
        snapshot.copy()
        with pytest.raises(ProcessError) as caught:
            snapshot.read(snapshot.layout.memory_offset, 4096)
        text = (
            f"process {target.pid}: the kernel does not let gcorefs read what the core needs "
            "(mem: Operation not permitted)"
        )
        assert (caught.value.errno, str(caught.value)) == (errno.EACCES, text)
        assert snapshot.not_copied == (text if is_copied else "")
        assert {tracer for _, tracer in target.states().values()} == {os.getpid()}
    finally:
        snapshot.close()
