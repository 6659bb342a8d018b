"""Why a file of /proc cannot be read.  A process is called gone only if it is gone."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcorefs.kernel.proc import (
    address_space,
    current_call,
    procfile,
    task_stat,
    task_status,
    tasks,
    user_namespaces,
)
from gcorefs.process.errors import ProcessError, Reason, told
from gcorefs.process.pagemap import Pagemap, Unknown, open_pagemap
from gcorefs.process.runs import runs_of
from gcorefs.sources.procfs import ProcMappings
from tests.conftest import Target

Spawn = Callable[..., Target]

NOBODY_HAS_IT = 1 << 22  # PID_MAX_LIMIT


@contextlib.contextmanager
def mounted_over(path: str, what: str) -> Iterator[None]:
    """Mount another file over one of /proc, as container runtimes do to mask some."""
    subprocess.run(["mount", "--bind", what, path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@pytest.fixture
def empty(tmp_path: Path) -> str:
    path = tmp_path / "empty"
    path.touch()
    return str(path)


@pytest.fixture
def ended() -> int:
    """The pid of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.fixture
def zombie() -> Iterator[int]:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    yield process.pid
    process.wait()


ASKED: list[Callable[[int], object]] = [
    task_stat.stat,
    task_status.status,
    lambda pid: ProcMappings(pid).mappings(),
    tasks.tids,
    tasks.thread_count,
    tasks.children,
    address_space.is_32_bit,
    address_space.coredump_filter,
    lambda pid: task_status.owner(pid, pid),
    lambda pid: task_status.owner_of(str(pid)),
    user_namespaces.user_namespace,
    lambda pid: current_call.system_call(pid, pid),
    lambda pid: task_stat.task_times(pid, [pid]),
    lambda pid: task_status.tracer(pid, pid),
    lambda pid: procfile.open_file(f"{pid}/mem"),
    lambda pid: procfile.open_file(f"{pid}/task/{pid}/mem"),
    open_pagemap,
]


@pytest.mark.parametrize("number", range(len(ASKED)))
def test_a_process_that_has_ended_is_gone_in_every_question(ended: int, number: int) -> None:
    for pid in (ended, NOBODY_HAS_IT, 1 << 31, 1 << 64):
        with pytest.raises(ProcessLookupError) as caught:
            ASKED[number](pid)
        assert caught.value.errno == errno.ESRCH


def test_a_zombie_has_no_memory_to_tell_of(zombie: int) -> None:
    for name in ("smaps", "auxv", "coredump_filter"):
        with pytest.raises(ProcessLookupError):
            address_space.read_mm(zombie, name)
    with pytest.raises(ProcessLookupError):
        ProcMappings(zombie).mappings()
    with pytest.raises(ProcessLookupError):
        open_pagemap(zombie)


def test_a_thread_that_has_ended_is_gone_while_its_process_lives() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    tid = thread.native_id
    assert tid is not None
    while os.path.exists(f"/proc/self/task/{tid}"):  # it leaves the list a moment later
        os.sched_yield()
    with pytest.raises(ProcessLookupError):
        task_stat.stat(os.getpid(), tid)
    with pytest.raises(ProcessLookupError):
        task_stat.task_times(os.getpid(), [os.getpid(), tid])


def test_a_file_that_the_kernel_does_not_have_is_missing_and_nobody_is_gone() -> None:
    for path in (f"{os.getpid()}/no_such", f"{os.getpid()}/task/{os.getpid()}/no_such"):
        with pytest.raises(FileNotFoundError) as caught:
            procfile.read(path)
        assert caught.value.filename == f"/proc/{path}"
        with pytest.raises(ProcessError) as told_of, told(7, Reason.DIED):
            procfile.open_file(path)
        assert told_of.value.errno == errno.ENOTSUP
        assert str(told_of.value) == (
            "process 7: there is no such file in /proc, and the core needs it "
            f"(/proc/{path}: No such file or directory)"
        )


@pytest.mark.parametrize("name", ["stat", "task/{}/stat"])
def test_a_process_without_a_state_is_another_process(name: str) -> None:
    """The one that was asked about has ended, and its number was given away meanwhile."""
    path = f"{os.getpid()}/{name.format(os.getpid())}"
    missing = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    error = procfile.explained(missing, path)
    assert (type(error), error.errno) == (ProcessLookupError, errno.ESRCH)


def test_a_missing_system_file_is_no_death_of_a_process() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        procfile.read_system("no_such")
    assert caught.value.filename == "/proc/no_such"


@pytest.mark.parametrize("name", ["smaps", "auxv", "coredump_filter", "pagemap", "status"])
def test_an_empty_file_of_a_living_process_is_no_death(spawn: Spawn, empty: str, name: str) -> None:
    pid = spawn("threads", 2).pid
    path = f"/proc/{pid}/{name}"
    ask: dict[str, Callable[[int], object]] = {
        "smaps": lambda pid: ProcMappings(pid).mappings(),
        "auxv": address_space.is_32_bit,
        "coredump_filter": address_space.coredump_filter,
        "pagemap": Pagemap,
        "status": task_status.status,
    }
    for what in (empty, "/dev/null"):
        with mounted_over(path, what):
            with pytest.raises(OSError, match="it is empty") as caught:
                ask[name](pid)
            assert (caught.value.errno, caught.value.filename) == (errno.ENODATA, path)
    ask[name](pid)


