"""`gcorefs dump --to`: object stores, and the place where coredumpctl looks."""

import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import zstandard

from gcorefs.elfcore.corefile import read_core
from tests.conftest import GCOREFS, Target
from tests.mounted.azure import AzureServer, azure_storage
from tests.mounted.conftest import eventually, gcorefs, is_free, run
from tests.mounted.google import google_storage
from tests.mounted.journald import Journal, journald
from tests.mounted.objects import BUCKET, ObjectServer, object_server
from tests.tuned import program

Spawn = Callable[..., Target]

STAMP = r"\d{8}T\d{6}Z"


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    with tempfile.TemporaryDirectory() as folder, object_server(Path(folder)) as server:
        yield server


def dump(server: ObjectServer, *words: object) -> "subprocess.CompletedProcess[bytes]":
    return gcorefs("dump", *words, env=os.environ | server.environment)


def unpacked(data: bytes) -> bytes:
    stream = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
    return stream.read()


def test_a_core_becomes_an_object(server: ObjectServer, spawn: Spawn) -> None:
    target = spawn("bulk", 20)
    result = dump(server, target.pid, "--to", f"{server.url}/a/core")
    assert result.returncode == 0, result.stderr
    data = server.read("a/core")
    match = re.fullmatch(
        rf"{server.url}/a/core: \d threads, stopped for \d+\.\d ms, (\d+) bytes\n",
        result.stdout.decode(),
    )
    assert match, result.stdout
    assert len(data) == int(match[1]) > 20 << 20  # more than one part
    core = read_core(io.BytesIO(data))
    assert core.missing == 0
    assert core.facts is not None
    assert core.facts["policy"]["hold"] == "copy"
    assert server.uploads() == []


def test_a_folder_gets_a_name_that_no_other_host_has(server: ObjectServer, spawn: Spawn) -> None:
    target = spawn("threads", 2)
    result = dump(server, target.pid, "--to", f"{server.url}/b/", "--compress", "zstd")
    assert result.returncode == 0, result.stderr
    (name,) = [each for each in server.names() if each.startswith("b/")]
    host = re.escape(re.sub(r"[^A-Za-z0-9.-]", "_", os.uname().nodename))
    assert re.fullmatch(rf"b/core\.{host}\.{target.pid}\.{STAMP}\.zst", name)
    assert read_core(io.BytesIO(unpacked(server.read(name)))).threads == 3


def test_several_processes_have_an_object_each(server: ObjectServer, spawn: Spawn) -> None:
    targets = [spawn("threads", 1), spawn("threads", 2)]
    pids = [each.pid for each in targets]
    result = dump(server, *pids, "--together", "--to", f"{server.url}/c/")
    assert result.returncode == 0, result.stderr
    names = [each for each in server.names() if each.startswith("c/")]
    found = {read_core(io.BytesIO(server.read(name))).threads for name in names}
    assert found == {2, 3}
    assert server.uploads() == []


def test_a_bundle_becomes_an_object(server: ObjectServer, spawn: Spawn) -> None:
    target = spawn("threads", 1)
    environment = os.environ | server.environment
    result = gcorefs("bundle", target.pid, "--to", f"{server.url}/d.tar.zst", env=environment)
    assert result.returncode == 0, result.stderr
    with tarfile.open(fileobj=io.BytesIO(unpacked(server.read("d.tar.zst")))) as tar:
        assert any(name.endswith("/core") for name in tar.getnames())


def test_a_dump_that_is_ended_leaves_nothing(server: ObjectServer, spawn: Spawn) -> None:
    assert_nothing_is_left(server, spawn, f"{server.url}/e", os.environ | server.environment)


def assert_nothing_is_left(
    server: ObjectServer, spawn: Spawn, url: str, environment: Mapping[str, str]
) -> None:
    target = spawn("bulk", 200)
    words = [GCOREFS, "dump", target.pid, "--to", url, "--hold", "stop"]
    with subprocess.Popen(
        list(map(str, words)), env=environment, stderr=subprocess.PIPE
    ) as process:
        eventually(lambda: bool(server.uploads()) or process.poll() is not None)
        assert process.poll() is None, "it was faster than the test"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert Path(url).name not in server.names()
    assert server.uploads() == []
    eventually(lambda: is_free(target.pid))


