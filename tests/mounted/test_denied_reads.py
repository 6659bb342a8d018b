"""gcorefs if process_vm_readv(2) is denied to it, as in some containers."""

import errno
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import GCOREFS, Mount, Target
from tests.families import MIB, Family
from tests.mounted.conftest import (
    PAGE,
    assert_refused,
    end,
    errno_of,
    eventually,
    gcorefs,
    is_free,
    offset_of,
    opened,
    run,
    whole,
)
from tests.mounted.test_stuck_reads import BAD, LENGTH, Server, address_of, word
from tests.readers.corefile import Core
from tests.workloads.hanging import content

Spawn = Callable[..., Target]
Deny = Callable[..., list[str]]

SIZE = 16 * MIB
# Regions that are not dumped, or that nobody can read.  An old kernel has no guards.
LEFT_OUT = {"dontdump", "guard", "file_short_past_eof", "reserved"}
DENIED = "process_vm_readv(2) is denied"
ONLY = "only process_vm_readv(2), denied here, can wait for a page of it"

pytestmark = pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS])


@pytest.fixture
def deny(build: Callable[[str], Path], number: int) -> Deny:
    """Words that run a command under such a filter, for one process or (0) for all."""
    return lambda pid=0: [str(build("denying")), str(number), str(pid)]


@pytest.fixture
def confined(unmounted: Mount, deny: Deny) -> Iterator[Callable[..., Mount]]:
    """Make the mount; its server is under the filter."""
    servers = []

    def make(*options: str, pid: int = 0) -> Mount:
        unmounted.prefix = deny(pid)
        if pid == 0:
            unmounted.expect(DENIED)
        unmounted.make(*options)
        servers.append(unmounted.server)
        return unmounted

    yield make
    for server in servers:
        end(server)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "hanging")
    yield server
    server.end()


def dump(
    deny: list[str], pid: int, core: Path, *words: str
) -> "subprocess.CompletedProcess[bytes]":
    return run(*deny, GCOREFS, "dump", pid, "-o", core, *words)


@pytest.mark.parametrize("hold", ["stop", "copy"])
@pytest.mark.parametrize("parent", ["alone", "keeps"])
def test_dump(spawn: Spawn, deny: Deny, hold: str, parent: str, tmp_path: Path) -> None:
    family = Family(spawn, "small", parent, SIZE)
    before = family.counts()
    result = dump(deny(), family.target.pid, tmp_path / "core", "--hold", hold)
    assert (result.returncode, result.stderr) == (0, b"")
    assert Core(tmp_path / "core").read(family.start, family.end) == family.expected()
    assert family.counts() == before


def test_all_kinds_of_memory_are_as_they_are_without_the_filter(
    spawn: Spawn, deny: Deny, tmp_path: Path
) -> None:
    target = spawn("memory", tmp_path)
    Path(f"/proc/{target.pid}/coredump_filter").write_text("0x7f")
    plain, denied = tmp_path / "plain", tmp_path / "denied"
    results = [dump(words, target.pid, core) for words, core in (([], plain), (deny(), denied))]
    assert results[0].returncode == results[1].returncode == 0
    assert results[0].stderr == results[1].stderr
    cores = [Core(path) for path in (plain, denied)]
    assert cores[0].loads and cores[0].loads == cores[1].loads
    compared = set()
    for region in target.truth["regions"]:
        if region["pattern"] == "unknown":  # it changes between the two reads
            continue
        ends = int(region["start"], 16), int(region["end"], 16)
        if any(each.vaddr <= ends[0] < each.vaddr + each.filesz for each in cores[0].loads):
            assert cores[0].read(*ends) == cores[1].read(*ends), region
            compared.add(region["name"])
    names = {region["name"] for region in target.truth["regions"]}
    assert names - compared == LEFT_OUT & names


def test_the_mount_says_so_once_and_still_reads(
    spawn: Spawn, confined: Callable[..., Mount]
) -> None:
    family = Family(spawn, "small", "alone", SIZE)
    mount = confined()
    path = mount / family.target.pid
    for _ in range(2):
        with opened(path) as fd:
            data = whole(fd)
            offset = offset_of(data, family.start)
            assert data[offset : offset + SIZE] == family.expected()
            for at in range(0, SIZE, 1000 * PAGE):
                assert os.pread(fd, PAGE, offset + at) == data[offset + at :][:PAGE]
            (stop,) = json.loads(gcorefs("status", "--json", "-m", mount.path).stdout)
            assert stop["read_through"] == "/proc/PID/mem"
        eventually(lambda: is_free(family.target.pid))
    assert mount.log.read_text().count(DENIED) == 1
    features = json.loads((mount.path / ".gcorefs/status").read_text())["kernel"]
    assert features["process_vm_readv"] is False
    shown = gcorefs("status", "-m", mount.path).stdout.decode()
    assert shown.endswith(f"{mount.path}: {DENIED} to gcorefs, which reads through /proc/PID/mem\n")


def test_a_mount_that_copies(spawn: Spawn, confined: Callable[..., Mount]) -> None:
    family = Family(spawn, "small", "keeps", SIZE)
    before = family.counts()
    mount = confined("hold=copy")
    with opened(mount / family.target.pid) as fd:
        data = whole(fd)
        (stop,) = json.loads(gcorefs("status", "--json", "-m", mount.path).stdout)
        assert (stop["state"], stop["held"]) == ("copied", "copy")
    offset = offset_of(data, family.start)
    assert data[offset : offset + SIZE] == family.expected()
    assert family.counts() == before


