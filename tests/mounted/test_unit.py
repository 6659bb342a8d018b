"""The unit, run by systemd itself in a separate machine."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcorefs.kernel.proc import procfile, task_status
from tests.conftest import Target
from tests.features import needs_bpf
from tests.mounted import deeds, uses
from tests.mounted.conftest import UNIT, eventually
from tests.mounted.machine import Machine, boot
from tests.mounted.test_capabilities import NUMBERS, granted

MOUNT = "/mnt/gcore"
PROGRAM = "/usr/local/bin/gcorefs"  # a folder that is not in every PATH

# Only this is changed in the unit: other users may open; a call that is not in the filter kills at
# once, so that it is noticed; the watchdog waits less long; we can read the log.
(WATCHDOG,) = re.findall(r"^WatchdogSec=(\d+)$", UNIT.read_text(), re.MULTILINE)
STRICT = f"""
[Service]
ExecStart=
ExecStart={PROGRAM} mount --foreground -o allow_other /mnt/gcore
SystemCallErrorNumber=kill
WatchdogSec={int(WATCHDOG) // 6}
StandardError=append:/run/gcorefs.log
"""

# What a hostile service could try.  EUCLEAN is the errno of the filter, and of nothing else.
HARM = f"""
[Service]
Type=oneshot
ExecStartPre=
ExecStart=
ExecStart={uses.PYTHON} {deeds.__file__}
ExecStopPost=
Restart=no
SystemCallErrorNumber=EUCLEAN
StandardOutput=truncate:/run/deeds.json
"""


METRICS = (UNIT.parent / "metrics.conf").read_text()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("machine")
    units = folder / "units"
    for name, drop_in in (("gcorefs.service", STRICT), ("harm.service", HARM)):
        (units / f"{name}.d").mkdir(parents=True)
        (units / name).write_bytes(UNIT.read_bytes())
        (units / f"{name}.d" / "test.conf").write_text(drop_in)
    with boot(units, folder / "log") as machine:
        yield machine


def name_of(pid: int) -> bytes:
    """Empty if the process has ended: a worker of a server that was killed ends by itself."""
    try:
        return procfile.read(f"{pid}/comm")
    except ProcessLookupError:
        return b""


class Service:
    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.log = machine.root / "run/gcorefs.log"

    def show(self, name: str) -> str:
        return self.machine.show(UNIT.name, name)

    @property
    def server(self) -> int:
        """Its pid, as we number it."""
        (pid,) = (pid for pid in self.pids if name_of(pid) == b"gcorefs\n")
        return pid

    @property
    def pids(self) -> list[int]:
        """Its pid and those of its workers."""
        folder = self.machine.cgroup / self.show("ControlGroup").lstrip("/")
        return [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]

    @property
    def is_mounted(self) -> bool:
        """As the first process of the machine sees it."""
        table = Path(f"/proc/{self.machine.init}/mounts").read_text()
        return any(line.split()[1] == MOUNT for line in table.splitlines())

    def use(self) -> dict[str, str | None]:
        """The result of each use; None if nothing went wrong."""
        result = self.machine.run(uses.PYTHON, uses.__file__, MOUNT)
        assert result.returncode == 0, result.stderr
        told: dict[str, str | None] = json.loads(result.stdout)
        return told


def test_with_its_drop_in_it_keeps_counts(machine: Machine) -> None:
    # Its name comes behind that of the test's own.
    drop_in = machine.root / "run/units/gcorefs.service.d/zz-metrics.conf"
    path = machine.root / "run/gcorefs.prom"
    (named,) = re.findall(r"--metrics (\S+)", METRICS)
    drop_in.write_text(METRICS.replace(named, "/run/gcorefs.prom"))
    machine.systemctl("daemon-reload")
    try:
        machine.systemctl("start", UNIT.name)
        assert "gcorefs_stopped_seconds_count 0.0" in path.read_text()
        assert path.stat().st_mode & 0o777 == 0o644
        for count in (1, 2):
            result = machine.run("sh", "-c", f"exec 3<{MOUNT}/1; head -c 64 <&3 >/dev/null")
            assert result.returncode == 0, result.stderr
            eventually(
                lambda count=count: f"seconds_count {count}.0" in path.read_text()  # type: ignore[misc]
            )
        assert machine.show(UNIT.name, "NRestarts") == "0"
    finally:
        machine.systemctl("stop", UNIT.name)
        drop_in.unlink()
        machine.systemctl("daemon-reload")
        (machine.root / "run/gcorefs.log").unlink()


@pytest.fixture
def service(machine: Machine) -> Iterator[Service]:
    service = Service(machine)
    machine.systemctl("start", UNIT.name)
    yield service
    machine.systemctl("stop", UNIT.name)
    assert not service.is_mounted
    logged = service.log.read_text()
    service.log.unlink()
    assert "WARNING" not in logged
    assert "Traceback" not in logged


def test_it_does_all_that_it_is_for(service: Service) -> None:
    assert service.use() == dict.fromkeys(uses.USES)
    assert service.show("NRestarts") == "0"


def test_it_has_what_the_unit_grants_and_no_more(service: Service) -> None:
    status = task_status.status(service.server)
    names = [int(status[key], 16) for key in ("CapEff", "CapPrm", "CapBnd")]
    assert names == [sum(1 << NUMBERS[name] for name in granted())] * 3
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"], status["Umask"]) == (b"1", b"2", b"0077")
    limits = procfile.read(f"{service.server}/limits").decode()
    soft_and_hard = dict(re.findall(r"^(Max .*?)  +(\S+ +\S+)", limits, re.MULTILINE))
    assert soft_and_hard["Max core file size"].split() == ["0", "0"]
    assert int(procfile.read(f"{service.server}/coredump_filter"), 16) == 0


def test_it_has_its_mappings_from_bpf(service: Service) -> None:
    needs_bpf()
    assert service.log.read_text().count("mappings come from BPF\n") == 1


def test_it_is_killed_before_the_processes_that_it_looks_at(service: Service, held: Target) -> None:
    # The pid of the target is its number in the machine.
    theirs = service.machine.run("cat", f"/proc/{held.pid}/oom_score_adj")
    assert int(theirs.stdout) < int(procfile.read(f"{service.server}/oom_score_adj")) == 500
    os.kill(service.server, signal.SIGKILL)  # like the OOM killer: `held` runs on (see its fixture)
    eventually(lambda: service.show("NRestarts") == "1" and service.is_mounted)


def test_a_dead_mount_of_another_server_is_no_obstacle(machine: Machine) -> None:
    machine.run("mkdir", "-p", MOUNT)
    script = (
        f"{PROGRAM} mount -f {MOUNT} & until mountpoint -q {MOUNT}; do :; done; kill -KILL $!; wait"
    )
    machine.run("sh", "-c", script)
    service = Service(machine)
    assert service.is_mounted
    assert machine.run("ls", MOUNT).returncode != 0
    machine.systemctl("start", UNIT.name)
    try:
        assert machine.run("ls", MOUNT).returncode == 0
    finally:
        machine.systemctl("stop", UNIT.name)
    assert not service.is_mounted


def test_its_mounts_are_the_machine_s_and_its_network_is_its_own(service: Service) -> None:
    def is_shared(name: str) -> bool:
        first, own = (os.readlink(f"/proc/{pid}/ns/{name}") for pid in (init, server))
        return first == own

    init, server = service.machine.init, service.server
    assert service.is_mounted
    assert [name for name in ("mnt", "user", "pid", "net", "uts") if is_shared(name)] == [
        "mnt", "user", "pid",
    ]  # fmt: skip


def test_a_thread_that_does_not_stop_is_no_obstacle(
    service: Service, build: Callable[[str], Path]
) -> None:
    target = Target(service.machine.words(str(build("vforker"))))
    try:
        result = service.machine.run("head", "-c", "4", f"{MOUNT}/{target.pid}")
        assert result.stdout == b"\x7fELF"
        eventually(lambda: "(1 did not stop)" in service.log.read_text())
    finally:
        target.kill()


def test_a_server_that_is_killed_is_restarted_and_mounts_again(service: Service) -> None:
    killed = service.server
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: service.show("NRestarts") == "1" and service.show("SubState") == "running")
    assert service.server != killed
    assert service.is_mounted
    assert service.use() == dict.fromkeys(uses.USES)


@pytest.fixture
def held(service: Service, build: Callable[[str], Path]) -> Iterator[Target]:
    """A target that is stopped for a reader, who then waits."""
    target = Target(service.machine.words(str(build("threads")), "1"))
    hold = f"exec 3<{MOUNT}/{target.pid}; head -c 4 <&3; echo; read line"
    words = service.machine.words("sh", "-c", hold)
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdout=pipe, stdin=pipe) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"\x7fELF\n"
        yield target
        reader.kill()
    assert "pong" in target.ask("ping")
    target.kill()


def test_it_ends_in_good_order_while_a_process_is_held(service: Service, held: Target) -> None:
    service.machine.systemctl("stop", UNIT.name)
    assert (service.show("Result"), service.show("ExecMainStatus")) == ("success", "0")
    assert not service.is_mounted


def test_a_server_that_does_not_turn_is_killed_and_its_processes_go_on(
    service: Service, held: Target
) -> None:
    heard = int(service.show("WatchdogTimestampMonotonic"))
    eventually(lambda: int(service.show("WatchdogTimestampMonotonic")) > heard)
    assert service.show("NRestarts") == "0"
    os.kill(service.server, signal.SIGSTOP)
    assert held.ask("ping") == {"pong": 1}
    eventually(lambda: service.show("NRestarts") == "1" and service.show("SubState") == "running")
    assert service.use() == dict.fromkeys(uses.USES)


@pytest.fixture(scope="module")
def harm(machine: Machine) -> dict[str, str]:
    machine.systemctl("start", "harm.service")
    told: dict[str, str] = json.loads((machine.root / "run/deeds.json").read_text())
    return told


ALLOWED = {"a socket of AF_UNIX", "a plain file", "/dev/fuse", "/dev/null"}
ERRNOS = {
    "a socket of AF_INET": "EAFNOSUPPORT",
    "a socket of AF_NETLINK": "EAFNOSUPPORT",
    "memory to write and execute": "EPERM",
    "a namespace by clone": "EPERM",
    "a set-uid file": "EPERM",
    "a device": "EPERM",
    "bpf": "E2BIG",  # it is allowed, and these arguments mean nothing
}
# systemd 257 uses PR_SET_MDWE (PR_SET_MDWE(2const)), and allows seccomp(2) to every service, for
# filters of its own (@sandbox).  A call that libseccomp does not know does not exist either.
NEWER_ERRNOS = {
    "memory to write and execute": "EACCES",
    "seccomp": "EINVAL",
    **dict.fromkeys(deeds.NEWER_CALLS, "ENOSYS"),
}


@pytest.mark.parametrize("deed", deeds.DEEDS)
def test_it_cannot(deed: str, harm: dict[str, str]) -> None:
    usual = "done" if deed in ALLOWED else ERRNOS.get(deed, "EUCLEAN")
    assert harm[deed] in (usual, NEWER_ERRNOS.get(deed))
