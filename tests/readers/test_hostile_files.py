"""`gcorefs bundle` and `gcorefs stacks` of a process that is an enemy, or is easily hurt by an open
of its files."""

import contextlib
import os
import select
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcorefs import api
from gcorefs.bundle.facts import facts
from gcorefs.bundle.mapped_files import MappedFiles
from gcorefs.kernel.proc import mountinfo, procfile
from gcorefs.kernel.proc.mountinfo import Mount
from gcorefs.policy import Policy
from gcorefs.process import search
from tests.conftest import GCOREFS, Target
from tests.live import silent
from tests.mounted.conftest import gcorefs, run
from tests.readers.test_bundle import manifest_of, unpack

Start = Callable[..., Target]

# SIGIO kills a process that does not expect it, as the holder of a lease that is broken.
LEASE = """
import ctypes, fcntl, json, mmap, os, sys
path = sys.argv[1]
file = os.open(path, os.O_RDWR)
kept = mmap.mmap(file, 0, mmap.MAP_PRIVATE)
if "delete" in sys.argv:
    os.unlink(path)
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print(json.dumps({"pid": os.getpid()}), flush=True)
for line in sys.stdin:
    print(json.dumps({"lease": fcntl.fcntl(file, fcntl.F_GETLEASE)}), flush=True)
"""
HELD = {"lease": 1}  # F_WRLCK


@pytest.fixture
def start() -> Iterator[Start]:
    targets = []

    def started(*words: object) -> Target:
        targets.append(Target([*map(str, words)]))
        return targets[-1]

    yield started
    for each in targets:
        each.kill()


def python(start: Start, code: str, *words: object) -> Target:
    return start(sys.executable, "-c", code, *words)


def elf_file(path: Path) -> Path:
    """The beginning of an ELF file."""
    path.write_bytes(b"\x7fELF\2\1\1".ljust(8192, b"\0"))
    return path


@pytest.mark.parametrize("how", ["keep", "delete"])
def test_no_lease_is_broken(start: Start, tmp_path: Path, how: str) -> None:
    path = elf_file(tmp_path / "leased")
    target = python(start, LEASE, path, how)
    result = gcorefs("bundle", target.pid, "-o", tmp_path / "X")
    assert result.returncode == 0
    why = "somebody holds a lease on it, which an open would break (fcntl(2))"
    assert result.stderr.decode() == f"not in the bundle: {path}: {why}\n"
    assert manifest_of(unpack(tmp_path / "X", tmp_path / "top"))["not_taken"] == [
        {"path": str(path), "why": why}
    ]
    assert target.ask("lease") == HELD
    assert gcorefs("stacks", target.pid).returncode == 0
    assert target.ask("lease") == HELD


MAPS = """
import json, mmap, os, sys
kept = mmap.mmap(os.open(sys.argv[1], os.O_RDONLY), 0, mmap.MAP_PRIVATE)
print(json.dumps({"pid": os.getpid()}), flush=True)
input()
"""


def test_a_lease_counts_for_no_file_on_another_device(
    start: Start, tmpfs: Path, tmp_path: Path
) -> None:
    path = elf_file(tmpfs / "mapped")
    with another_tmpfs(tmp_path) as folder:
        leased = elf_file(folder / "leased")
        assert leased.stat().st_ino == path.stat().st_ino
        holder = python(start, LEASE, leased)
        target = python(start, MAPS, path)
        result = gcorefs("bundle", target.pid, "-o", tmp_path / "X")
        assert (result.returncode, result.stderr) == (0, b"")
        assert holder.ask("lease") == HELD
    assert (unpack(tmp_path / "X", tmp_path / "top") / f"root{path}").is_file()


MAPS_ALL = """
import json, mmap, os, sys
kept = [mmap.mmap(os.open(each, os.O_RDONLY), 4096, mmap.MAP_PRIVATE) for each in sys.argv[1:]]
print(json.dumps({"pid": os.getpid()}), flush=True)
input()
"""