@pytest.fixture
def google(server: ObjectServer, tmp_path: Path) -> Iterator[dict[str, str]]:
    with google_storage(server.port, tmp_path) as environment:
        yield os.environ | environment


def test_a_core_becomes_an_object_of_google(
    server: ObjectServer, google: dict[str, str], spawn: Spawn
) -> None:
    target = spawn("bulk", 20)
    result = gcorefs("dump", target.pid, "--to", f"gs://{BUCKET}/g/core", env=google)
    assert result.returncode == 0, result.stderr
    data = server.read("g/core")
    assert len(data) > 20 << 20  # more than one part
    assert read_core(io.BytesIO(data)).missing == 0
    assert server.uploads() == []


def test_a_dump_to_google_that_is_ended_leaves_nothing(
    server: ObjectServer, google: dict[str, str], spawn: Spawn
) -> None:
    assert_nothing_is_left(server, spawn, f"gs://{BUCKET}/h", google)


@pytest.fixture
def azure() -> Iterator[AzureServer]:
    with azure_storage() as server:
        yield server


@pytest.mark.parametrize("suffix", ["", ".zst"])
def test_a_core_becomes_a_blob_of_azure(azure: AzureServer, spawn: Spawn, suffix: str) -> None:
    target = spawn("bulk", 20)
    words = ["--compress", "zstd"] if suffix else []
    environment = os.environ | azure.environment
    result = gcorefs("dump", target.pid, "--to", f"{azure.url}/a b/", *words, env=environment)
    assert result.returncode == 0, result.stderr
    ((name, data),) = azure.blobs.items()
    host = re.escape(re.sub(r"[^A-Za-z0-9.-]", "_", os.uname().nodename))
    assert re.fullmatch(rf"a b/core\.{host}\.{target.pid}\.{STAMP}{re.escape(suffix)}", name)
    assert azure.parts_sent > 1
    core = read_core(io.BytesIO(unpacked(data) if suffix else data))
    assert (core.pid, core.missing) == (target.pid, 0)
    assert azure.blocks == {}


def test_a_dump_to_azure_that_is_ended_leaves_no_blob(azure: AzureServer, spawn: Spawn) -> None:
    """Blocks that no list names stay for a week: Azure has no request that takes them back."""
    target = spawn("bulk", 200)
    words = [GCOREFS, "dump", target.pid, "--to", f"{azure.url}/b", "--hold", "stop"]
    with subprocess.Popen(
        list(map(str, words)), env=os.environ | azure.environment, stderr=subprocess.PIPE
    ) as process:
        eventually(lambda: bool(azure.blocks) or process.poll() is not None)
        assert process.poll() is None, "it was faster than the test"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert azure.blobs == {}
    eventually(lambda: is_free(target.pid))


def test_a_wrong_key_of_azure_is_one_line(azure: AzureServer, spawn: Spawn) -> None:
    target = spawn("threads", 1)
    environment = os.environ | azure.environment | {"AZURE_STORAGE_ACCOUNT_KEY": "d3Jvbmc="}
    result = gcorefs("dump", target.pid, "--to", f"{azure.url}/c", env=environment)
    assert (result.returncode, result.stderr.count(b"\n")) == (1, 1)
    assert b"403" in result.stderr
    assert b"AZURE_STORAGE_ACCOUNT_KEY in the environment" in result.stderr
    assert azure.blobs == {}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "403"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, ""),  # nobody listens there
    ],
)
def test_a_store_that_refuses_is_one_line(
    server: ObjectServer, spawn: Spawn, change: dict[str, str], text: str
) -> None:
    target = spawn("threads", 1)
    environment = os.environ | server.environment | change
    result = gcorefs("dump", target.pid, "--to", f"{server.url}/f", env=environment)
    assert result.returncode == 1
    told = result.stderr.decode()
    assert told.startswith(f"Error: {server.url}/f: ")
    assert told.count("\n") == 1
    assert text in told
    assert "secret" not in told
    assert "f" not in server.names()
    eventually(lambda: is_free(target.pid))


