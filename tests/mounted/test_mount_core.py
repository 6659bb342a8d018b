"""`gcorefs mount-core`: a compressed core as a file, of which only what is read is decompressed."""

import contextlib
import errno
import mmap
import os
import signal
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from gcorefs.export.compressed import FRAME
from gcorefs.kernel.proc import task_stat, tasks
from gcorefs.mount.mountpoints import CORE_FSTYPE, fstype, unmount
from tests.conftest import GCOREFS, Target, text_of, wait_until_gone
from tests.mounted.conftest import (
    AS_NOBODY,
    CUT_OFF,
    NOBODY,
    assert_refused,
    errno_of,
    eventually,
    gcorefs,
    run,
)
from tests.mounted.test_users_mount import SETUP


@pytest.fixture
def core(spawn: Callable[..., Target], tmp_path: Path) -> tuple[Path, bytes, Target]:
    """A compressed core, its content, and its process."""
    target = spawn("memory", tmp_path)
    file = tmp_path / "core.1.zst"
    words = ("--policy", "@all", "--compress", "zstd")
    assert gcorefs("dump", target.pid, *words, "-o", file).returncode == 0
    return file, gcorefs("cat", file).stdout, target


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where to mount.  After the test nothing is mounted there."""
    path = tmp_path / "mnt"
    path.mkdir()
    path.chmod(0o777)
    yield path
    if is_mounted(path):
        unmount(str(path), lazy=True)


def is_mounted(folder: Path) -> bool:
    return fstype(str(folder)) == CORE_FSTYPE


def servers(folder: Path) -> list[int]:
    """Processes of `gcorefs mount-core` for this folder."""
    found = []
    for pid in tasks.pids():
        with contextlib.suppress(OSError):
            # Another one may be in an execve(2) that hangs, and its cmdline too.
            if Path(f"/proc/{pid}/comm").read_text() == "gcorefs\n":
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if {b"mount-core", os.fsencode(folder)} <= {*words}:
                    found.append(pid)
    return found


def test_every_byte_is_there(core: tuple[Path, bytes, Target], folder: Path) -> None:
    file, data, _ = core
    done = gcorefs("mount-core", file, folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert os.listdir(folder) == ["core.1"]
    status = (folder / "core.1").stat()
    assert (status.st_size, oct(status.st_mode)) == (len(data), "0o100400")
    assert status.st_mtime_ns == file.stat().st_mtime_ns
    assert (folder / "core.1").read_bytes() == data
    with (folder / "core.1").open("rb") as opened:
        for offset, length in (
            (FRAME - 5, 10),
            (len(data) - 3, 10),
            (len(data), 1),
            (1, 2 * FRAME),
        ):
            part = os.pread(opened.fileno(), length, offset)
            assert part == data[offset : offset + length]
        with mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert mapped[2 * FRAME + 7 : 2 * FRAME + 5000] == data[2 * FRAME + 7 :][:4993]
    (server,) = servers(folder)
    assert gcorefs("umount", folder).returncode == 0
    wait_until_gone(server)
    assert not is_mounted(folder)


def test_gdb_reads_it(core: tuple[Path, bytes, Target], folder: Path) -> None:
    file, _, target = core
    assert gcorefs("mount-core", file, folder).returncode == 0
    (region,) = (each for each in target.truth["regions"] if each["name"] == "anon_private")
    words = ("-nx", "-batch", "-ex", f"x/gx {region['start']}", "-ex", "info threads")
    said = run("gdb", *words, target.argv[0], folder / "core.1").stdout.decode()
    value = int(region["start"], 16) ^ int(target.truth["seed"], 16)
    assert f"{value:#018x}" in said
    assert f"LWP {target.pid}" in said or f"process {target.pid}" in said


def test_nothing_can_be_changed(core: tuple[Path, bytes, Target], folder: Path) -> None:
    file, _, _ = core
    assert gcorefs("mount-core", file, folder).returncode == 0
    changes: list[Callable[[], object]] = [
        lambda: (folder / "core.1").open("r+b"),
        (folder / "core.1").unlink,
        (folder / "new").touch,
        (folder / "new").mkdir,
        lambda: os.truncate(folder / "core.1", 0),
        lambda: os.chmod(folder / "core.1", 0o777),
    ]
    assert {errno_of(change) for change in changes} == {errno.EROFS}
    assert errno_of(lambda: os.stat(folder / "new")) == errno.ENOENT


def test_a_damaged_frame_is_an_error_of_its_own(
    core: tuple[Path, bytes, Target], folder: Path
) -> None:
    file, data, _ = core
    damaged = bytearray(file.read_bytes())
    damaged[100] ^= 0xFF
    file.write_bytes(damaged)
    assert gcorefs("mount-core", file, folder).returncode == 0
    with (folder / "core.1").open("rb") as opened:
        number = opened.fileno()
        assert errno_of(lambda: os.pread(number, 1, 0)) == errno.EIO
        assert os.pread(number, 9, 2 * FRAME) == data[2 * FRAME :][:9]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it(
    core: tuple[Path, bytes, Target], folder: Path, number: signal.Signals
) -> None:
    words = text_of([GCOREFS, "mount-core", "-f", core[0], folder])
    with subprocess.Popen(words, stderr=subprocess.PIPE) as server:
        eventually(lambda: is_mounted(folder))
        assert (folder / "core.1").stat().st_size == len(core[1])
        server.send_signal(number)
        _, said = server.communicate(timeout=60)
    assert (server.returncode, said) == (0, b"")
    assert not is_mounted(folder)


def test_closed_descriptors_are_no_harm(core: tuple[Path, bytes, Target], folder: Path) -> None:
    script = '"$1" mount-core "$2" "$3" <&- >&- 2>&-'
    assert run("bash", "-c", script, "-", GCOREFS, core[0], folder).returncode == 0
    assert (folder / "core.1").read_bytes() == core[1]


def test_a_user_mounts_a_core_of_his_own(
    core: tuple[Path, bytes, Target], folder: Path, tmp_path: Path
) -> None:
    file, data, _ = core
    assert_refused(run(*AS_NOBODY, GCOREFS, "mount-core", file, folder), "Permission denied")
    os.chown(file, NOBODY, NOBODY)
    os.chown(folder, NOBODY, NOBODY)
    script = '"$1" mount-core "$2" "$3" && cat "$3/core.1" && "$1" umount "$3"'
    own = ["unshare", "--mount", "sh", "-c", SETUP, "-", tmp_path, "-", *AS_NOBODY]
    done = run(*own, "sh", "-c", script, "-", GCOREFS, file, folder)
    assert (done.returncode, done.stderr, done.stdout == data) == (0, b"", True)


def test_what_cannot_be_mounted_is_one_line(
    core: tuple[Path, bytes, Target], folder: Path, tmp_path: Path
) -> None:
    file, _, _ = core
    plain = tmp_path / "plain"
    plain.write_bytes(b"\x7fELF")
    assert_refused(gcorefs("mount-core", plain, folder), "it is a core that is not compressed")
    assert_refused(gcorefs("mount-core", file, tmp_path / "missing"), "No such file or directory")
    assert_refused(gcorefs("mount-core", file, plain), f"{plain}: not a directory")
    assert gcorefs("mount-core", file, folder).returncode == 0
    assert_refused(gcorefs("mount-core", file, folder), f"{folder}: already mounted; ")
    assert_refused(gcorefs("mount", folder), f"{folder}: already mounted; ")
    assert_refused(gcorefs("status", "--mount", folder), "no gcorefs is mounted there")


@pytest.mark.parametrize("most", [22, 60, 134, 135, 160])
def test_with_little_memory_it_is_mounted_or_one_line_says_why_not(
    core: tuple[Path, bytes, Target], folder: Path, most: int
) -> None:
    file, content, _ = core
    result = run("prlimit", f"--as={most * 1_000_000}", GCOREFS, "mount-core", file, folder)
    if result.returncode == 0:
        assert result.stderr == b""
        assert (folder / "core.1").stat().st_size == len(content)
        assert gcorefs("umount", folder).returncode == 0
    else:
        text = result.stderr.decode()
        assert (result.returncode, text.count("\n")) == (1, 1), text
        assert text.startswith("Error: "), text
    assert not is_mounted(folder)


@pytest.mark.parametrize("name", ["..zst", "...zst", ".zst"])
def test_a_name_that_leads_elsewhere_is_not_used(
    core: tuple[Path, bytes, Target], folder: Path, name: str
) -> None:
    file, content, _ = core
    file.rename(file.with_name(name))
    assert gcorefs("mount-core", file.with_name(name), folder).returncode == 0
    assert os.listdir(folder) == ["core"]
    assert (folder / "core").stat().st_size == len(content)
    assert gcorefs("umount", folder).returncode == 0


def test_a_dead_mount_is_taken_away_although_a_file_is_open(
    core: tuple[Path, bytes, Target], folder: Path
) -> None:
    file, _, _ = core
    assert gcorefs("mount-core", file, folder).returncode == 0
    (server,) = servers(folder)
    fd = os.open(folder / "core.1", os.O_RDONLY)
    try:
        assert os.read(fd, 4) == b"\x7fELF"
        os.listdir(folder)  # the kernel has all attributes now
        os.kill(server, signal.SIGKILL)
        wait_until_gone(server)
        result = gcorefs("umount", folder)
        assert (result.returncode, result.stderr) == (0, b"")
        assert not is_mounted(folder)
    finally:
        assert errno_of(lambda: os.close(fd)) in CUT_OFF


def test_a_read_that_takes_long_does_not_keep_it(folder: Path, tmp_path: Path) -> None:
    """Each of many frames of one byte has to be decompressed for one read."""
    file = tmp_path / "core.1.zst"
    file.write_bytes(of_single_bytes(200_000))
    assert gcorefs("mount-core", file, folder).returncode == 0
    (server,) = servers(folder)
    fd = os.open(folder / "core.1", os.O_RDONLY)
    reader = threading.Thread(target=errno_of, args=[lambda: os.read(fd, 100_000)])
    reader.start()
    eventually(lambda: task_stat.stat(server).state == "R")
    os.kill(server, signal.SIGTERM)
    wait_until_gone(server)
    reader.join()
    assert errno_of(lambda: os.close(fd)) in CUT_OFF
    assert not is_mounted(folder)


def of_single_bytes(count: int) -> bytes:
    """A seekable file with so many frames of one byte, which share their text."""
    frame = zstandard.ZstdCompressor().compress(b"x")
    entry = struct.pack("<II", len(frame), 1)
    table = entry * count + struct.pack("<IBI", count, 0, 0x8F92EAB1)
    return frame * count + struct.pack("<II", 0x184D2A5E, len(table)) + table
