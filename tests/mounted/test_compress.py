"""`gcorefs dump --compress zstd` and `gcorefs cat`: the same core, or any part of it."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcorefs.export.compressed import FRAME
from tests.conftest import GCOREFS, Target, text_of, wait_until_asleep
from tests.mounted.conftest import (
    assert_refused,
    eventually,
    gcorefs,
    is_free,
    is_held,
    note_of,
    run,
)
from tests.mounted.test_dump import without_times
from tests.mounted.test_sink_errors import THREADS, assert_told

ZSTD = ("--compress", "zstd")


@pytest.fixture
def target(spawn: Callable[..., Target], monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    """It sleeps, and each of its cores is the same but for times."""
    # Without this, the kernel writes the current processor into each thread's memory (rseq(2)).
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.pthread.rseq=0")
    target = spawn("threads", 3)
    wait_until_asleep(target.pid)
    yield target
    assert is_free(target.pid)
    assert target.ask("ping") == {"pong": 1}


def unpacked(file: Path) -> bytes:
    """What zstd(1) makes of it."""
    done = run("zstd", "-dc", file)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


@pytest.mark.parametrize("words", [(), ("--level", "19"), ("--hold", "copy")])
def test_zstd_has_the_same_core(target: Target, tmp_path: Path, words: tuple[str, ...]) -> None:
    plain = gcorefs("dump", target.pid, "-o", tmp_path / "core")
    done = gcorefs("dump", target.pid, *ZSTD, *words, "-o", tmp_path / "core.zst")
    for each in (plain, done):
        assert (each.returncode, each.stdout, each.stderr) == (0, b"", b"")
    data = (tmp_path / "core").read_bytes()
    if "copy" not in words:  # the note says how it was held
        assert without_times(unpacked(tmp_path / "core.zst")) == without_times(data)
    assert run("zstd", "-t", tmp_path / "core.zst").returncode == 0
    assert oct((tmp_path / "core.zst").stat().st_mode) == "0o100600"
    assert (tmp_path / "core.zst").stat().st_size < len(data) // 2


@pytest.mark.parametrize("words", [[], ["-o", "-"]])
def test_a_pipe_gets_the_same(target: Target, tmp_path: Path, words: list[str]) -> None:
    done = gcorefs("dump", target.pid, *ZSTD, *words)
    assert (done.returncode, done.stderr) == (0, b"")
    (tmp_path / "core.zst").write_bytes(done.stdout)
    plain = gcorefs("dump", target.pid).stdout
    assert without_times(unpacked(tmp_path / "core.zst")) == without_times(plain)


@pytest.mark.parametrize("together", [[], ["--together"]])
def test_several_cores_are_compressed(
    spawn: Callable[..., Target], tmp_path: Path, together: list[str]
) -> None:
    pids = [spawn("threads", 2).pid for _ in range(3)]
    done = gcorefs("dump", *pids, *together, *ZSTD, "-o", tmp_path / "x")
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted(os.listdir(tmp_path)) == sorted(f"x.{pid}.zst" for pid in pids)
    for pid in pids:
        assert note_of(unpacked(tmp_path / f"x.{pid}.zst"))["pid"] == pid


@pytest.fixture
def core(spawn: Callable[..., Target], tmp_path: Path) -> tuple[Path, bytes]:
    """A compressed core of several frames, and its content."""
    file = tmp_path / "core.zst"
    target = spawn("memory", tmp_path)
    assert gcorefs("dump", target.pid, "--policy", "@all", *ZSTD, "-o", file).returncode == 0
    data = unpacked(file)
    assert len(data) > 3 * FRAME
    return file, data


def test_cat_has_any_part(core: tuple[Path, bytes]) -> None:
    file, data = core
    parts: list[tuple[list[object], bytes]] = [
        ([], data),
        (["--length", 4], b"\x7fELF"),
        (["--offset", FRAME - 3, "--length", 6], data[FRAME - 3 : FRAME + 3]),
        (["--offset", hex(2 * FRAME), "--length", "0x1000"], data[2 * FRAME :][:4096]),
        (["--offset", len(data) - 10, "--length", 99], data[-10:]),
        (["--offset", len(data)], b""),
        (["--length", 0], b""),
    ]
    for words, expected in parts:
        done = gcorefs("cat", file, *words)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == expected, words


def test_cat_reads_no_more_than_it_needs(core: tuple[Path, bytes]) -> None:
    file, data = core
    trace = file.with_name("trace")
    words = ["strace", "-o", trace, "-P", file, "-e", "trace=pread64"]
    done = run(*words, GCOREFS, "cat", file, "--offset", 2 * FRAME, "--length", 1)
    assert done.stdout == data[2 * FRAME :][:1]
    counts = [int(line.split()[-1]) for line in trace.read_text().splitlines() if "pread64" in line]
    assert 0 < sum(counts) < file.stat().st_size // 2


def test_what_cat_cannot_read_is_one_line(
    core: tuple[Path, bytes], tmp_path: Path, target: Target
) -> None:
    file, data = core
    plain, cut = tmp_path / "core", tmp_path / "cut.zst"
    plain.write_bytes(data)
    cut.write_bytes(file.read_bytes()[:-1000])
    refusals = {
        plain: f"Error: {plain}: it has no seek table; it is a core that is not compressed",
        cut: f"Error: {cut}: it has no seek table; it was cut short, or another program ",
        tmp_path / "missing": f"Error: {tmp_path}/missing: No such file or directory",
        tmp_path: f"Error: {tmp_path}: it is no regular file",
        Path("/dev/zero"): "Error: /dev/zero: it is no regular file",
    }
    for path, text in refusals.items():
        done = gcorefs("cat", path)
        assert_refused(done, text)
        assert done.stdout == b""
    beyond = gcorefs("cat", file, "--offset", len(data) + 1)
    assert_refused(beyond, f"{file}: its content has only {len(data)} bytes")


def test_info_tells_of_the_content(core: tuple[Path, bytes]) -> None:
    file, data = core
    plain = file.with_name("plain")
    plain.write_bytes(data)
    expected, found = (gcorefs("info", path, "--json") for path in (plain, file))
    assert (found.returncode, found.stderr) == (0, b"")
    assert found.stdout == expected.stdout
    file.write_bytes(file.read_bytes()[:-1])
    assert_refused(gcorefs("info", file), f"Error: {file}: it has no seek table; it was cut short")


def test_a_damaged_frame_is_not_shown(core: tuple[Path, bytes]) -> None:
    file, data = core
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 3] ^= 0xFF
    file.write_bytes(damaged)
    done = gcorefs("cat", file)
    assert_refused(done, f"Error: {file}: the frame at 0x", " is damaged: ")
    assert data.startswith(done.stdout)
    assert len(done.stdout) % FRAME == 0


@pytest.mark.parametrize("number", ["-1", "x", "", "0x", "1.5", "9" * 30])
def test_a_wrong_number_is_told(number: str, tmp_path: Path) -> None:
    done = gcorefs("cat", tmp_path / "core", f"--offset={number}")
    assert done.returncode == 2
    last = done.stderr.decode().splitlines()[-1]
    assert last.endswith(f"{number!r} is no number of bytes, such as 4096 or 0x1000")


def test_the_output_of_cat_has_errors(core: tuple[Path, bytes]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            text_of([GCOREFS, "cat", core[0]]),
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert_told(done, "standard output", errno.ENOSPC)


# The sink's errors are told as they are without compression.


@pytest.mark.parametrize("words", [["-o", "/dev/full"], ["-o", "-"]])
def test_a_full_device_is_told(target: Target, words: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            text_of([GCOREFS, "dump", target.pid, *ZSTD, *words]),
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert is_free(target.pid)
    name = "/dev/full" if "/dev/full" in words else "standard output"
    assert_told(done, name, errno.ENOSPC)


def noisy(size: int) -> "subprocess.Popen[bytes]":
    """A process with so many bytes that no compressor makes smaller."""
    program = f"import os, time\nx = os.urandom({size})\nprint(flush=True)\ntime.sleep(1000)"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.fixture
def noise() -> Iterator[int]:
    process = noisy(16 * FRAME)
    yield process.pid
    assert is_free(process.pid)
    process.kill()
    process.communicate()


def test_of_a_full_disk_nothing_is_left(noise: int, tmpfs: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=4m", tmpfs], check=True)
    (tmpfs / "core").write_bytes(b"old")
    done = gcorefs("dump", noise, *ZSTD, "-o", tmpfs / "core")
    assert_told(done, tmpfs / "core", errno.ENOSPC)
    assert os.listdir(tmpfs) == ["core"]
    assert (tmpfs / "core").read_bytes() == b"old"


def test_a_closed_pipe_is_told(noise: int) -> None:
    script = '"$1" dump "$2" --compress zstd | head -c 1 > /dev/null; echo "${PIPESTATUS[0]}"'
    done = run("bash", "-c", script, "-", GCOREFS, noise)
    assert done.stdout == b"1\n"
    assert done.stderr.startswith(b"Error: standard output: Broken pipe; look why ")


@pytest.mark.parametrize("hold", ["stop", "copy", "fork"])
def test_a_copy_is_compressed_after_the_process_is_let_go(noise: int, hold: str) -> None:
    """The reader takes its first bytes, and no more: the pipe is full then."""
    command = [GCOREFS, "dump", noise, "--hold", hold, *ZSTD]
    with subprocess.Popen(text_of(command), stdout=subprocess.PIPE) as dumper:
        assert dumper.stdout is not None
        first = os.read(dumper.stdout.fileno(), 4)
        eventually(lambda: (is_held if hold == "stop" else is_free)(noise))
        assert dumper.poll() is None
        rest = dumper.stdout.read()
    assert dumper.returncode == 0
    done = run("zstd", "-t", input=first + rest)
    assert (done.returncode, len(rest) > 16 * FRAME) == (0, True)


def test_a_signal_ends_it_in_good_order(noise: int, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    command = [GCOREFS, "dump", noise, *ZSTD, "-o", tmp_path / "fifo"]
    with subprocess.Popen(text_of(command), stderr=subprocess.PIPE) as dumper:
        with open(tmp_path / "fifo", "rb", buffering=0) as fifo:
            assert fifo.read(4) == b"\x28\xb5\x2f\xfd"
            assert is_held(noise)
            dumper.terminate()
            eventually(lambda: is_free(noise))
        _, said = dumper.communicate(timeout=60)
    assert (dumper.returncode, said) == (143, b"")


@pytest.mark.parametrize("output", ["core", "/dev/full"])
def test_the_threads_end_before_the_command(target: Target, tmp_path: Path, output: str) -> None:
    words = ["dump", target.pid, *ZSTD, "-o", output]
    done = run(sys.executable, "-c", THREADS, *words, cwd=tmp_path)
    assert done.stdout.decode().splitlines()[-1] == "[]"


def test_a_level_without_a_compressor_is_refused(target: Target) -> None:
    for words in (["--level", "3"], ["--level", "0", *ZSTD], ["--compress", "lz4"]):
        done = gcorefs("dump", target.pid, *words)
        assert (done.returncode, done.stdout) == (2, b"")
        assert len(done.stderr.decode().splitlines()[-1]) > len("Error: ")
