"""Ordinary programs, dumped again and again by cp while they work.

None of them may notice it: no error in the program, no client that fails.  And gdb sees the same in
the core as in the process itself.
"""

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gcorefs.kernel.proc import task_stat, task_status
from tests.conftest import Mount, Target, text_of, wait_until_asleep
from tests.mounted.conftest import eventually, note_of, run
from tests.readers.test_stacks_alone import assert_equal, both

WORKLOADS = Path(__file__).parent.parent / "workloads"
DUMPS = 50


@pytest.fixture
def core() -> Iterator[Path]:
    """A place for a core in memory, so that the disk does not matter."""
    path = Path(f"/dev/shm/gcorefs-test-{os.getpid()}")
    yield path
    path.unlink(missing_ok=True)


def copy(source: Path, core: Path) -> None:
    subprocess.run(["cp", source, core], check=True, timeout=60)


@dataclass(frozen=True, slots=True)
class Way:
    """Where the files of the processes are, and how often each is copied."""

    files: Path
    dumps: int
    held: str


@pytest.fixture(
    params=[
        ("stop", DUMPS),
        pytest.param(("stop", 2 * DUMPS), marks=[pytest.mark.full, pytest.mark.timeout(600)]),
        pytest.param(("fork", 4 * DUMPS), marks=[pytest.mark.full, pytest.mark.timeout(1200)]),
    ],
    ids=["stop", "stop-often", "fork"],
)
def way(request: pytest.FixtureRequest, mount: Mount) -> Way:
    held, dumps = request.param
    return Way(mount.path / f"@hold={held}", dumps, held)


def assert_held(core: Path, way: Way) -> None:
    with core.open("rb") as file:
        assert note_of(file.read(16 << 20))["policy"].get("held", "stop") == way.held


PROGRAMS: dict[str, Callable[[Path], list[object]]] = {
    "python": lambda tmp: [sys.executable, WORKLOADS / "work.py"],
    "node": lambda tmp: ["node", WORKLOADS / "work.js", tmp / "node.sock"],
    "java": lambda tmp: ["java", "-Xmx64m", WORKLOADS / "Work.java"],
    "go": lambda tmp: [built_go(tmp)],
}


def built_go(tmp: Path) -> Path:
    program = tmp / "work"
    command = ["go", "build", "-o", program, WORKLOADS / "work.go"]
    subprocess.run(
        text_of(command), check=True, env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": ""}
    )
    return program


@pytest.fixture(params=PROGRAMS)
def worker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    target = Target([str(word) for word in PROGRAMS[request.param](tmp_path)])
    yield target
    target.kill()


def test_a_program_at_work_does_not_notice(
    worker: Target, mount: Mount, way: Way, core: Path
) -> None:
    work = 0
    for _ in range(way.dumps):
        copy(way.files / str(worker.pid), core)
        assert_held(core, way)
        report = worker.ask("report")
        assert report["errors"] == []
        assert report["work"] > work
        work = report["work"]
    await_free(worker.pid)
    compare_backtraces(worker.pid, mount, core)


def test_of_a_large_java_heap_only_what_was_touched_is_in_the_file(
    mount: Mount, core: Path
) -> None:
    """64 GiB, more than this machine has; and jstack finds the threads in the touched part."""
    target = Target(["java", "-Xmx64g", "-XX:+UseG1GC", str(WORKLOADS / "Work.java")])
    try:
        assert int(task_status.status(target.pid)["VmSize"].split()[0]) >> 20 > 64
        # It works, so its memory grows and shrinks: the core has less than there ever was.
        copy(mount / target.pid, core)
        await_free(target.pid)
        status = task_status.status(target.pid)
        most = int(status["VmHWM"].split()[0]) << 10
        assert core.stat().st_size < most * 1.5
        report = target.ask("report")
        assert report["errors"] == []
        java = os.readlink(f"/proc/{target.pid}/exe")
        command = ["jhsdb", "jstack", "--exe", java, "--core", str(core)]
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
        named = set(re.findall(r'^"([^"]+)" #\d+', found.stdout, re.MULTILINE))
        assert {"main", "server", "client", "producer", "consumer", "checksum"} <= named, found
        assert target.ask("report")["work"] > report["work"]
    finally:
        target.kill()


