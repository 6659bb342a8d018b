"""The package, installed on a machine with systemd, used, and removed."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gcorefs import __version__
from tests.packages.clean_machine import CleanMachine, boot
from tests.packages.conftest import TREE

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


# close(2) returns before the last thread is let go: the RELEASE request comes after it.
A_CORE = """
sleep 1000 & pid=$!
until [ "$(cat /proc/$pid/comm)" = sleep ]; do :; done
{take}
until grep -q '^State:[[:space:]]*S' /proc/$pid/status; do :; done
kill -KILL $pid
gcorefs info --json /tmp/core
"""


def assert_cores(machine: CleanMachine, take: str) -> None:
    """A core is taken so, is whole, and its process sleeps on."""
    assert json.loads(machine.says(A_CORE.format(take=take)))["missing"] == 0


def test_the_commands_run(installed: CleanMachine) -> None:
    assert installed.says("gcorefs --version") == f"gcorefs, version {__version__}\n"
    assert installed.says("gcorefs-gcore --version").strip()
    assert_cores(installed, "gcorefs dump $pid -o /tmp/core")
    assert_cores(
        installed, "gcorefs-gcore -o /tmp/core $pid >/dev/null; mv /tmp/core.$pid /tmp/core"
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
        assert_cores(installed, "cp /mnt/here/$pid /tmp/core")
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
    assert_cores(installed, "cp /mnt/line/$pid /tmp/core")
    installed.systemctl("stop", "mnt-line.mount")
    assert "/mnt/line" not in installed.mounts()
    installed.says(": >/etc/fstab; systemctl daemon-reload")


def container_of(name: str) -> dict[str, Any]:
    """The container of an example for Kubernetes."""
    text = (TREE / "examples/kubernetes" / name).read_text()
    (found,) = [each for each in yaml.safe_load_all(text) if each["kind"] == "DaemonSet"]
    (container,) = found["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def steps_of_the_image() -> list[str]:
    """The commands of Containerfile, with what it copies in the folder that the machine is given.
    AssertionError: it has another instruction."""
    text = (TREE / "examples/kubernetes/Containerfile").read_text().replace("\\\n", "")
    found = []
    for line in text.splitlines():
        instruction, _, rest = line.partition(" ")
        if instruction == "RUN":
            found.append(rest)
        elif instruction == "COPY":
            assert rest == "gcorefs_*.deb /tmp/"
            found.append("cp /run/given/gcorefs.deb /tmp/gcorefs_given.deb")
        else:
            assert instruction in ("#", "#  ", "", "ARG", "FROM", "CMD"), line
    return found


@pytest.fixture(scope="module")
def image(
    lower: Path, given: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CleanMachine]:
    """A root that the commands of Containerfile have made, as podman build runs them.

    podman itself does not run everywhere: with control groups of both versions crun refuses.
    """
    with boot(lower, given, tmp_path_factory.mktemp("image")) as machine:
        for step in steps_of_the_image():
            machine.says(step)
        yield machine


def test_the_image_of_the_example_for_kubernetes_has_what_it_names(image: CleanMachine) -> None:
    assert image.says("gcorefs --version") == f"gcorefs, version {__version__}\n"
    image.says("command -v eu-stack; ldconfig -p | grep -q libbpf.so.1")
    image.says("! ls /tmp/gcorefs_*.deb /var/lib/apt/lists/*_Packages 2>/dev/null")


def test_the_capabilities_of_the_example_for_kubernetes_suffice(image: CleanMachine) -> None:
    context = container_of("daemonset-without-mount.yaml")["securityContext"]
    names = ",".join(f"+{name.lower()}" for name in context["capabilities"]["add"])
    limited = f"setpriv --bounding-set=-all,{names} --inh-caps=-all"
    core = A_CORE.replace("sleep 1000 &", "setpriv --reuid=65534 --clear-groups sleep 1000 &")
    for command in ("gcorefs dump $pid -o /tmp/core", "gcorefs dump $pid --policy @all >/tmp/core"):
        told = image.says(core.format(take=f"{limited} {command}"))
        assert json.loads(told)["missing"] == 0


def test_the_mount_of_the_example_for_kubernetes_answers_its_probe(image: CleanMachine) -> None:
    container = container_of("daemonset.yaml")
    command, probe = (shlex.join(words) for words in (
        container["command"], container["readinessProbe"]["exec"]["command"]
    ))  # fmt: skip
    # In a mount namespace of its own, as in a container.
    image.says(f"""
        mkdir -p {MOUNT}
        unshare --mount --propagation private sh -euc '
            {command} & server=$!
            until {probe}; do :; done
            head -c 4 {MOUNT}/@stacks/1 | tail -c 3 | grep -q ELF
            kill $server
            wait $server
        '
    """)
    assert MOUNT not in image.mounts()


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
        assert_cores(machine, f"cp {MOUNT}/$pid /tmp/core")
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
