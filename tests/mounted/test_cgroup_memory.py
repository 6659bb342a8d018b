"""A dump inside the memory cgroup of its process, where its own memory could kill that process."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from gcorefs.process.errors import Reason
from tests.conftest import GCOREFS, Mount, Target, mounts
from tests.mounted.conftest import (
    CUT_OFF,
    end,
    errno_of,
    eventually,
    family,
    gcorefs,
    is_free,
    opened,
    run,
)
from tests.mounted.parties import Ledger

MIB = 1 << 20
PEAK = 30
"""MiB that a dump of a process may need."""

CGROUPS = Path("/sys/fs/cgroup")
V1 = CGROUPS / "memory"

# The command is in the group from its first byte on.
ENTER = ("sh", "-c", 'echo $$ > "$0" && exec "$@"')


class Group:
    """A memory cgroup of version 1 or 2: the one that has the controller here (cgroups(7))."""

    def __init__(self, top: Path) -> None:
        self.is_v1 = top == V1
        self.path = top / f"gcorefs-{uuid.uuid4().hex}"
        self.path.mkdir()

    def limit(self, size: int) -> None:
        (self.path / ("memory.limit_in_bytes" if self.is_v1 else "memory.max")).write_text(
            str(size)
        )
        # No escape to swap, if another test has some.
        name, most = ("memory.memsw.limit_in_bytes", size) if self.is_v1 else ("memory.swap.max", 0)
        with contextlib.suppress(FileNotFoundError):  # a kernel without swap
            (self.path / name).write_text(str(most))

    def lift(self) -> None:
        """Take the limit away."""
        names = ["memory.max"]
        if self.is_v1:
            names = ["memory.memsw.limit_in_bytes", "memory.limit_in_bytes"]
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a kernel without swap
                (self.path / name).write_text("-1" if self.is_v1 else "max")

    @property
    def usage(self) -> int:
        name = "memory.usage_in_bytes" if self.is_v1 else "memory.current"
        return int((self.path / name).read_text())

    @property
    def killed(self) -> int:
        """The number of its processes that were killed because memory was short."""
        name = "memory.oom_control" if self.is_v1 else "memory.events"
        lines = (self.path / name).read_text().splitlines()
        return int(dict(line.split() for line in lines)["oom_kill"])

    def words(self, *words: object) -> list[str]:
        return [*ENTER, str(self.path / "cgroup.procs"), *map(str, words)]

    def run(self, *words: object) -> "subprocess.CompletedProcess[bytes]":
        return run(*self.words(*words))


@pytest.fixture
def group() -> Iterator[Group]:
    control = CGROUPS / "cgroup.subtree_control"
    added = False
    if not V1.exists() and "memory" not in control.read_text().split():
        control.write_text("+memory")
        added = True
    group = Group(V1 if V1.exists() else CGROUPS)
    try:
        yield group
    finally:
        eventually(lambda: not (group.path / "cgroup.procs").read_text())
        group.path.rmdir()
        if added:
            control.write_text("-memory")


@pytest.fixture
def spawn_in(group: Group, build: Callable[[str], Path]) -> Iterator[Callable[..., Target]]:
    """Start a target in the group."""
    targets: list[Target] = []

    def start(name: str, *arguments: object) -> Target:
        targets.append(Target(group.words(build(name), *arguments)))
        return targets[-1]

    yield start
    for target in targets:
        eventually(partial(is_free, target.pid))
        target.kill()


def assert_whole(core: Path) -> None:
    result = gcorefs("info", "--json", core)
    facts = json.loads(result.stdout)
    assert (result.returncode, facts["missing"]) == (0, 0)
    assert facts["size"] == core.stat().st_size


def test_a_process_near_its_limit_survives_its_dump(
    group: Group, spawn_in: Callable[..., Target], tmp_path: Path
) -> None:
    group.limit(70 * MIB)
    target = spawn_in("bulk", 40)
    assert group.usage > 40 * MIB
    result = group.run(GCOREFS, "dump", target.pid, "-o", tmp_path / "core")
    assert (result.returncode, result.stderr) == (0, b"")
    assert_whole(tmp_path / "core")
    assert group.killed == 0
    assert "gap" in target.ask("")


@pytest.mark.parametrize("is_there", [False, True])
def test_if_memory_runs_out_the_dump_dies(
    group: Group, spawn_in: Callable[..., Target], tmp_path: Path, is_there: bool
) -> None:
    target = spawn_in("reserve", 1, 20_000)  # a core with so many pieces needs more memory
    if is_there:
        (tmp_path / "core").write_bytes(b"old")
    group.limit(group.usage + 13 * MIB)
    result = group.run(GCOREFS, "dump", target.pid, "-o", tmp_path / "core")
    assert (result.returncode, result.stdout, result.stderr) == (-signal.SIGKILL, b"", b"")
    assert group.killed == 1
    eventually(lambda: is_free(target.pid))
    assert target.popen.poll() is None
    assert os.listdir(tmp_path) == ["core"] * is_there
    if is_there:
        assert (tmp_path / "core").read_bytes() == b"old"


def test_a_dump_needs_no_more_than_that(
    group: Group, spawn: Callable[..., Target], tmp_path: Path
) -> None:
    group.limit(PEAK * MIB)
    target = spawn("bulk", 64)
    result = group.run(GCOREFS, "dump", target.pid, "-o", tmp_path / "core")
    assert (result.returncode, result.stderr) == (0, b"")
    assert_whole(tmp_path / "core")


def die_together(group: Group) -> None:
    """As Kubernetes makes the group of a container.  Version 1 kills one process alone."""
    if not group.is_v1:
        (group.path / "memory.oom.group").write_text("1")


@pytest.mark.parametrize("words", [("dump",), ("stacks",), ("info",), ("gcore",)])
def test_a_process_that_could_be_killed_with_the_command_is_not_stopped(
    group: Group, spawn_in: Callable[..., Target], tmp_path: Path, words: tuple[str, ...]
) -> None:
    target = spawn_in("bulk", 8)
    die_together(group)
    group.limit(group.usage + 25 * MIB)
    program = [f"{GCOREFS}-gcore", "-o", tmp_path / "x"] if "gcore" in words else [GCOREFS, *words]
    result = group.run(*program, target.pid)
    assert "gap" in target.ask("")
    if not group.is_v1:
        assert (result.returncode, group.killed) == (1, 0)
        text = rb"memory is short: our control group may have \d+ MiB more.*\(memory\.oom\.group\)"
        assert re.search(text, result.stderr)
        assert os.listdir(tmp_path) == []


def test_with_enough_memory_it_is_dumped_from_such_a_group(
    group: Group, spawn_in: Callable[..., Target], tmp_path: Path
) -> None:
    target = spawn_in("bulk", 8)
    die_together(group)
    group.limit(group.usage + 80 * MIB)
    result = group.run(GCOREFS, "dump", target.pid, "-o", tmp_path / "core")
    assert (result.returncode, result.stderr, group.killed) == (0, b"", 0)
    assert_whole(tmp_path / "core")


# Written at the end of the command, by its own process.
AT_THE_END = """
import atexit, re, sys
from gcorefs.cli import main

