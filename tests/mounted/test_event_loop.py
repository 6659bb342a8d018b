"""The thread of the server that answers all users asks nothing of another process.

Every call about another process takes a lock of that process, which others may hold for as long as
they like: mmap_lock, exec_update_lock.
"""

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcorefs.kernel.proc import task_stat, task_status
from tests.conftest import Mount, Target
from tests.mounted.conftest import (
    PAGE,
    end,
    eventually,
    gcorefs,
    is_free,
    opened,
    run,
    whole,
)

CALLS = (
    "%file,read,readv,pread64,preadv,preadv2,process_vm_readv,getdents64,ioctl,lseek,fstat,close,"
    "munmap,ptrace,wait4,waitid,kill,tkill,tgkill,getpgid,pidfd_open,get_robust_list"
)
OF_A_PROCESS = (
    "process_vm_readv|ptrace|wait4|waitid|kill|tkill|tgkill|getpgid|pidfd_open|get_robust_list"
)
RANDOM_READS = 200
COPIED = 8
"""MiB."""


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "trace"


@pytest.fixture(params=["hold=stop", "hold=copy"])
def traced(request: pytest.FixtureRequest, unmounted: Mount, trace: Path) -> Iterator[Mount]:
    """A mount whose server runs under strace(1), which names the file of each descriptor."""
    words = f"strace -D -f -y -qq -s 0 --seccomp-bpf -e trace={CALLS} -e signal=none -o"
    unmounted.prefix = [*words.split(), str(trace)]
    unmounted.make(request.param)
    server = unmounted.server
    yield unmounted
    end(server)


@pytest.fixture
def slow_to_read(mount: Mount) -> Iterator[None]:
    """The thread that serves the mount learns of each request a third of a second late."""
    server = mount.server
    words = "strace -q -o /dev/null -e trace=epoll_wait -e inject=epoll_wait:delay_exit=300000 -p"
    with subprocess.Popen([*words.split(), str(server)]) as tracer:
        eventually(lambda: task_status.tracer(server, server) == tracer.pid)
        yield
        tracer.terminate()


def test_a_request_that_is_withdrawn_leaves_the_loop_turning(
    mount: Mount, spawn: Callable[..., Target], request: pytest.FixtureRequest
) -> None:
    target = spawn("threads", 1)
    reading, writing = os.pipe()
    asker = os.fork()
    if asker == 0:  # before the file is open: its close would be a request of its own
        os.close(writing)
        os.read(reading, 1)
        os.stat(mount / target.pid)
        os._exit(0)
    os.close(reading)
    with opened(mount / target.pid) as fd:
        assert os.pread(fd, 4, 0) == b"\x7fELF"
        request.getfixturevalue("slow_to_read")
        eventually(lambda: task_stat.stat(mount.server).state == "S")  # it waits for a request
        os.close(writing)
        eventually(lambda: sleeps_in_a_request(asker))
        os.kill(asker, signal.SIGKILL)  # no request follows
        os.waitpid(asker, 0)
        target.popen.kill()
        eventually(lambda: f"process {target.pid}: opened" in mount.log.read_text())


def sleeps_in_a_request(pid: int) -> bool:
    return Path(f"/proc/{pid}/wchan").read_text() == "request_wait_answer"


def calls(trace: Path) -> dict[int, list[str]]:
    """The system calls of each thread."""
    found: dict[int, list[str]] = {}
    for line in trace.read_text("utf-8", "replace").splitlines():
        tid, _, call = line.partition(" ")
        found.setdefault(int(tid), []).append(call.strip())
    return found


def while_it_serves(calls: list[str]) -> list[str]:
    """From its first request to its last.  Before and after, libfuse may wait for mount(8) and
    umount(8) (lib/mount_util.c, add_mount)."""
    requests = [at for at, call in enumerate(calls) if re.match(r"readv?\(\d+</dev/fuse>", call)]
    return calls[requests[0] : requests[-1] + 1]


def test_nothing_in_the_event_loop_touches_another_process(
    spawn: Callable[..., Target], build: Callable[[str], Path], traced: Mount, trace: Path
) -> None:
    target, other = spawn("threads", 3), spawn("bulk", COPIED)
    server = traced.server
    subprocess.run(["ls", "-l", traced.path], check=False, capture_output=True, timeout=60)
    for path in (traced / target.pid, traced.path / ".gcorefs" / "exact" / str(target.pid)):
        assert run("stat", path).returncode == 0
    for block in ("4K", "128K", "1M"):
        assert run("dd", f"if={traced / other.pid}", f"bs={block}").returncode == 0
    gdb = run("gdb", "-batch", "-ex", "thread apply all bt", build("threads"), traced / target.pid)
    assert gdb.stdout.count(b"\nThread ") == 4
    with opened(traced / other.pid) as fd:
        size = len(whole(fd))
        for number in range(RANDOM_READS):
            at = number * 7919 * PAGE % size // PAGE * PAGE
            assert os.pread(fd, PAGE, at)
        assert run("getfattr", "-d", traced / other.pid).stdout
        assert b'"pid"' in run("cat", traced.path / ".gcorefs" / "status").stdout
        assert gcorefs("release", other.pid, "--mount", traced.path).returncode == 0
        eventually(lambda: is_free(other.pid))
    eventually(lambda: is_free(target.pid))
    end(server)
    found = calls(trace)
    loop = while_it_serves(found.pop(server))
    elsewhere = [call for some in found.values() for call in some]
    assert any(call.startswith("process_vm_readv(") for call in elsewhere)
    assert any(f"</proc/{other.pid}/" in call for call in elsewhere)
    touches = re.compile(rf"^({OF_A_PROCESS})\((?!{server},)|/proc/(?!{server}/)\d+")
    assert [call for call in loop if touches.search(call)] == []
    # Another thread frees a copy too: munmap of many pages takes long.
    freed = [int(size) for size in re.findall(r"munmap\(0x[0-9a-f]+, (\d+)\)", "\n".join(loop))]
    assert max(freed, default=0) < COPIED << 20


def test_the_server_asks_nothing_of_its_own_mount(traced: Mount, trace: Path) -> None:
    """A thread of a server that waits for this server's answer could not be killed."""
    server = traced.server
    assert run("stat", traced.path).returncode == 0
    end(server)
    lines = trace.read_text("utf-8", "replace").splitlines()
    requests = [at for at, line in enumerate(lines) if re.search(r" readv?\(\d+</dev/fuse>", line)]
    asked = [line for line in lines[requests[0] : requests[-1]] if f'"{traced.path}' in line]
    assert any("statx(" in line for line in asked)
    assert [line for line in asked if "AT_STATX_DONT_SYNC" not in line] == []
