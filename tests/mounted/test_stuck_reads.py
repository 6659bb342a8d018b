"""A read that cannot end gives its reader an EIO, and affects nobody else."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from gcorefs.kernel.proc import task_stat, tasks
from gcorefs.sources.procfs import maps
from gcorefs.tuning import Tuning
from tests.conftest import Mount, SharedMount, Target, wait_until_gone
from tests.mounted.conftest import (
    assert_refused,
    end,
    errno_of,
    eventually,
    gcorefs,
    is_free,
    is_held,
    opened,
    run,
    sleeping_in,
    stops,
    whole,
)
from tests.tuned import program
from tests.workloads.hanging import PAGE, PAGES, content

SERVER = Path(__file__).parents[1] / "workloads" / "hanging.py"
READERS = 100
LENGTH = PAGES * PAGE
# Pages that are written or read before the server becomes silent, and that are so far from BAD that
# the kernel does not read BAD ahead with them.
TOUCHED = (0, 512)
BAD = 256
IN_TIME = "could not be read in time"


class Server:
    """tests/workloads/hanging.py, and the ways in which it stops answering."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.path = path
        self.library = path / "library"
        self._target = Target([sys.executable, str(SERVER), str(path)])
        eventually(self.library.exists)

    def silent(self) -> None:
        assert self._target.ask("hush") == {"hushed": 1}

    def hold(self) -> None:
        assert self._target.ask("hold") == {"held": 1}

    def closing(self) -> int:
        """How many closes of files have no answer yet."""
        return int(self._target.ask("closing")["closing"])

    def let(self) -> int:
        """Answer the closes of files that have no answer yet.  Returns how many they were."""
        return int(self._target.ask("let")["let"])

    def stopped(self) -> None:
        self._target.popen.send_signal(signal.SIGSTOP)
        eventually(lambda: task_stat.stat(self._target.pid).state == "T")

    def dead(self) -> None:
        self._target.kill()

    def end(self) -> None:
        self._target.kill()
        subprocess.run(["umount", "--lazy", self.path], check=True)