def tell():
    with open("/proc/self/status") as status:
        peak = int(re.search("VmHWM:\\\\s+([0-9]+)", status.read())[1])
    print(peak, *sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)

atexit.register(tell)
main()
"""


def test_a_dump_imports_what_it_needs(spawn: Callable[..., Target], tmp_path: Path) -> None:
    target = spawn("bulk", 64)
    words = ("dump", target.pid, "-o", tmp_path / "core")
    result = run(sys.executable, "-c", AT_THE_END, *words)
    assert result.returncode == 0
    peak, *modules = result.stderr.decode().split()
    assert int(peak) <= PEAK << 10
    assert {"click", "gcorefs"} <= set(modules)
    others = {"elftools", "email", "importlib.metadata", "msgspec", "pyfuse3", "rich", "sdnotify"}
    assert not {*others, "tempfile", "trio"} & set(modules)


# The values in /proc when the process is about to be stopped.
AT_THE_STOP = """
import sys
from gcorefs.cli import main
from gcorefs.stopped import Stop

def told(stop, holder):
    with open("/proc/self/oom_score_adj") as file:
        print(file.read(), end="", file=sys.stderr)
    return take(stop, holder)

take, Stop.take = Stop.take, told
main()
"""


@pytest.mark.parametrize("command", ["dump", "info"])
def test_the_kernel_kills_the_tracer_before_the_process(
    spawn: Callable[..., Target], command: str
) -> None:
    target = spawn("threads", 1)
    result = run(sys.executable, "-c", AT_THE_STOP, command, target.pid)
    assert (result.returncode, result.stderr) == (0, b"1000\n")
    assert Path(f"/proc/{target.pid}/oom_score_adj").read_text() != "1000\n"


def test_a_server_has_the_oom_score_of_its_starter(mount: Mount) -> None:
    """The unit sets it (OOMScoreAdjust=)."""
    assert str(mount.path) in [place for place, _ in mounts()]
    ours = Path("/proc/self/oom_score_adj").read_text()
    assert Path(f"/proc/{mount.server}/oom_score_adj").read_text() == ours


def test_the_kernel_kills_a_worker_before_the_server(
    spawn: Callable[..., Target], mount: Mount
) -> None:
    target = spawn("threads", 1)
    with opened(mount / target.pid) as fd:
        assert os.read(fd, 4) == b"\x7fELF"
        scores = {pid: oom_score_adj(pid) for pid in family(mount.server)}
    of_server = scores.pop(mount.server)
    of_zygote = scores.pop(min(scores))
    assert of_zygote == of_server
    assert scores
    assert {*scores.values()} == {min(1000, of_server + 500)}


def oom_score_adj(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


@pytest.fixture
def ledger(build: Callable[[str], Path]) -> Iterator[Ledger]:
    ledger = Ledger([str(build("parent")), "--times", str(build("ledger"))])
    yield ledger
    ledger.end()


def test_a_server_that_the_oom_killer_kills_hurts_nobody(
    group: Group, unmounted: Mount, spawn: Callable[..., Target], ledger: Ledger
) -> None:
    target = spawn("reserve", 1, 60_000)
    unmounted.make()
    # It is the kernel's choice whom it kills: the server, or a worker.
    for pid in (target.pid, ledger.pid):
        for text in ("its worker was killed", Reason.SURPRISE.text):
            unmounted.allow(f"process {pid}: {text}")
    server = unmounted.server
    for pid in family(server):
        (group.path / "cgroup.procs").write_text(str(pid))
    with opened(unmounted / ledger.pid) as held, opened(unmounted / target.pid) as fd:
        assert os.read(held, 4) == b"\x7fELF"
        group.limit(group.usage + 4 * MIB)
        assert errno_of(lambda: os.read(fd, 4)) in CUT_OFF
    assert group.killed >= 1
    ledger.assert_unhurt()
    eventually(partial(is_free, target.pid))
    assert target.popen.poll() is None
    group.lift()
    if errno_of(lambda: os.stat(unmounted.path)) == 0:
        with opened(unmounted / target.pid) as fd:
            assert os.read(fd, 4) == b"\x7fELF"
        end(server)
    else:
        assert gcorefs("umount", unmounted.path).returncode == 0


# It is killed when a part of the file is written.
KILLED = """
import os, signal
from gcorefs.cli import main
from gcorefs.export.sink import FileSink

