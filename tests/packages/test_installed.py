"""The package, installed on a machine with systemd, used, and removed."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from gcorefs import __version__
from tests.packages.clean_machine import CleanMachine, boot

UNIT = "gcorefs.service"
MOUNT = "/mnt/gcore"

# dpkg and apt themselves, and what the dependencies of the package have brought.
KEPT_BY_OTHERS = ("var/lib/dpkg", "var/lib/apt", "var/cache", "var/log", "etc/ld.so.cache")
# deb-systemd-helper(1p) makes this folder for all services that are enabled, and leaves it.
FOLDER_OF_ALL = "var/lib/systemd/deb-systemd-helper-enabled/multi-user.target.wants"


def install(machine: CleanMachine) -> None:
    """As the manual says it."""
    refresh = "ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 || apt-get -qq update;"
    machine.says(f"{refresh} apt-get -qq install -y --no-install-recommends /run/given/gcorefs.deb")


@pytest.fixture(scope="module")
def installed(
    lower: Path, given: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CleanMachine]:
    with boot(lower, given, tmp_path_factory.mktemp("installed")) as machine:
        install(machine)
        yield machine


def test_the_commands_run(installed: CleanMachine) -> None:
    assert installed.says("gcorefs --version") == f"gcorefs, version {__version__}\n"
    assert installed.says("gcorefs-gcore --version").strip()
    installed.assert_cores("gcorefs dump $pid -o /tmp/core")
    installed.assert_cores(
        "gcorefs-gcore -o /tmp/core $pid >/dev/null; mv /tmp/core.$pid /tmp/core"
    )


def test_they_see_nothing_of_the_callers_python(installed: CleanMachine) -> None:
    installed.says("mkdir -p /root/path && echo 'raise SystemExit(3)' >/root/path/click.py")
    installed.says("cd /root/path && PYTHONPATH=/root/path PYTHONHOME=/nowhere gcorefs --version")


@pytest.mark.parametrize(
    ("words", "expected"),
    [("du", {"dump"}), ("mount", {"mount", "mount-core"}), ("dump --pol", {"--policy"})],
)
def test_bash_completes_a_word(installed: CleanMachine, words: str, expected: set[str]) -> None:
    split = words.split()
    script = f"""
    source /usr/share/bash-completion/completions/gcorefs
    COMP_WORDS=(gcorefs {words}) COMP_CWORD={len(split)}
    $(complete -p gcorefs | sed 's/.*-F \\([^ ]*\\).*/\\1/') gcorefs {split[-1]}
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    assert set(installed.says(f"bash -c {shlex.quote(script)}").split()) == expected


def test_mount_knows_the_type(installed: CleanMachine) -> None:
    installed.says("mkdir -p /mnt/here; mount -t gcorefs gcorefs /mnt/here -o rw,nofail,max_stop=9")
    try:
        assert installed.mounts()["/mnt/here"] == "fuse.gcorefs"
        installed.assert_cores("cp /mnt/here/$pid /tmp/core")
        again = installed.shell("mount -t gcorefs gcorefs /mnt/here")
        assert (again.returncode, again.stderr.count("\n")) == (32, 1), again.stderr
        assert "already mounted" in again.stderr
        changed = installed.shell("mount -o remount,hold=copy /mnt/here")
        assert changed.returncode == 32, changed.stderr
        assert "unmount it" in changed.stderr
    finally:
        installed.says("umount /mnt/here")
    assert "/mnt/here" not in installed.mounts()


def test_mount_knows_the_type_as_the_kernel_names_it(installed: CleanMachine) -> None:
    installed.says("mkdir -p /mnt/here; mount -t fuse.gcorefs none /mnt/here; umount /mnt/here")