@pytest.fixture(scope="module")
def impatient() -> Iterator[Path]:
    """The command line.  Ten seconds for each read that cannot end are more than a test needs."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield program(Path(folder), Tuning(read_timeout=2.0))


@pytest.fixture(scope="module")
def shared_mount(impatient: Path) -> Iterator[SharedMount]:
    shared = SharedMount(impatient.parent, impatient)
    yield shared
    shared.end()


@pytest.fixture
def unmounted(unmounted: Mount, impatient: Path) -> Mount:
    unmounted.program = impatient
    return unmounted


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "hanging")
    yield server
    server.end()


def segment(fd: int, start: int) -> tuple[int, int]:
    """p_offset and p_filesz of the mapping at `start`."""
    with open(fd, "rb", buffering=0, closefd=False) as file:
        file.seek(0)
        segments = list(ELFFile(file).iter_segments())
    return next((s["p_offset"], s["p_filesz"]) for s in segments if s["p_vaddr"] == start)


def word(number: int) -> bytes:
    return number.to_bytes(8, "little")


def address_of(answer: dict[str, Any], page: int = 0) -> int:
    return int(answer["start"], 16) + page * PAGE


def in_a_child(call: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        os._exit(errno_of(call))
    return child


def read_in_a_child(fd: int, offset: int) -> int:
    return in_a_child(lambda: os.pread(fd, 8, offset))


def status_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def is_stuck(server: int) -> bool:
    """True if a thread of the server waits for a page."""
    return "folio_wait_bit_common" in sleeping_in(server)


def test_a_page_whose_handler_is_stopped_is_an_error(
    spawn: Callable[..., Target], mount: Mount
) -> None:
    target, other = spawn("uffd"), spawn("threads", 1)
    mount.expect(f"process {target.pid}: its memory {IN_TIME}")
    with opened(mount / target.pid) as fd, opened(mount / other.pid) as other_fd:
        start = int(target.truth["start"], 16)
        offset, _ = segment(fd, start)
        readers = [read_in_a_child(fd, offset + PAGE) for _ in range(READERS)]
        # While that one waits: the same process, and another process.
        for _ in range(100):
            assert os.pread(fd, 4, 0) == b"\x7fELF"
            assert os.pread(fd, 8, offset) == word(start)
            assert os.pread(other_fd, 4, os.fstat(other_fd).st_size - PAGE)
            assert os.stat(mount / other.pid).st_size > 0
        for reader in readers:
            assert status_of(reader) == errno.EIO
        assert os.pread(fd, 4, 0) == b"\x7fELF"
        assert os.pread(fd, 8, offset) == word(start)
    eventually(lambda: is_free(target.pid))
    for page in range(target.truth["pages"]):
        assert int(target.ask(f"touch {page}")["word"], 16) == start + page * PAGE


def test_a_read_that_is_not_answered_yet_is_activity(
    spawn: Callable[..., Target], mount_with: Callable[..., Mount]
) -> None:
    mount = mount_with("idle_timeout=1")  # less than such a read may take
    target = spawn("uffd")
    mount.expect(f"process {target.pid}: its memory {IN_TIME}")
    idle = f"process {target.pid}: let go, its file was not read for 1 s"
    mount.allow(idle)
    with opened(mount / target.pid) as fd:
        offset, _ = segment(fd, int(target.truth["start"], 16))
        assert errno_of(lambda: os.pread(fd, 8, offset + PAGE)) == errno.EIO
        eventually(lambda: bool(mount.warnings()))
        assert IN_TIME in mount.warnings()[0]


def test_a_process_whose_mmap_lock_is_never_free_delays_only_its_own_readers(
    spawn: Callable[..., Target], mount: Mount, server: Server
) -> None:
    """A read of /proc/PID/mem holds it while a page is supplied.  A write to clear_refs waits for
    that read, and everybody else waits for the write."""
    target, other = spawn("mapper"), spawn("threads", 1)
    hanging = address_of(target.ask(f"map {server.library} {LENGTH} 0"))
    with maps(target.pid) as text:
        lines = text.splitlines()
    start = next(int(line.split(b"-")[0], 16) for line in lines if line.endswith(b"[heap]"))
    target.ask(f"poke {start:x}")
    mount.expect(f"process {target.pid}: its memory {IN_TIME}")
    with (
        opened(mount / target.pid) as fd,
        opened(mount / other.pid) as other_fd,
        opened(Path(f"/proc/{target.pid}/mem")) as memory,
        opened(Path(f"/proc/{target.pid}/clear_refs"), os.O_WRONLY) as references,
    ):
        offset, _ = segment(fd, start)
        server.silent()
        holder = in_a_child(lambda: os.pread(memory, 8, hanging + BAD * PAGE))
        eventually(lambda: task_stat.stat(holder).state == "D")
        waiter = in_a_child(lambda: os.write(references, b"1"))
        eventually(lambda: task_stat.stat(waiter).state == "D")
        readers = [read_in_a_child(fd, offset) for _ in range(READERS)]
        for _ in range(100):
            assert os.pread(fd, 4, 0) == b"\x7fELF"
            assert os.pread(other_fd, 4, os.fstat(other_fd).st_size - PAGE)
            assert os.stat(mount / other.pid).st_size > 0
        assert [status_of(reader) for reader in readers] == [errno.EIO] * READERS
        server.dead()
        assert (status_of(holder), status_of(waiter)) == (errno.EIO, 0)
        assert os.pread(fd, 8, offset) == word(start)
    eventually(lambda: is_free(target.pid))


@pytest.mark.parametrize("silence", [Server.silent, Server.stopped, Server.dead])
def test_an_elf_header_that_nobody_supplies_is_left_out(
    spawn: Callable[..., Target],
    mount: Mount,
    server: Server,
    silence: Callable[[Server], None],
    impatient: Path,
    tmp_path: Path,
) -> None:
    """The kernel would look at the first page of each mapped file; the rest of the core is made."""
    target = spawn("mapper")
    starts = [address_of(target.ask(f"map {server.library} {LENGTH} 0")) for _ in range(3)]
    silence(server)
    with opened(mount / target.pid) as fd:
        assert [segment(fd, start)[1] for start in starts] == [0, 0, 0]
        assert len(whole(fd)) == os.fstat(fd).st_size
    eventually(lambda: stops(mount, target.pid) == 1)
    assert mount.log.read_text().count("3 pages unreadable") == 1
    result = run(impatient, "dump", target.pid, "-o", tmp_path / "core")
    assert (result.returncode, result.stderr) == (0, b"3 pages could not be read and are zeros\n")
    assert is_free(target.pid)
    assert target.ask("map /dev/zero 4096 0")


@pytest.fixture(params=["private", "shared"])
def half_there(
    request: pytest.FixtureRequest, spawn: Callable[..., Target], server: Server
) -> tuple[Target, int]:
    """A target whose core has a whole mapping, although only TOUCHED of the file is in memory."""
    target = spawn("mapper")
    shared = request.param == "shared"
    start = address_of(target.ask(f"map {server.library} {LENGTH} {int(shared)}"))
    Path(f"/proc/{target.pid}/coredump_filter").write_text("0x7b")
    for page in TOUCHED:
        target.ask(f"{'peek' if shared else 'poke'} {start + page * PAGE:x}")
    return target, start


def assert_touched_are_there(fd: int, start: int) -> None:
    offset, size = segment(fd, start)
    assert size == LENGTH
    for page in TOUCHED:
        data = os.pread(fd, PAGE, offset + page * PAGE)
        assert data[8:] == content(page)[8:]
        assert data[:8] in (content(page)[:8], word(start + page * PAGE))


@pytest.mark.parametrize("silence", [Server.silent, Server.stopped])
def test_a_page_that_nobody_supplies_is_an_error_of_one_reader(
    spawn: Callable[..., Target],
    mount: Mount,
    server: Server,
    half_there: tuple[Target, int],
    silence: Callable[[Server], None],
    impatient: Path,
    tmp_path: Path,
) -> None:
    target, start = half_there
    other = spawn("threads", 1)
    silence(server)
    mount.expect(f"process {target.pid}: its memory {IN_TIME}")
    with opened(mount / target.pid) as fd, opened(mount / other.pid) as other_fd:
        offset, _ = segment(fd, start)
        readers = [read_in_a_child(fd, offset + BAD * PAGE) for _ in range(READERS)]
        eventually(lambda: is_stuck(mount.server))
        for _ in range(100):
            assert_touched_are_there(fd, start)
            assert os.pread(other_fd, 4, os.fstat(other_fd).st_size - PAGE)
        for reader in readers:
            assert status_of(reader) == errno.EIO
        assert_touched_are_there(fd, start)
    eventually(lambda: is_free(target.pid))
    # Threads of the server still wait for the page, but the process can map and be dumped.
    assert target.ask("map /dev/zero 4096 0")
    assert_refused(run(impatient, "dump", target.pid, "-o", tmp_path / "core"), IN_TIME)
    assert not (tmp_path / "core").exists()
    assert is_free(target.pid)


def test_a_page_whose_server_is_dead_is_zeros(
    mount: Mount, server: Server, half_there: tuple[Target, int]
) -> None:
    """SIGBUS for the process, a hole in the kernel's own core; counted."""
    target, start = half_there
    server.dead()
    with opened(mount / target.pid) as fd:
        assert_touched_are_there(fd, start)
        offset, _ = segment(fd, start)
        assert os.pread(fd, PAGE, offset + BAD * PAGE) == bytes(PAGE)
    eventually(lambda: "1 pages unreadable" in mount.log.read_text())


