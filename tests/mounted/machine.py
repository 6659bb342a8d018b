"""A machine inside this one: systemd as pid 1 in its own namespaces.

Nothing that it does is visible outside.  It has its own mounts, processes, network and names;
everything but /run, /mnt and /dev is read-only; it knows only our units.  Its cgroups are below one
that is made and removed with it.  When its first process is killed, the kernel kills all others of
its pid namespace (pid_namespaces(7)).
"""

import contextlib
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import GCOREFS
from tests.mounted.conftest import eventually, run

# Units that exist from the start (bootup(7)), for the dependencies of our unit.
TARGETS = ("basic", "local-fs", "multi-user", "shutdown", "sysinit")

ENTER = 'echo $$ >"$1/cgroup.procs"; shift; exec unshare --fork --kill-child "$@"'

BOOT = """
set -eu
units=$1 gcorefs=$2
mount -t tmpfs -o mode=755 machine /run
mkdir -m 1777 /run/tmp
cp -r "$units" /run/units
mount -t tmpfs machine /mnt
mount -t tmpfs machine /usr/local/bin
ln -s "$gcorefs" /usr/local/bin/gcorefs
mkdir /run/dev
for node in null zero full random urandom tty fuse; do cp -a /dev/$node /run/dev; done
mknod /run/dev/other c 240 0 # Documentation/admin-guide/devices.txt: for local use
mount -t tmpfs -o mode=755 machine /dev
cp -a /run/dev/. /dev
mkdir /dev/shm
mount -t tmpfs -o mode=1777 machine /dev/shm
# The kernel refuses to mount a file system twice at one place (fs/namespace.c, do_add_mount).
mount -t tmpfs machine /sys/fs/cgroup
mount -t cgroup2 machine /sys/fs/cgroup
mount --bind /proc/sys /proc/sys
for place in / /sys /proc/sys /usr/local/bin; do mount -o remount,bind,ro $place; done
export container=other SYSTEMD_UNIT_PATH=/run/units SYSTEMD_GENERATOR_PATH=
exec /lib/systemd/systemd --system --unit=multi-user.target \
    --log-target=console --log-level=warning --show-status=no
"""


class Machine:
    def __init__(self, init: int, cgroup: Path) -> None:
        self.init = init
        """The pid of its first process, as we number it."""
        self.cgroup = cgroup
        self.root = Path(f"/proc/{init}/root")

    def words(self, *words: object) -> list[str]:
        """The words that run a command in the machine, from outside."""
        return ["nsenter", "--target", str(self.init), "--all", "--", *map(str, words)]

    def run(self, *words: object) -> "subprocess.CompletedProcess[bytes]":
        """Run a command in the machine to its end."""
        environment = os.environ | {"TMPDIR": "/run/tmp"}
        return run(*self.words(*words), env=environment)

    def systemctl(self, *words: str) -> bytes:
        result = self.run("systemctl", *words)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def show(self, unit: str, name: str) -> str:
        """One property of a unit (systemctl(1), show)."""
        return self.systemctl("show", "--value", "--property", name, unit).decode().strip()


@contextlib.contextmanager
def boot(units: Path, log: Path) -> Iterator[Machine]:
    """The booted machine, with our `units`.  `log` gets the messages of systemd itself."""
    for name in TARGETS:
        (units / f"{name}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    with cgroup() as group, log.open("wb") as output:
        namespaces = ["--pid", "--mount", "--cgroup", "--uts", "--ipc", "--net"]
        command: list[str | Path] = ["sh", "-c", ENTER, "enter", group, *namespaces, "--mount-proc"]
        command += ["sh", "-c", BOOT, "boot", units, GCOREFS]
        with subprocess.Popen(command, stdout=output, stderr=output) as unshare:
            try:
                children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children")
                eventually(lambda: bool(children.read_text()))
                machine = Machine(int(children.read_text()), group)
                eventually((machine.root / "run/systemd/private").exists)
                yield machine
            finally:
                unshare.kill()


@contextlib.contextmanager
def cgroup() -> Iterator[Path]:
    """An empty cgroup of version 2, wherever that is mounted."""
    rows = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    top = Path(next(row[1] for row in rows if row[2] == "cgroup2"))
    group = top / f"gcorefs-test-{uuid.uuid4().hex}"
    group.mkdir()
    try:
        yield group
    finally:
        events = group / "cgroup.events"
        eventually(lambda: "populated 0" in events.read_text())
        for folder, _, _ in os.walk(group, topdown=False):
            Path(folder).rmdir()
