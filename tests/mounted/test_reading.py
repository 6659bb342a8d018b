"""One file, for every reader: the same bytes in any order and size, through any system call; and
the process stands still exactly as long as the file is open."""

import errno
import io
import mmap
import os
import signal
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Mount, Target
from tests.mounted.conftest import (
    PAGE,
    eventually,
    has_stopped,
    is_free,
    is_held,
    opened,
    run,
    stops,
    whole,
)


@dataclass
class Core:
    """A core that is held open, and all its bytes."""

    path: Path
    fd: int
    data: bytes
    target: Target


@pytest.fixture
def core(mount: Mount, spawn: Callable[..., Target], tmp_path: Path) -> Iterator[Core]:
    target = spawn("memory", tmp_path)
    with opened(mount / target.pid) as fd:
        # splice(2) and sendfile(2) read as far as the size of the last stat(2).
        os.fstat(fd)
        yield Core(mount / target.pid, fd, whole(fd), target)


# A shell command with the file as $1, and its expected output.
COMMANDS: dict[str, Callable[[bytes], bytes]] = {
    'cat "$1"': lambda data: data,
    'cat < "$1"': lambda data: data,
    'cp "$1" copy && cat copy': lambda data: data,
    'cp --sparse=always "$1" copy && cat copy': lambda data: data,
    'cp --reflink=auto "$1" copy && cat copy': lambda data: data,
    'dd if="$1" status=none bs=777': lambda data: data,
    'dd if="$1" status=none bs=3M': lambda data: data,
    'dd if="$1" status=none bs=4096 iflag=direct': lambda data: data,
    'dd if="$1" status=none bs=4097 skip=3 count=2': lambda data: data[3 * 4097 : 5 * 4097],
    'dd if="$1" status=none bs=1M skip=12345 iflag=skip_bytes': lambda data: data[12345:],
    'dd if="$1" status=none bs=1M skip=1T count=1 iflag=skip_bytes 2>&-': lambda _: b"",
    'head -c 5001 "$1"': lambda data: data[:5001],
    'head -c -5001 "$1"': lambda data: data[:-5001],
    'tail -c 5001 "$1"': lambda data: data[-5001:],
    'tail -c +5002 "$1"': lambda data: data[5001:],
    'wc -c < "$1"': lambda data: b"%d\n" % len(data),
    'cat "$1" | wc -c': lambda data: b"%d\n" % len(data),
    'stat -c %s "$1"': lambda data: b"%d\n" % len(data),
    'gzip -1 < "$1" | gzip -d': lambda data: data,
    'gzip -1 -c "$1" | gzip -d': lambda data: data,
    'sha256sum < "$1"': lambda data: sha256(data).hexdigest().encode() + b"  -\n",
    'cp "$1" one; cp "$1" other; cmp one other && cmp one "$1" && echo same': lambda _: b"same\n",
    "od -A n -t x1 -v -w1 \"$1\" | tr -d ' \\n'": lambda data: data.hex().encode(),
}  # fmt: skip


def test_every_tool_reads_the_same_bytes(core: Core, tmp_path: Path) -> None:
    for command, expected in COMMANDS.items():
        result = run("bash", "-o", "pipefail", "-c", command, "-", core.path, cwd=tmp_path)
        assert result.stderr == b"", command
        assert sha256(result.stdout).digest() == sha256(expected(core.data)).digest(), command
    assert is_held(core.target.pid)


def test_tar_takes_it_whole(core: Core) -> None:
    result = run("tar", "-c", "-C", core.path.parent, core.path.name)
    assert (result.returncode, result.stderr) == (0, b"")
    with tarfile.open(fileobj=io.BytesIO(result.stdout)) as archive:
        member = archive.getmember(core.path.name)
        stored = archive.extractfile(member)
        assert stored is not None
        assert stored.read() == core.data
    assert (oct(member.mode), member.size) == ("0o400", len(core.data))