def test_a_reader_that_goes_forward_loses_that_page_alone(
    mount: Mount, server: Server, half_there: tuple[Target, int]
) -> None:
    target, start = half_there
    silence_from = BAD
    # All pages but the bad one are in memory.  The kernel reads ahead in the file, and so BAD too,
    # unless BAD is dropped again: so all pages from BAD on are silent.
    for page in range(0, silence_from - 64, 16):
        target.ask(f"peek {start + page * PAGE:x}")
    server.silent()
    mount.expect(f"process {target.pid}: its memory {IN_TIME}")
    with opened(mount / target.pid) as fd:
        offset, _ = segment(fd, start)
        for page in range(silence_from - 64):
            assert os.pread(fd, PAGE, offset + page * PAGE)[8:] == content(page)[8:], page
        assert errno_of(lambda: os.pread(fd, PAGE, offset + BAD * PAGE)) == errno.EIO
        assert_touched_are_there(fd, start)


def test_sendfile_fails_there_and_does_not_end(
    mount: Mount, server: Server, half_there: tuple[Target, int]
) -> None:
    """It reads through the page cache, where a short reply would be the end of the file."""
    target, start = half_there
    server.silent()
    mount.expect(f"process {target.pid}: its memory {IN_TIME}")
    with opened(mount / target.pid) as fd, open(os.devnull, "wb") as sink:
        offset, _ = segment(fd, start)
        size = os.fstat(fd).st_size

        def send() -> None:
            at = offset
            while at < size and (count := os.sendfile(sink.fileno(), fd, at, 1 << 20)):
                at += count

        assert errno_of(send) == errno.EIO