def test_mount_says_what_is_wrong(installed: CleanMachine) -> None:
    installed.says("mkdir -p /mnt/here")
    for words, status, text in (
        ("-t gcorefs gcorefs /mnt/here -o hodl=copy", 32, "hodl=copy"),
        ("-t gcorefs gcorefs /mnt/nowhere", 32, "nowhere"),
    ):
        result = installed.shell(f"mount {words}")
        assert result.returncode == status, result.stderr
        assert text in result.stderr
    installed.says("mount -fv -t gcorefs gcorefs /mnt/here")
    installed.says("mount -s -f -t gcorefs gcorefs /mnt/here -o hodl=copy")
    assert "/mnt/here" not in installed.mounts()


FSTAB = "gcorefs /mnt/line gcorefs noauto,nofail,x-systemd.mount-timeout=60,hold=copy 0 0"


def test_a_line_of_fstab_mounts(installed: CleanMachine) -> None:
    installed.says(f"mkdir -p /mnt/line; echo '{FSTAB}' >/etc/fstab")
    installed.says("mount /mnt/line")
    assert installed.mounts()["/mnt/line"] == "fuse.gcorefs"
    installed.says("umount /mnt/line")
    # Two times: the second time it is mounted already.
    installed.says("sed -i s/noauto,// /etc/fstab; mount -a -t gcorefs; mount -a -t gcorefs")
    assert installed.says("findmnt -n -o SOURCE,FSTYPE /mnt/line").split() == [
        "gcorefs", "fuse.gcorefs",
    ]  # fmt: skip
    installed.says("umount /mnt/line")


def test_systemd_mounts_a_line_of_fstab(installed: CleanMachine) -> None:
    installed.says(f"mkdir -p /mnt/line; echo '{FSTAB}' >/etc/fstab; systemctl daemon-reload")
    installed.systemctl("start", "mnt-line.mount")
    assert installed.mounts()["/mnt/line"] == "fuse.gcorefs"
    installed.assert_cores("cp /mnt/line/$pid /tmp/core")
    installed.systemctl("stop", "mnt-line.mount")
    assert "/mnt/line" not in installed.mounts()
    installed.says(": >/etc/fstab; systemctl daemon-reload")


def servers(machine: CleanMachine) -> str:
    return machine.says("cat /proc/[0-9]*/comm | grep -c gcorefs || true").strip()


def test_from_the_installation_to_the_purge(lower: Path, given: Path, tmp_path: Path) -> None:
    with boot(lower, given, tmp_path) as machine:
        install(machine)
        machine.says("apt-get -qq purge -y gcorefs")  # what it depends on stays
        before = machine.changes()

        install(machine)
        assert machine.shell(f"systemctl is-enabled {UNIT}").stdout == "disabled\n"
        assert machine.show(UNIT, "ActiveState") == "inactive"

        machine.systemctl("enable", "--now", UNIT)
        assert machine.mounts()[MOUNT] == "fuse.gcorefs"
        machine.assert_cores(f"cp {MOUNT}/$pid /tmp/core")
        first = machine.show(UNIT, "MainPID")

        # An upgrade: the new server serves, and is enabled as before.
        machine.says("apt-get -qq install -y --reinstall /run/given/gcorefs.deb")
        assert machine.show(UNIT, "MainPID") not in ("0", first)
        assert machine.mounts()[MOUNT] == "fuse.gcorefs"
        assert machine.systemctl("is-enabled", UNIT) == b"enabled\n"

        machine.says("echo '# mine' >>/etc/gcorefs.toml; apt-get -qq remove -y gcorefs")
        assert MOUNT not in machine.mounts()
        assert machine.show(UNIT, "LoadState") == "not-found"
        assert servers(machine) == "0"
        assert machine.says("cat /etc/gcorefs.toml").endswith("# mine\n")

        # What an administrator has chosen is chosen still.
        install(machine)
        assert machine.says("cat /etc/gcorefs.toml").endswith("# mine\n")
        assert machine.systemctl("is-enabled", UNIT) == b"enabled\n"

        machine.systemctl("start", UNIT)
        machine.says("apt-get -qq purge -y gcorefs")
        assert MOUNT not in machine.mounts()
        left = machine.changes() - before - {FOLDER_OF_ALL}
        assert {path for path in left if not path.startswith(KEPT_BY_OTHERS)} == set()