def write_and_die(sink, data):
    write(sink, data)
    os.kill(os.getpid(), signal.SIGKILL)

write, FileSink.write = FileSink.write, write_and_die
main()
"""


@pytest.mark.parametrize("is_there", [False, True])
def test_killed_in_the_middle_it_leaves_nothing(
    spawn: Callable[..., Target], tmp_path: Path, is_there: bool
) -> None:
    target = spawn("bulk", 8)
    if is_there:
        (tmp_path / "core").write_bytes(b"old")
    words = ("dump", target.pid, "-o", tmp_path / "core")
    assert run(sys.executable, "-c", KILLED, *words).returncode == -signal.SIGKILL
    eventually(lambda: is_free(target.pid))
    assert "gap" in target.ask("")
    assert os.listdir(tmp_path) == ["core"] * is_there
    if is_there:
        assert (tmp_path / "core").read_bytes() == b"old"


def test_a_copy_that_does_not_fit_into_the_cgroup_is_not_made(
    group: Group, spawn: Callable[..., Target], tmp_path: Path
) -> None:
    group.limit(80 * MIB)
    words = ("dump", spawn("bulk", 64).pid, "--hold", "copy", "-o", tmp_path / "core")
    result = group.run(GCOREFS, *words)
    assert (result.returncode, group.killed) == (0, 0)
    assert re.fullmatch(
        rb"held until it was written, not copied: memory is short for its 6[0-9] MiB "
        rb"\(the limit of our cgroup is 80 MiB\)\n",
        result.stderr,
    )
    assert_whole(tmp_path / "core")


def test_a_copy_that_fits_into_the_cgroup_is_made(
    group: Group, spawn: Callable[..., Target], tmp_path: Path
) -> None:
    group.limit(200 * MIB)
    words = ("dump", spawn("bulk", 64).pid, "--hold", "copy", "-o", tmp_path / "core")
    result = group.run(GCOREFS, *words)
    assert (result.returncode, result.stderr, group.killed) == (0, b"", 0)
    assert_whole(tmp_path / "core")
