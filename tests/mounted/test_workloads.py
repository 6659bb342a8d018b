"""Programs as people run them, dumped a hundred times by cp while they work.

None of them may notice: no error on their side, no client of theirs that fails.  And what
gdb sees in the core is what it sees in the process itself.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Mount, Target

WORKLOADS = Path(__file__).parent.parent / "workloads"
DUMPS = 100


@pytest.fixture
def core() -> Iterator[Path]:
    """A place for a core in memory: the disk is not what is tried here."""
    path = Path(f"/dev/shm/gcorefs-test-{os.getpid()}")
    yield path
    path.unlink(missing_ok=True)


def copy(source: Path, core: Path) -> None:
    subprocess.run(["cp", source, core], check=True, timeout=60)


PROGRAMS = {
    "python": lambda tmp: [sys.executable, WORKLOADS / "work.py"],
    "node": lambda tmp: ["node", WORKLOADS / "work.js", tmp / "node.sock"],
    "java": lambda tmp: ["java", "-Xmx64m", WORKLOADS / "Work.java"],
}


@pytest.fixture(params=PROGRAMS)
def worker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    target = Target([str(word) for word in PROGRAMS[request.param](tmp_path)])
    yield target
    target.kill()


def test_a_program_at_work_does_not_notice(worker: Target, mount: Mount, core: Path) -> None:
    work = 0
    for _ in range(DUMPS):
        copy(mount / worker.pid, core)
        report = worker.ask("report")
        assert report["errors"] == []
        assert report["work"] > work
        work = report["work"]
    await_free(worker.pid)
    compare_backtraces(worker.pid, mount, core)


def test_redis_under_load_does_not_notice(mount: Mount, core: Path, tmp_path: Path) -> None:
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
            if "ready to accept connections at" in line:
                break
        command = ["redis-benchmark", "-s", place, "-t", "set,get,lpush", "-r", "10000", "-q", "-l"]
        load = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        for _ in range(DUMPS):
            copy(mount / server.pid, core)
            assert load.poll() is None, load.stderr and load.stderr.read()
        statistics = subprocess.run(
            ["redis-cli", "-s", place, "info"], capture_output=True, text=True, check=True
        ).stdout
        assert "total_error_replies:0\r" in statistics or "total_error_replies:0\n" in statistics
        assert int(re.search(r"total_commands_processed:(\d+)", statistics)[1]) > DUMPS  # type: ignore[index]
        load.terminate()
        assert load.communicate(timeout=10)[1] == ""
        load = None
        await_free(server.pid)
        compare_backtraces(server.pid, mount, core)
    finally:
        for process in filter(None, (load, server)):
            process.kill()
            process.communicate()


def compare_backtraces(pid: int, mount: Mount, core: Path) -> None:
    """Of a core and of the process, both while SIGSTOP keeps it where it is."""
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
    # gdb's own handlers for what a JVM uses signals for; the backtrace is all we ask for.
    command += [program, kind, what, "-ex", "thread apply all bt"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    threads: dict[int, list[str]] = {}
    current: list[str] | None = None
    for line in result.stdout.splitlines():
        if found := re.match(r"Thread \d+ \(.*?(?:LWP |process )(\d+)\)", line):
            current = threads.setdefault(int(found[1]), [])
        elif current is not None and line.startswith("#"):
            current.append(line)
    assert threads, result.stderr
    return threads


def await_free(pid: int) -> None:
    """Until the release that follows the last close has let the process go."""
    while "\nTracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text():
        pass