def test_memory_that_execve_has_replaced_is_gone_and_not_empty() -> None:
    """The old smaps is empty, but the process lives."""
    script = "import os; os.read(0, 1); os.execvp('cat', ['cat'])"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with open(f"/proc/{process.pid}/smaps", "rb") as smaps:
                process.stdin.write(b"\nready\n")
                process.stdin.flush()
                assert process.stdout.read(6) == b"ready\n"  # cat(1) has started
                assert smaps.read() == b""
                assert isinstance(
                    address_space.without_text(process.pid, "smaps"), ProcessLookupError
                )
        finally:
            process.kill()


def test_without_a_pagemap_nothing_is_known_of_any_page(spawn: Spawn, empty: str) -> None:
    pid = spawn("threads", 1).pid
    with mounted_over(f"/proc/{pid}/pagemap", empty):
        pagemap = open_pagemap(pid)
    assert isinstance(pagemap, Unknown)
    assert pagemap.why_unknown == f"/proc/{pid}/pagemap: it is empty"
    assert pagemap.populated(4095, 4098) == bytes(3)
    assert not pagemap.is_present(4096, 4096)
    assert [list(column) for column in pagemap.runs(runs_of([(4096, 8192), (16384, 20480)]))] == [
        [4096, 16384],
        [8192, 20480],
    ]
    assert pagemap.poisoned(4096, 8192) == []


# unshare(2) and mount(2) change our own view, so these tests run in a child.  Its exit status is 0,
# or 1 with an error message on standard error.
HIDDEN = """
import errno, os, sys
from gcorefs.kernel.proc import address_space, current_call, task_stat, task_status, tasks
from gcorefs.process.errors import ProcessError
from gcorefs.sources.procfs import ProcMappings
from tests.snapshot import find
from gcorefs.look import look

target, own, hidepid = map(int, sys.argv[1:])
assert task_stat.stat(own).comm
assert own in tasks.user_pids()
assert target not in tasks.user_pids()
for ask in (
    task_stat.stat,
    task_status.status,
    tasks.tids,
    lambda tid: ProcMappings(tid).mappings(),
    address_space.is_32_bit,
):
    try:
        ask(target)
    except PermissionError as error:
        assert error.errno in (errno.EACCES, errno.EPERM), error
        assert error.filename.startswith(f"/proc/{target}"), error
    else:
        raise AssertionError(ask)
for ask in (find, look):
    try:
        ask(target)
    except ProcessError as error:
        assert error.errno == errno.EACCES, error
        assert f"/proc/{target}" in str(error), error
    else:
        raise AssertionError(ask)
    try:
        ask(1 << 22)
    except OSError as error:
        assert error.errno == errno.ESRCH, error
    else:
        raise AssertionError(ask)
assert current_call.is_opening(target) is False
"""

AS_USER = ("setpriv", "--reuid=4001", "--regid=4001", "--clear-groups")
HIDE = 'mount -t proc -o "hidepid=$1" proc /proc && shift && exec "$@"'


@pytest.mark.parametrize("hidepid", [1, 2, 4])
def test_what_hidepid_does_not_show_is_refused_and_not_gone(spawn: Spawn, hidepid: int) -> None:
    target = spawn("threads", 2)
    own = subprocess.Popen([*AS_USER, "sleep", "1000"])
    try:
        command = ["unshare", "--mount", "sh", "-c", HIDE, "-", str(hidepid), *AS_USER]
        command += [sys.executable, "-c", HIDDEN, str(target.pid), str(own.pid), str(hidepid)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (result.returncode, result.stderr) == (0, "")
    finally:
        own.kill()
        own.wait()


def test_a_tracer_that_is_not_shown_is_a_tracer(spawn: Spawn) -> None:
    """For another user's tracer, hidepid= leaves only the id of the tracing thread."""
    target = Target([*AS_USER, *spawn("threads", 1).argv])
    tracer = subprocess.Popen(["strace", "-q", "-o", "/dev/null", "-p", str(target.pid)])
    script = "from gcorefs.kernel.proc.task_status import tracer; "
    script += f"print(tracer({target.pid}, {target.pid}))"
    try:
        while task_status.tracer(target.pid, target.pid) != tracer.pid:
            assert tracer.poll() is None
        command = ["unshare", "--mount", "sh", "-c", HIDE, "-", "2", *AS_USER]
        result = subprocess.run(
            [*command, sys.executable, "-c", script], capture_output=True, text=True, check=False
        )
        assert (result.stdout, result.stderr) == (f"{tracer.pid}\n", "")
    finally:
        tracer.send_signal(signal.SIGTERM)
        tracer.wait(timeout=20)
        target.kill()


@pytest.mark.parametrize("number", [0, 1, 10])
def test_a_process_whose_threads_come_and_go_is_not_gone(number: int) -> None:
    """One that calls execve(2) again and again, for example."""
    looks = 0

    def ask(tid: int) -> int:
        nonlocal looks
        looks += tid == os.getpid()
        if tid != os.getpid() or looks <= number:
            raise ProcessLookupError
        return tid

    assert tasks.ask_live_thread(os.getpid(), ask) == os.getpid()


def test_a_process_of_which_every_thread_vanishes_is_gone_at_last() -> None:
    def ask(tid: int) -> int:
        raise ProcessLookupError

    with pytest.raises(ProcessLookupError):
        tasks.ask_live_thread(os.getpid(), ask)