def test_a_file_is_written_as_with_o(spawn: Spawn, tmp_path: Path) -> None:
    target = spawn("threads", 1)
    path = tmp_path / "core"
    result = gcorefs("dump", target.pid, "--to", f"file://{path}")
    assert result.returncode == 0, result.stderr
    assert path.stat().st_mode == 0o100600
    with path.open("rb") as file:
        assert read_core(file).threads == 2
    result = gcorefs("dump", target.pid, target.pid, "--to", f"file://{tmp_path}/")
    assert result.returncode == 0, result.stderr
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--to", "ftp://x/y"], "no such place; there are s3://BUCKET/NAME"),
        (["--to", "s3://"], "no such place"),
        (["--to", "s3://bucket"], "no such place"),
        (["--to", "file://x"], "no such place"),
        (["--to", "coredumpctl"], "no such place"),
        (["--to", "systemd", "-o", "x"], "-o and --to exclude each other"),
    ],
)
def test_a_wrong_place_is_one_line(spawn: Spawn, words: list[str], text: str) -> None:
    target = spawn("threads", 1)
    result = gcorefs("dump", target.pid, *words)
    assert result.returncode == 2
    assert text in result.stderr.decode()
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize("count", [1, 2])
def test_a_name_that_nobody_chose_is_not_followed(spawn: Spawn, tmp_path: Path, count: int) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    targets = [spawn("threads", 1) for _ in range(count)]
    # The name has the time: it is planted for every second that may come.
    folder = tmp_path / "folder"
    folder.mkdir()
    host = re.sub(r"[^A-Za-z0-9.-]", "_", os.uname().nodename)
    now = time.time()
    for second in range(60):
        when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now + second))
        for each in targets:
            (folder / f"core.{host}.{each.pid}.{when}").symlink_to(victim)
    pids = [each.pid for each in targets]
    result = gcorefs("dump", *pids, "--to", f"file://{folder}/")
    assert result.returncode == 1
    assert b"it is a symbolic link" in result.stderr
    assert victim.read_text() == "precious"


def test_without_the_library_a_line_says_so(spawn: Spawn, tmp_path: Path) -> None:
    target = spawn("threads", 1)
    without = program(tmp_path, first="import sys\nsys.modules['obstore'] = None")
    result = run(without, "dump", target.pid, "--to", "s3://bucket/core")
    assert result.returncode == 1
    assert result.stderr == (
        b"Error: --to s3:// needs obstore, which is not installed: pip install 'gcorefs[cloud]'\n"
    )


def test_a_bundle_is_nothing_for_coredumpctl(spawn: Spawn) -> None:
    target = spawn("threads", 1)
    result = gcorefs("bundle", target.pid, "--to", "systemd")
    assert result.returncode == 2
    assert b"--to systemd: that is a place for cores" in result.stderr


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with journald(tmp_path) as journal:
        # The place of its cores is this machine's; so it gets one of its own.
        run(*journal.inside("mkdir", "-p", "/var/lib/systemd/coredump"))
        run(*journal.inside("mount", "-t", "tmpfs", "tmpfs", "/var/lib/systemd/coredump"))
        yield journal


@pytest.mark.parametrize("suffix", ["", ".zst"])
def test_coredumpctl_finds_it(spawn: Spawn, journal: Journal, suffix: str, tools: None) -> None:
    target = spawn("threads", 3)
    words = ["--compress", "zstd"] if suffix else []
    result = run(*journal.inside(GCOREFS, "dump", target.pid, "--to", "systemd", *words))
    assert result.returncode == 0, result.stderr
    path = result.stdout.decode().partition(":")[0]
    uid, comm = os.getuid(), Path(target.argv[0]).name
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    assert re.fullmatch(
        rf"/var/lib/systemd/coredump/core\.{comm}\.{uid}\.{boot}\.{target.pid}\.\d{{16}}"
        + re.escape(suffix),
        path,
    )
    journal.wait_for(1, f"COREDUMP_PID={target.pid}")

    def coredumpctl(*more: str) -> str:
        command = ("coredumpctl", "-D", "/run/log/journal", "--no-pager", *more, str(target.pid))
        found = run(*journal.inside(*command))
        assert found.returncode == 0, found.stderr
        return found.stdout.decode("utf-8", "replace")

    listed = coredumpctl("list")
    assert re.search(rf" {target.pid} +{uid} +\d+ .* present +{target.argv[0]} ", listed), listed
    info = coredumpctl("info")
    assert f"PID: {target.pid} ({comm})" in info
    assert f"Storage: {path} (present)" in info
    assert f"Command Line: {' '.join(target.argv)}" in info
    assert "lives, and was dumped by gcorefs" in info
    words = ["debug", "--debugger=gdb", "--debugger-arguments=-batch -ex 'info threads'"]
    debugged = coredumpctl(*words)
    assert debugged.count("Thread 0x") + debugged.count("LWP") >= 4, debugged
    eventually(lambda: is_free(target.pid))