def test_a_file_with_many_names_is_in_the_bundle_once(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = os.urandom(1 << 20)
    path.write_bytes(content)
    names = [tmp_path / f"name{number}" for number in range(20)]
    for each in names:
        each.hardlink_to(path)
    target = python(start, MAPS_ALL, path, *names)
    assert gcorefs("bundle", target.pid, "-o", tmp_path / "X").returncode == 0
    top = unpack(tmp_path / "X", tmp_path / "top")
    places = [top / f"root{each}" for each in (path, *names)]
    assert all(each.read_bytes() == content for each in places)
    assert sum(not each.is_symlink() for each in places) == 1
    told = {each["path"] for each in manifest_of(top)["files"]}
    assert {str(each) for each in (path, *names)} <= told


def test_all_files_together_are_bounded(start: Start, tmp_path: Path) -> None:
    limit = 1 << 40
    paths = [tmp_path / f"sparse{number:02}" for number in range(18)]
    for each in paths:
        each.touch()
        os.truncate(each, limit)
    paths[0].write_bytes(b"x")
    os.truncate(paths[0], 4096)
    name = tmp_path / "another name"
    name.hardlink_to(paths[1])
    target = python(start, MAPS_ALL, *paths, name)
    with contextlib.closing(MappedFiles(limit)) as files:
        files.look(target.pid)
        kept = {each.path for each in files.kept if each.size == limit}
        left_out = [each.path for each in files.not_taken if "16 times" in each.why]
        assert len(left_out) == 2
        assert kept.union(left_out) == {os.fsencode(each) for each in (*paths[1:], name)}


MANY_FILES = """
import json, mmap, os, resource, sys
folder, count = sys.argv[1], int(sys.argv[2])
kept = []
for number in range(count):
    file = os.open(f"{folder}/{number:03}", os.O_RDWR | os.O_CREAT, 0o600)
    os.truncate(file, 4096)
    kept.append(mmap.mmap(file, 4096, mmap.MAP_PRIVATE))
    os.close(file)
print(json.dumps({"pid": os.getpid()}), flush=True)
input()
"""


def test_more_files_than_may_be_open_are_told(start: Start, tmp_path: Path) -> None:
    target = python(start, MANY_FILES, tmp_path, 300)
    words = ("bundle", target.pid, "-o", tmp_path / "X")
    result = run("prlimit", "--nofile=200", GCOREFS, *words)
    assert result.returncode == 0
    manifest = manifest_of(unpack(tmp_path / "X", tmp_path / "top"))
    why = "RLIMIT_NOFILE is 200, and others are open"
    assert {each["why"] for each in manifest["not_taken"]} == {why}
    assert len(manifest["not_taken"]) > 100
    assert len(manifest["files"]) > 100


@contextlib.contextmanager
def another_tmpfs(folder: Path) -> Iterator[Path]:
    path = folder / "another"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


# A file that cannot be opened, of a server that gives it the inode number of another file.  Its
# path leads to that other one.
PLANTED = """
import ctypes, json, mmap, os, sys
folder, secret = sys.argv[1:]
kept = mmap.mmap(os.open(f"{folder}/file", os.O_RDONLY), 4096, mmap.MAP_PRIVATE)
libc = ctypes.CDLL(None, use_errno=True)
assert libc.mount(b"none", folder.encode(), b"tmpfs", 0, None) == 0
os.symlink(secret, f"{folder}/file")
print(json.dumps({"pid": os.getpid()}), flush=True)
input()
"""


def secret_file(folder: Path) -> Path:
    """The first file of a tmpfs has inode number 2."""
    path = folder / "secret"
    path.write_text("secret")
    return path


def bundled(pid: int, tmp_path: Path) -> list[bytes]:
    """The content of each file in a bundle but the core."""
    assert gcorefs("bundle", pid, "-o", tmp_path / "X").returncode == 0
    found = unpack(tmp_path / "X", tmp_path / "top").rglob("*")
    return [each.read_bytes() for each in found if each.is_file() and each.name != "core"]


def test_a_path_leads_to_no_other_file(
    start: Start, build: Callable[[str], Path], tmpfs: Path, tmp_path: Path
) -> None:
    secret = secret_file(tmpfs)
    folder = tmp_path / "served"
    folder.mkdir()
    server = start(sys.executable, silent.__file__, folder, build("threads"))
    assert secret.stat().st_ino == (folder / "file").stat().st_ino
    try:
        words = ("unshare", "--mount", sys.executable, "-c", PLANTED, folder, secret)
        target = start(*words)
        assert Path(f"/proc/{target.pid}/root{folder}/file").read_text() == "secret"
        assert server.ask("refuse") == {"refuse": True}
        assert b"secret" not in bundled(target.pid, tmp_path)
    finally:
        server.kill()
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_mount_leads_to_no_other_file(start: Start, tmp_path: Path) -> None:
    """Whoever mounts a file over another one need not be able to read it."""
    secret = secret_file(tmp_path)
    code = 'import json, os; print(json.dumps({"pid": os.getpid()}), flush=True); input()'
    script = 'mount --bind "$0" /usr/lib/os-release && exec "$@"'
    target = start("unshare", "--mount", "sh", "-c", script, secret, sys.executable, "-c", code)
    assert Path(f"/proc/{target.pid}/root/usr/lib/os-release").read_text() == "secret"
    assert b"secret" not in bundled(target.pid, tmp_path)


def test_a_library_of_nothing_is_left_out(start: Start, tmp_path: Path) -> None:
    path = elf_file(tmp_path / "sparse")
    os.truncate(path, 1 << 42)
    code = """
import json, mmap, os, sys
kept = mmap.mmap(os.open(sys.argv[1], os.O_RDONLY), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ)
print(json.dumps({"pid": os.getpid()}), flush=True)
input()
"""
    target = python(start, code, path)
    result = gcorefs("bundle", target.pid, "-o", tmp_path / "X")
    why = "nearly all of it is a hole, and it has more than --file-limit"
    assert (result.returncode, result.stderr.decode()) == (
        0,
        f"not in the bundle: {path}: {why}\n",
    )


LONG_ID = """
import json, mmap, os, struct, sys
path, size = sys.argv[1], int(sys.argv[2])
note = struct.pack("<III4s", 4, size, 3, b"GNU") + bytes(size)
head = b"\\x7fELF\\2\\1\\1".ljust(16, b"\\0")
head += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
head += struct.pack("<IIQQQQQQ", 4, 4, 4096, 0, 0, len(note), len(note), 4)
with open(path, "wb") as file:
    file.write(head.ljust(4096, b"\\0") + note)
rights = mmap.PROT_READ | mmap.PROT_EXEC
kept = mmap.mmap(os.open(path, os.O_RDONLY), 4096, mmap.MAP_PRIVATE, rights)
os.unlink(path)
print(json.dumps({"pid": os.getpid()}), flush=True)
input()
"""


@pytest.mark.parametrize("size", [1, 60_000])
def test_a_build_id_that_is_no_name_of_a_file(start: Start, tmp_path: Path, size: int) -> None:
    target = python(start, LONG_ID, tmp_path / "odd", size)
    result = gcorefs("stacks", target.pid)
    assert (result.returncode, result.stderr) == (0, b"")


LOOK = """
import contextlib, sys
from gcorefs.readers.files import Files
with contextlib.closing(Files(int(sys.argv[1]))) as files:
    print(repr(files.executable), files.program, flush=True)
"""


def test_a_program_whose_server_is_silent(
    start: Start, build: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "served"
    folder.mkdir()
    server = start(sys.executable, silent.__file__, folder, build("threads"))
    target = start(folder / "file", 1)
    assert server.ask("silence") == {"silence": True}
    words = [sys.executable, "-c", LOOK, str(target.pid)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as looking:
        assert looking.stdout is not None
        try:
            assert select.select([looking.stdout], [], [], 60)[0]
            said = looking.stdout.readline()
        finally:
            # Not even SIGKILL ends the thread that waits for an answer (fs/fuse/dev.c,
            # request_wait_answer).
            server.kill()
            subprocess.run(["umount", "--lazy", folder], check=True)
    assert said == f"'' {os.fsencode(folder / 'file')!r}\n"


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Python's own memory grows by less than what a process may have us read."""
    tracemalloc.start()
    try:
        yield
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 4 * procfile.LONGEST


def test_arguments_that_never_end(spawn: Start) -> None:
    target = spawn("endless")
    with little_memory():
        found = search.search(search.named("no process has this name"))
    assert (found.processes, found.silent) == ([], [])
    with little_memory():
        known, unknown = facts(target.pid, has_environ=True)
    assert "status" in known
    for name in ("cmdline", "environ"):
        assert unknown[name] == f"/proc/{target.pid}/{name}: it has more than 32 MiB"


# Blanks are four bytes each in mountinfo.
MANY_MOUNTS = """
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
os.chdir(sys.argv[1])
for _ in range(14):
    os.mkdir(" " * 255)
    os.chdir(" " * 255)
place = os.getcwd().encode()
assert libc.mount(b"first", place, b"tmpfs", 0, None) == 0
first = os.stat(place).st_dev
for _ in range(2500):
    assert libc.mount(place, place, None, 4096, None) == 0
assert libc.mount(b"last", sys.argv[1].encode(), b"ramfs", 0, None) == 0
last = os.stat(sys.argv[1]).st_dev
print(json.dumps({"pid": os.getpid(), "first": first, "last": last}), flush=True)
input()
"""


def device(number: int) -> str:
    return f"{os.major(number):02x}:{os.minor(number):02x}"


def test_mounts_without_end(start: Start, tmpfs: Path) -> None:
    words = ("unshare", "--mount", sys.executable, "-c", MANY_MOUNTS, tmpfs)
    target = start(*words)
    tracemalloc.start()
    try:
        first, last = (device(target.truth[each]) for each in ("first", "last"))
        assert mountinfo.file_systems(target.pid, {first, last}) == {first: b"tmpfs"}
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1 << 20


# A file of a process that is not lost is told from a core below our mount by its device, too.
MANY_DEVICES = """
import ctypes, json, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
kept = []
for kind in (b"tmpfs", b"ramfs"):
    for number in range(int(sys.argv[2])):
        place = os.path.join(sys.argv[1], f"{kind.decode()}{number}")
        os.mkdir(place)
        assert libc.mount(b"none", place.encode(), kind, 0, None) == 0
        with open(place + "/file", "w+b") as file:
            file.truncate(2 << 20)
            kept.append(mmap.mmap(file.fileno(), 0))
        os.rename(place + "/file", place + "/another")
print(json.dumps({"pid": os.getpid()}), flush=True)
input()
"""


@pytest.mark.parametrize("policy", [Policy(memory="filter"), Policy(memory="stacks")])
def test_mounts_are_read_once_and_not_for_each_device(
    start: Start, tmpfs: Path, monkeypatch: pytest.MonkeyPatch, policy: Policy
) -> None:
    """Else who maps files of 3,000 tmpfs stands still for 20 seconds, and has no core."""
    looks = 0

    def counted(process: int | str) -> Iterator[Mount]:
        nonlocal looks
        looks += 1
        return mounts_of(process)

    mounts_of = mountinfo.mounts_of
    monkeypatch.setattr(mountinfo, "mounts_of", counted)
    found = []
    for count in (1, 16):
        folder = tmpfs / str(count)
        folder.mkdir()
        words = ("unshare", "--mount", sys.executable, "-c", MANY_DEVICES, folder, count)
        target = start(*words)
        looks = 0
        with api.stop(target.pid, policy) as stop:
            stop.core()
        found.append(looks)
    assert found[0] == found[1] > 0
