"""A machine that may be changed: systemd on a root of its own, over one that stays as it is.

What the machine writes is in memory (overlayfs), and goes with it.  The root below is that of the
machine where the tests run, or a fresh Debian (setup/debian).  No unit starts by itself.
"""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.mounted.conftest import eventually
from tests.mounted.machine import ENTER, Machine, cgroup

BOOT = """
set -eu
lower=$1 memory=$2 given=$3
mount -t tmpfs -o mode=755 machine "$memory"
cd "$memory"
mkdir upper work root
mount -t overlay -o lowerdir="$lower",upperdir=upper,workdir=work machine root
cd root
# The network is this machine's.
cp -L --remove-destination /etc/resolv.conf etc/resolv.conf
cp -L --remove-destination /etc/ssl/certs/ca-certificates.crt etc/ssl/certs/ca-certificates.crt
rm -rf etc/systemd/system/*.wants usr/lib/systemd/system/*.wants lib/systemd/system/*.wants
rm -f usr/sbin/policy-rc.d # of a container, or of setup/packages
rm -f var/lib/man-db/auto-update # no index of all man pages after each installation
: >etc/fstab
: >etc/machine-id
mount -t proc proc proc
mount --rbind /sys sys
mount -t tmpfs -o mode=755 machine dev
for node in null zero full random urandom tty fuse; do cp -a /dev/$node dev; done
ln -s /proc/self/fd dev/fd
mkdir dev/shm dev/pts
mount -t devpts -o newinstance,ptmxmode=0666 machine dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=1777 machine dev/shm
mount -t tmpfs -o mode=755 machine run
mount -t tmpfs -o mode=1777 machine tmp
mkdir run/changes run/given run/generators
mount --bind "$memory/upper" run/changes
mount --bind "$given" run/given
ln -s /usr/lib/systemd/system-generators/systemd-fstab-generator run/generators
mkdir tmp/old
pivot_root . tmp/old
umount -l /tmp/old
rmdir /tmp/old
# The kernel refuses to mount a file system twice at one place (fs/namespace.c, do_add_mount).
mount -t tmpfs machine /sys/fs/cgroup
mount -t cgroup2 machine /sys/fs/cgroup
export container=other SYSTEMD_GENERATOR_PATH=/run/generators
exec /lib/systemd/systemd --system --unit=basic.target \
    --log-target=console --log-level=warning --show-status=no
"""

# As in a shell of root's, without what this machine has in its environment.
ENVIRONMENT = ["env", "-i", "HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"]
ENVIRONMENT += ["DEBIAN_FRONTEND=noninteractive"]

# close(2) returns before the last thread is let go: the RELEASE request comes after it.
A_CORE = """
{target} >/dev/null & pid=$!
until [ "$(cat /proc/$pid/comm)" = sleep ]; do :; done
{take}
until grep -q '^State:[[:space:]]*S' /proc/$pid/status; do :; done
kill -KILL $pid
{info} --json /tmp/core
"""


class CleanMachine(Machine):
    """A machine that may be changed."""

    lower: Path

    def shell(self, script: str) -> "subprocess.CompletedProcess[str]":
        """Run a script in the machine to its end."""
        words = self.words(*ENVIRONMENT, "sh", "-euc", script)
        return subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)

    def says(self, script: str) -> str:
        """The output of a script that succeeds."""
        result = self.shell(script)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def assert_cores(
        self, take: str, *, target: str = "sleep 1000", info: str = "gcorefs info"
    ) -> None:
        """The script `take` writes /tmp/core of process $pid: it is whole, and $pid sleeps on."""
        script = A_CORE.format(target=target, take=take, info=info)
        assert json.loads(self.says(script))["missing"] == 0

    def changes(self) -> set[str]:
        """The paths of the root that are other than below it: new, written or removed."""
        top = self.root / "run/changes"
        found = {
            str(Path(folder, name).relative_to(top))
            for folder, folders, files in os.walk(top)
            for name in folders + files
        }
        # A folder is there too if something in it was changed once.
        return {
            path for path in found if not ((top / path).is_dir() and (self.lower / path).is_dir())
        }

    def mounts(self) -> dict[str, str]:
        """The type of each mount, by its place."""
        table = (self.root / "proc/1/mounts").read_text()
        return {row[1]: row[2] for row in map(str.split, table.splitlines())}


@contextlib.contextmanager
def boot(lower: Path, given: Path, folder: Path) -> Iterator[CleanMachine]:
    """The booted machine over the root `lower`.  It finds what is in `given` in /run/given."""
    memory = folder / "memory"
    memory.mkdir()
    with cgroup() as group, (folder / "systemd.log").open("wb") as output:
        namespaces = ["--pid", "--mount", "--cgroup", "--uts", "--ipc"]
        command: list[str | Path] = ["sh", "-c", ENTER, "enter", group, *namespaces, "--mount-proc"]
        command += ["sh", "-c", BOOT, "boot", lower, memory, given]
        with subprocess.Popen(command, stdout=output, stderr=output) as unshare:
            try:
                children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children")
                eventually(lambda: unshare.poll() is not None or bool(children.read_text()))
                machine = CleanMachine(int(children.read_text()), group)
                machine.lower = lower
                private = machine.root / "run/systemd/private"
                eventually(lambda: unshare.poll() is not None or private.exists())
                yield machine
            finally:
                unshare.kill()