SYSTEMD_COREDUMP = "/usr/lib/systemd/systemd-coredump"
SOCKET = "/run/systemd/coredump"


@pytest.mark.parametrize("suffix", ["", ".zst"])
def test_the_next_crash_deletes_old_ones(
    spawn: Spawn, journal: Journal, suffix: str, tmp_path: Path
) -> None:
    """MaxUse= (coredump.conf(5)).  systemd-coredump, as the kernel starts it for a crash."""
    configuration = tmp_path / "coredump.conf"
    configuration.write_text("[Coredump]\nMaxUse=1K\n")
    run(*journal.inside("mount", "-t", "tmpfs", "tmpfs", "/etc/systemd"))
    run(*journal.inside("cp", configuration, "/etc/systemd"))
    target = spawn("threads", 1)
    places = []
    for _ in range(2):
        words = ["--compress", "zstd"] if suffix else []
        result = run(*journal.inside(GCOREFS, "dump", target.pid, "--to", "systemd", *words))
        assert result.returncode == 0, result.stderr
        places.append(Path(f"/proc/{journal.pid}/root{result.stdout.decode().partition(':')[0]}"))
    assert [each.exists() for each in places] == [True, True]
    listen = ("systemd-socket-activate", "-l", SOCKET, "--seqpacket", "--accept", SYSTEMD_COREDUMP)
    with subprocess.Popen(journal.inside(*listen), stderr=subprocess.DEVNULL) as listener:
        try:
            eventually(Path(f"/proc/{journal.pid}/root{SOCKET}").exists)
            # %P %u %g %s %t %c %h %d of core_pattern (core(5))
            crash = (target.pid, 0, 0, 11, int(time.time()), 1 << 30, "host", 1)
            subprocess.run(
                journal.inside(SYSTEMD_COREDUMP, *crash), input=b"x" * 4096, check=True, timeout=60
            )
            eventually(lambda: not any(each.exists() for each in places))
        finally:
            listener.kill()


def test_a_process_with_many_arguments_is_found(journal: Journal) -> None:
    words = [sys.executable, "-c", "input()", *10 * [100_000 * "x"]]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        result = run(*journal.inside(GCOREFS, "dump", process.pid, "--to", "systemd"))
        assert (result.returncode, result.stderr) == (0, b"")
        journal.wait_for(1, f"COREDUMP_PID={process.pid}")
        command = ("journalctl", "-q", "-D", "/run/log/journal", "-o", "cat")
        found = run(*journal.inside(*command, "--output-fields=COREDUMP_CMDLINE"))
        process.communicate(b"\n")
    shown = found.stdout.decode().strip()
    assert " ".join(words).startswith(shown)
    assert len(shown) == 1 << 16


def test_without_systemd_coredump_a_line_says_so(spawn: Spawn, journal: Journal) -> None:
    target = spawn("threads", 1)
    run(*journal.inside("umount", "/var/lib/systemd/coredump"))
    run(*journal.inside("mount", "-t", "tmpfs", "tmpfs", "/var/lib/systemd"))
    result = run(*journal.inside(GCOREFS, "dump", target.pid, "--to", "systemd"))
    assert result.returncode == 1
    assert result.stderr == (
        b"Error: /var/lib/systemd/coredump: No such file or directory: is systemd-coredump "
        b"installed?\n"
    )
    eventually(lambda: is_free(target.pid))