def test_copies_that_nobody_holds_are_whole_too(
    mount: Mount, spawn: Callable[..., Target], tmp_path: Path
) -> None:
    # Nothing is open before: each tool first meets the estimate of the size.
    target = spawn("threads", 2)
    commands = (
        'cp "$1" "$2"',
        'dd status=none if="$1" of="$2"',
        'tail -c +1 "$1" > "$2"',
        'cat "$1" > "$2"',
    )
    for index, command in enumerate(commands):
        copy = tmp_path / str(index)
        result = run("bash", "-c", command, "-", mount / target.pid, copy)
        assert (result.returncode, result.stderr) == (0, b""), command
        data = copy.read_bytes()
        assert len(data) == end_of_last_segment(data), command
        eventually(lambda: is_free(target.pid))


def end_of_last_segment(core: bytes) -> int:
    """The end of a core, by its headers: the highest p_offset + p_filesz (elf(5))."""
    count = int.from_bytes(core[56:58], "little")
    ends = []
    for header in (core[64 + 56 * index :][:56] for index in range(count)):
        offset, filesz = header[8:16], header[32:40]
        ends.append(int.from_bytes(offset, "little") + int.from_bytes(filesz, "little"))
    return max(ends)


def test_the_size_of_an_open_file_is_exact(core: Core) -> None:
    assert os.fstat(core.fd).st_size == len(core.data) == core.path.stat().st_size
    assert len(core.data) == end_of_last_segment(core.data)
    assert os.lseek(core.fd, 0, os.SEEK_END) == len(core.data)
    assert os.lseek(core.fd, -1, os.SEEK_END) == len(core.data) - 1
    assert os.read(core.fd, 2) == core.data[-1:]


def test_at_the_end_there_is_nothing(core: Core) -> None:
    size = len(core.data)
    for offset in (size, size + 1, size + PAGE, 1 << 40, (1 << 63) - 2):
        assert os.pread(core.fd, 1, offset) == b""
    assert os.pread(core.fd, 10, size - 3) == core.data[-3:]
    assert os.pread(core.fd, 0, 0) == b""


def test_reads_of_any_place_and_size_are_pieces_of_the_whole(core: Core) -> None:
    size = len(core.data)
    edges = st.sampled_from([0, 1, 63, 64, PAGE - 1, PAGE, PAGE + 1, size - 1, size, size + 1])
    offsets = edges | st.integers(0, size + PAGE)
    lengths = edges | st.integers(0, 3 * PAGE) | st.integers(0, 3 << 20)

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(offsets, lengths), min_size=1, max_size=5))
    def check(pieces: list[tuple[int, int]]) -> None:
        for offset, length in pieces:
            # read(2) may return less than asked, but not nothing at once.
            data = os.pread(core.fd, length, offset)
            assert data == core.data[offset : offset + len(data)]
            assert len(data) == min(length, max(0, size - offset))

    check()


def test_vectored_reads_are_pieces_of_the_whole(core: Core) -> None:
    pieces = [bytearray(length) for length in (1, 7, PAGE, 12345)]
    total = sum(map(len, pieces))
    assert os.preadv(core.fd, pieces, 999) == total
    assert b"".join(pieces) == core.data[999 : 999 + total]


def test_sendfile_gives_the_same_bytes(core: Core, tmp_path: Path) -> None:
    with (tmp_path / "copy").open("w+b") as copy:
        offset = 0
        while count := os.sendfile(copy.fileno(), core.fd, offset, 1 << 20):
            offset += count
        copy.seek(0)
        assert copy.read() == core.data


def test_splice_gives_the_same_bytes(core: Core) -> None:
    out, into = os.pipe()
    pieces = []
    offset = 0
    try:
        while count := os.splice(core.fd, into, 1 << 16, offset_src=offset):
            offset += count
            pieces.append(os.read(out, count))
    finally:
        os.close(out)
        os.close(into)
    assert b"".join(pieces) == core.data