def test_a_thread_that_waits_for_such_a_page_delays_nobody(
    mount: Mount, server: Server, half_there: tuple[Target, int], impatient: Path, tmp_path: Path
) -> None:
    target, start = half_there
    server.silent()
    mount.expect(f"process {target.pid}: its memory {IN_TIME}")
    tid = target.ask(f"wait {start + BAD * PAGE:x}")["tid"]
    eventually(lambda: task_stat.stat(target.pid, tid).state == "D")
    with opened(mount / target.pid) as fd:
        assert_touched_are_there(fd, start)
        assert task_stat.stat(target.pid, target.pid).state == "t"
        offset, _ = segment(fd, start)
        assert errno_of(lambda: os.pread(fd, 8, offset + BAD * PAGE)) == errno.EIO
        assert_touched_are_there(fd, start)
    eventually(lambda: is_free(target.pid))
    assert target.ask("map /dev/zero 4096 0")  # takes mmap_lock
    eventually(lambda: "2 threads (1 did not stop)" in mount.log.read_text())
    assert_refused(run(impatient, "dump", target.pid, "-o", tmp_path / "core"), IN_TIME)
    assert is_free(target.pid)
    assert target.ask("map /dev/zero 4096 0")


def test_a_page_that_may_not_be_read_is_not_forced_out_of_its_server(
    mount: Mount, server: Server, half_there: tuple[Target, int]
) -> None:
    """PROT_NONE: only /proc/PID/mem reads it, and waits with the process's mmap_lock held."""
    target, start = half_there
    target.ask(f"hide {start:x} {LENGTH}")
    server.silent()
    with opened(mount / target.pid) as fd:
        assert_touched_are_there(fd, start)
        offset, _ = segment(fd, start)
        assert os.pread(fd, PAGE, offset + BAD * PAGE) == bytes(PAGE)
    eventually(lambda: is_free(target.pid))
    assert target.ask("map /dev/zero 4096 0")
    eventually(lambda: "1 pages unreadable" in mount.log.read_text())


@pytest.mark.parametrize("how", ["umount", "SIGTERM"])
def test_the_server_ends_although_a_thread_of_it_waits(
    unmounted: Mount, server: Server, half_there: tuple[Target, int], how: str
) -> None:
    target, start = half_there
    server.silent()
    unmounted.make()
    daemon = unmounted.server
    try:
        unmounted.expect(f"process {target.pid}: its memory {IN_TIME}")
        with opened(unmounted / target.pid) as fd:
            offset, _ = segment(fd, start)
            assert errno_of(lambda: os.pread(fd, 8, offset + BAD * PAGE)) == errno.EIO
            assert is_stuck(daemon)
            if how == "SIGTERM":
                os.kill(daemon, signal.SIGTERM)
                wait_until_gone(daemon)
        if how == "umount":
            eventually(lambda: is_free(target.pid))
            assert is_stuck(daemon)
            assert gcorefs("umount", unmounted.path).returncode == 0
            wait_until_gone(daemon)
        assert is_free(target.pid)
    finally:
        end(daemon)


# The file that hangs is one of this mount.