def test_it_may_be_denied_for_one_process_alone(
    spawn: Spawn, confined: Callable[..., Mount], deny: Deny, tmp_path: Path
) -> None:
    family, other = Family(spawn, "small", "alone", SIZE), spawn("threads", 1)
    mount = confined(pid=family.target.pid)
    with opened(mount / family.target.pid) as fd, opened(mount / other.pid) as other_fd:
        data = whole(fd)
        assert whole(other_fd)[:4] == b"\x7fELF"
        stops = json.loads(gcorefs("status", "--json", "-m", mount.path).stdout)
    ways = {stop["pid"]: stop["read_through"] for stop in stops}
    assert ways == {family.target.pid: "/proc/PID/mem", other.pid: "process_vm_readv(2)"}
    offset = offset_of(data, family.start)
    assert data[offset : offset + SIZE] == family.expected()
    for hold in ("stop", "copy"):
        words = deny(family.target.pid)
        result = dump(words, family.target.pid, tmp_path / "core", "--hold", hold)
        assert (result.returncode, result.stderr) == (0, b"")
        assert Core(tmp_path / "core").read(family.start, family.end) == family.expected()


def test_info(spawn: Spawn, deny: Deny) -> None:
    target = spawn("threads", 3)
    result = run(*deny(), GCOREFS, "info", "--json", target.pid)
    assert (result.returncode, result.stderr) == (0, b"")
    assert json.loads(result.stdout)


@pytest.mark.parametrize("shared", [0, 1])
def test_a_page_that_a_disk_must_supply(
    spawn: Spawn, deny: Deny, tmp_path: Path, shared: int
) -> None:
    path = tmp_path / "file"
    pages = [number.to_bytes(8, "little") * (PAGE // 8) for number in range(1, 513)]
    path.write_bytes(b"".join(pages))
    target = spawn("mapper")
    Path(f"/proc/{target.pid}/coredump_filter").write_text("0x7b")
    start = address_of(target.ask(f"map {path} {512 * PAGE} {shared}"))
    target.ask(f"poke {start:x}")
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    result = dump(deny(), target.pid, tmp_path / "core")
    assert (result.returncode, result.stderr) == (0, b"")
    expected = word(start) + b"".join(pages)[8:]
    assert Core(tmp_path / "core").read(start, start + 512 * PAGE) == expected


@pytest.mark.parametrize("is_silent", [False, True])
def test_a_page_that_a_file_server_must_supply_is_an_error(
    spawn: Spawn,
    confined: Callable[..., Mount],
    deny: Deny,
    server: Server,
    tmp_path: Path,
    is_silent: bool,
) -> None:
    target = spawn("mapper")
    unread = address_of(target.ask(f"map {server.library} {LENGTH} 0"))
    Path(f"/proc/{target.pid}/coredump_filter").write_text("0x7b")
    start = address_of(target.ask(f"map {server.library} {LENGTH} 0"))
    target.ask(f"poke {start:x}")
    if is_silent:
        server.silent()
    mount = confined()
    mount.expect(ONLY)
    with opened(mount / target.pid) as fd:
        offset = offset_of(os.pread(fd, 1 << 16, 0), start)
        assert os.pread(fd, PAGE, offset) == word(start) + content(0)[8:]
        assert errno_of(lambda: os.pread(fd, PAGE, offset + BAD * PAGE)) == errno.EIO
        # The source was not even asked for the ELF header.
        with pytest.raises(LookupError):
            offset_of(os.pread(fd, 1 << 16, 0), unread)
    eventually(lambda: is_free(target.pid))
    # Nobody waits with mmap_lock held.
    assert target.ask("map /dev/zero 4096 0")
    assert_refused(dump(deny(), target.pid, tmp_path / "core"), ONLY)
    assert not (tmp_path / "core").exists()


def test_a_page_that_userfaultfd_must_supply_is_an_error(
    spawn: Spawn, confined: Callable[..., Mount]
) -> None:
    target = spawn("uffd")
    mount = confined()
    mount.expect(ONLY)
    with opened(mount / target.pid) as fd:
        start = int(target.truth["start"], 16)
        offset = offset_of(os.pread(fd, 1 << 16, 0), start)
        assert os.pread(fd, 8, offset) == word(start)
        assert errno_of(lambda: os.pread(fd, 8, offset + PAGE)) == errno.EIO
    eventually(lambda: is_free(target.pid))
    for page in range(target.truth["pages"]):
        assert int(target.ask(f"touch {page}")["word"], 16) == start + page * PAGE


def test_memory_with_a_page_that_cannot_be_supplied_is_not_copied(
    spawn: Spawn, confined: Callable[..., Mount], server: Server
) -> None:
    target = spawn("mapper")
    Path(f"/proc/{target.pid}/coredump_filter").write_text("0x7b")
    start = address_of(target.ask(f"map {server.library} {LENGTH} 0"))
    target.ask(f"poke {start:x}")
    mount = confined("hold=copy")
    mount.expect("held, not copied")
    with opened(mount / target.pid) as fd:
        offset = offset_of(os.pread(fd, 1 << 16, 0), start)
        assert os.pread(fd, PAGE, offset) == word(start) + content(0)[8:]
        (stop,) = json.loads(gcorefs("status", "--json", "-m", mount.path).stdout)
        assert (stop["state"], stop["held"]) == ("stopped", "stop")
        assert "a page is not in memory, and somebody must supply it" in stop["held_why"]