def test_redis_under_load_does_not_notice(
    mount: Mount, way: Way, core: Path, tmp_path: Path
) -> None:
    place = tmp_path / "redis.sock"
    server = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", place, "--save", "", "--dir", tmp_path],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    load: subprocess.Popen[str] | None = None
    try:
        for line in server.stdout:
            if "ready to accept connections" in line.lower():
                break
        command = ["redis-benchmark", "-s", place, "-t", "set,get,lpush", "-r", "10000", "-q", "-l"]
        load = subprocess.Popen(
            text_of(command), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        for _ in range(way.dumps):
            copy(way.files / str(server.pid), core)
            assert_held(core, way)
            assert load.poll() is None, load.stderr and load.stderr.read()
        statistics = subprocess.run(
            ["redis-cli", "-s", place, "info"], capture_output=True, text=True, check=True
        ).stdout
        assert "total_error_replies:0\r" in statistics or "total_error_replies:0\n" in statistics
        assert int(re.search(r"total_commands_processed:(\d+)", statistics)[1]) > way.dumps  # type: ignore[index]
        load.terminate()
        assert load.communicate(timeout=10)[1] == ""
        load = None
        await_free(server.pid)
        compare_backtraces(server.pid, mount, core)
    finally:
        for process in filter(None, (load, server)):
            process.kill()
            process.communicate()


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server with a database for pgbench, on a socket in `tmp_path`; its log is there too."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    shutil.chown(data, "postgres", "postgres")
    shutil.chown(tmp_path, "postgres", "postgres")
    as_postgres("initdb", "-D", data, "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8")
    settings = ("listen_addresses=", "fsync=off", "shared_buffers=16MB")
    words = [word for setting in settings for word in ("-c", setting)]
    command = [*AS_POSTGRES, POSTGRES / "postgres", "-D", data, "-k", tmp_path, *words]
    with (tmp_path / "postgres.log").open("wb") as log:
        server = subprocess.Popen(text_of(command), stdout=log, stderr=log)
    try:
        eventually(
            lambda: run(*AS_POSTGRES, POSTGRES / "pg_isready", "-h", tmp_path).returncode == 0
        )
        as_postgres("pgbench", "-h", tmp_path, "-i", "-q", "postgres")
        yield server
    finally:
        server.send_signal(signal.SIGINT)  # fast shutdown
        server.wait(timeout=30)


POSTGRES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/nowhere"))
AS_POSTGRES = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")
TRANSACTIONS = 150  # of each client, for each dump


def as_postgres(program: str, *words: object) -> None:
    subprocess.run([*AS_POSTGRES, POSTGRES / program, *map(str, words)], check=True, timeout=60)


def has_ended(pid: int) -> bool:
    try:
        return task_stat.stat(pid).is_dead
    except ProcessLookupError:
        return True


def test_postgres_under_load_does_not_notice(
    mount: Mount, way: Way, core: Path, postgres: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    """The postmaster, its workers and its backends, one after the other, as long as the load
    runs."""
    for ends in ("there is no such process", "the process died"):  # a backend may end
        mount.allow(ends)
    clients = 4
    command = [*AS_POSTGRES, POSTGRES / "pgbench", "-h", tmp_path, "-n", "-c", str(clients)]
    transactions = TRANSACTIONS * way.dumps * (1 if way.held == "stop" else 2)
    dumps = 0
    with subprocess.Popen(
        text_of([*command, "-t", str(transactions), "postgres"]),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as load:
        try:
            while load.poll() is None:
                children = Path(f"/proc/{postgres.pid}/task/{postgres.pid}/children").read_text()
                for pid in [postgres.pid, *map(int, children.split())]:
                    result = run("cp", way.files / str(pid), core)
                    dumps += result.returncode == 0
                    if result.returncode != 0:  # a backend ends with its client
                        assert pid != postgres.pid, result
                        eventually(functools.partial(has_ended, pid))
            summary, complaints = load.communicate()
        finally:
            load.kill()
    assert load.returncode == 0, complaints
    assert f"actually processed: {clients * transactions}/{clients * transactions}" in summary
    assert "number of failed transactions: 0 " in summary
    assert dumps > way.dumps
    log = (tmp_path / "postgres.log").read_text().partition("ready to accept connections")[2]
    assert not re.search("ERROR|FATAL|PANIC|WARNING", log), log


def backends(postgres: "subprocess.Popen[bytes]", command: bytes) -> list[int]:
    """The processes of a server that run this command."""
    children = Path(f"/proc/{postgres.pid}/task/{postgres.pid}/children").read_text()
    names = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children.split()}
    return [int(pid) for pid, name in names.items() if command in name]


def test_stacks_of_a_backend_are_those_of_a_full_core(
    postgres: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    sleep = ("-c", "select pg_sleep(1000)", "postgres")
    query = [*AS_POSTGRES, POSTGRES / "psql", "-h", tmp_path, *sleep]
    with subprocess.Popen(text_of(query), stdout=subprocess.PIPE) as client:
        try:
            eventually(lambda: bool(backends(postgres, b"SELECT")))
            (backend,) = backends(postgres, b"SELECT")
            wait_until_asleep(backend)
            cores = both(backend, tmp_path)
        finally:
            client.kill()
    assert_equal(POSTGRES / "postgres", cores)
    assert cores.stacks.stat().st_size < 2 << 20


def compare_backtraces(pid: int, mount: Mount, core: Path) -> None:
    """In a core and in the process, both while SIGSTOP holds it."""
    os.kill(pid, signal.SIGSTOP)
    try:
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        copy(mount / pid, core)
        await_free(pid)
        program = os.readlink(f"/proc/{pid}/exe")
        from_core = backtraces("-c", str(core), program)
        from_process = backtraces("-p", str(pid), program)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert from_core.keys() == from_process.keys()
    for lwp, frames in from_process.items():
        assert from_core[lwp] == frames
        assert frames


def backtraces(kind: str, what: str, program: str) -> dict[int, list[str]]:
    """Frames by LWP, as gdb prints them."""
    command = ["gdb", "--batch", "--nx", "-iex", "set debuginfod enabled off"]
    # gdb's own handling of the signals that a JVM uses; only the backtrace is needed.
    command += [program, kind, what, "-ex", "thread apply all bt"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    threads: dict[int, list[str]] = {}
    current: list[str] | None = None
    for line in result.stdout.splitlines():
        if found := re.match(r"Thread \d+ \(.*?(?:LWP |process )(\d+)[ )]", line):
            current = threads.setdefault(int(found[1]), [])
        elif current is not None and line.startswith("#"):
            current.append(line)
    assert threads, result.stderr
    return threads


def await_free(pid: int) -> None:
    """Wait until the release after the last close has let the process go."""
    while "\nTracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text():
        pass