def test_a_process_may_map_a_file_of_this_very_mount(
    spawn: Callable[..., Target], mount: Mount, impatient: Path, tmp_path: Path
) -> None:
    target, other = spawn("mapper"), spawn("threads", 3)
    with opened(mount / other.pid) as other_fd:
        expected = whole(other_fd)
        length = len(expected)
        ask = f"map {mount / other.pid} {length} 0"
        touched, untouched, written = (address_of(target.ask(ask)) for _ in range(3))
        target.ask(f"peek {touched:x}")
        last = written + length - PAGE
        target.ask(f"poke {last:x}")
        with opened(mount / target.pid) as fd:
            for start in (touched, untouched):
                offset, size = segment(fd, start)
                assert size == PAGE  # it begins as every ELF file
                assert os.pread(fd, size, offset) == expected[:PAGE]
            offset, size = segment(fd, written)
            assert size == length
            data = b"".join(os.pread(fd, PAGE, offset + at) for at in range(0, size, PAGE))
            assert data[:-PAGE] == expected[:-PAGE]
            assert data[-PAGE : -PAGE + 8] == word(last)
        eventually(lambda: is_free(target.pid))
        assert run(impatient, "dump", target.pid, "-o", tmp_path / "core").returncode == 0
        assert is_held(other.pid)
    # The mappings keep it held: they count as open files.
    assert is_held(other.pid)
    target.kill()
    eventually(lambda: is_free(other.pid))


def test_a_process_may_map_a_file_of_this_mount_that_is_not_ready(
    spawn: Callable[..., Target], mount_with: Callable[..., Mount], impatient: Path, tmp_path: Path
) -> None:
    mount = mount_with("stop_timeout=60")
    target, other = spawn("mapper"), spawn("vforker")  # not ready before its child ends
    start = address_of(target.ask(f"map {mount / other.pid} {PAGE} 0"))
    tid = target.ask(f"read {mount / other.pid}")["tid"]
    wchan = Path(f"/proc/{tid}/wchan")
    with opened(mount / target.pid, os.O_RDONLY | os.O_NONBLOCK):
        eventually(lambda: task_stat.stat(target.pid).state == "t")
    eventually(lambda: is_free(target.pid))
    assert wchan.read_text() == "request_wait_answer"
    # stop_timeout=60 is the mount's; this command waits for a thread at most a second.
    result = run(impatient, "dump", target.pid, "-o", tmp_path / "core")
    assert (result.returncode, result.stderr) == (0, b"1 pages could not be read and are zeros\n")
    with (tmp_path / "core").open("rb") as core:
        assert segment(core.fileno(), start)[1] == 0
    assert is_free(target.pid)
    # It is ready now, and the reader has its byte.  The mapping still holds the other one.
    os.kill(other.truth["child_pid"], signal.SIGKILL)
    eventually(lambda: tid not in tasks.tids(target.pid))
    assert target.ask(f"peek {start:x}")["word"].endswith("464c457f")
    target.kill()
    eventually(lambda: is_free(other.pid))


def test_a_process_may_map_its_own_file(
    spawn: Callable[..., Target], mount: Mount, tmp_path: Path
) -> None:
    """Another process opened the file, and passes it on after the process was let go."""
    target = spawn("mapper")
    with opened(mount / target.pid) as fd:
        header = os.pread(fd, PAGE, 0)
        length = os.fstat(fd).st_size
        assert gcorefs("release", target.pid, "--mount", mount.path).returncode == 0
        eventually(lambda: is_free(target.pid))
        starts = [address_of(target.ask(f"take {os.getpid()} {fd} {length}")) for _ in range(2)]
    written, untouched = starts
    target.ask(f"poke {written:x}")
    mount.expect(f"process {target.pid}: the process was let go")
    with opened(mount / target.pid) as fd:
        offset, size = segment(fd, untouched)
        assert os.pread(fd, size, offset) == header
        offset, size = segment(fd, written)
        assert size == length
        data = os.pread(fd, PAGE, offset)
        assert (data[:8], data[8:]) == (word(written), header[8:])
        # Its memory is no longer that of the old stop: SIGBUS for itself, a hole in the core.
        assert os.pread(fd, PAGE, offset + length - PAGE) == bytes(PAGE)
    eventually(lambda: is_free(target.pid))
    # Each page asks the mount, and nothing hangs: not the impatient command.
    assert gcorefs("dump", target.pid, "-o", tmp_path / "core").returncode == 0
    assert target.ask(f"peek {untouched:x}") == {
        "word": f"0x{int.from_bytes(header[:8], 'little'):x}"
    }
    target.kill()  # its mappings count as open files