def test_a_private_mapping_shows_the_same_bytes_and_holds(mount: Mount, core: Core) -> None:
    with opened(core.path) as fd:
        mapping = mmap.mmap(fd, len(core.data), flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    try:
        assert mapping[:] == core.data
    finally:
        mapping.close()


def test_a_mapping_holds_the_process_after_close(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    target = spawn("threads", 1)
    with opened(mount / target.pid) as fd:
        data = whole(fd)
        mapping = mmap.mmap(fd, len(data), flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        # Python duplicates the descriptor; the mapping alone must keep the process held (mmap(2)).
    assert is_held(target.pid)
    assert mapping[:] == data
    assert is_held(target.pid)
    mapping.close()
    eventually(lambda: is_free(target.pid))


def test_a_shared_mapping_is_refused(core: Core) -> None:
    with pytest.raises(OSError) as caught:
        mmap.mmap(core.fd, PAGE, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    assert caught.value.errno == errno.ENODEV


def test_two_opens_share_one_stop_and_the_last_close_lets_go(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    target = spawn("threads", 3)
    with opened(mount / target.pid) as first:
        data = whole(first)
        with opened(mount / target.pid) as second:
            assert os.fstat(first).st_ino == os.fstat(second).st_ino
            assert whole(second) == data
        assert is_held(target.pid)
        assert whole(first) == data
    eventually(lambda: is_free(target.pid))
    eventually(lambda: stops(mount, target.pid) == 1)


def test_every_open_after_a_close_is_a_new_stop(mount: Mount, spawn: Callable[..., Target]) -> None:
    target = spawn("threads", 1)
    for number in (1, 2, 3):
        with opened(mount / target.pid) as fd:
            os.read(fd, 1)
        eventually(partial(has_stopped, mount, target.pid, number))
        assert is_free(target.pid)


def test_a_duplicate_holds_until_it_is_closed(mount: Mount, spawn: Callable[..., Target]) -> None:
    target = spawn("threads", 1)
    with opened(mount / target.pid) as fd:
        os.read(fd, 1)
        other = os.dup(fd)
    assert is_held(target.pid)
    assert os.pread(other, 4, 0) == b"\x7fELF"
    os.close(other)
    eventually(lambda: is_free(target.pid))


def test_a_descriptor_in_another_process_holds_until_that_ends(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    target = spawn("threads", 1)
    with opened(mount / target.pid) as fd:
        os.read(fd, 1)
        child = subprocess.Popen(["sleep", "1000"], pass_fds=[fd])
    assert is_held(target.pid)
    child.kill()
    child.wait(timeout=20)
    eventually(lambda: is_free(target.pid))


def test_a_reader_that_is_killed_lets_go(mount: Mount, spawn: Callable[..., Target]) -> None:
    target = spawn("threads", 1)
    script = 'exec 3< "$1"; head -c 1 <&3 > /dev/null; kill -STOP $$'
    reader = subprocess.Popen(["bash", "-c", script, "-", mount / target.pid])
    os.waitpid(reader.pid, os.WUNTRACED)
    assert is_held(target.pid)
    reader.send_signal(signal.SIGKILL)
    reader.wait(timeout=20)
    eventually(lambda: is_free(target.pid))


def test_a_file_that_is_closed_unread_lets_go(mount: Mount, spawn: Callable[..., Target]) -> None:
    target = spawn("threads", 20)
    for _ in range(5):
        with opened(mount / target.pid):
            pass
    eventually(lambda: is_free(target.pid))
    assert target.ask("ping") == {"pong": 1}


def test_a_busy_process_stands_still_while_open_and_is_unhurt_after(
    mount: Mount, spawn: Callable[..., Target]
) -> None:
    target = spawn("counter")
    before = target.ask("report")
    with opened(mount / target.pid) as fd:
        first = sha256(whole(fd)).digest()
        assert is_held(target.pid)
        assert sha256(whole(fd)).digest() == first
    eventually(lambda: is_free(target.pid))
    after = target.ask("report")
    assert after["errors"] == before["errors"] == 0
    assert after["epoll_eintr"] == 0
    assert after["iterations"] > before["iterations"]


def test_opens_and_closes_of_many_at_once_all_succeed(
    spawn: Callable[..., Target], mount: Mount
) -> None:
    target = spawn("threads", 3)
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            os._exit(open_again_and_again(mount / target.pid))
        children.append(child)
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert target.ask("ping") == {"pong": 1}


def open_again_and_again(path: Path) -> int:
    """The errno of the first open or read that fails; 0 if none does."""
    for _ in range(100):
        try:
            fd = os.open(path, os.O_RDONLY)
            os.read(fd, 64)
            os.close(fd)
        except OSError as error:
            return error.errno or -1
    return 0
