"""The image of the example for Kubernetes: made and used as its files say it.

podman builds and runs it where podman runs.  Everywhere, the commands of Containerfile run in a
root of their own, and what a container is given is tried there.
"""

import platform
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gcorefs import __version__
from tests.packages.clean_machine import ENVIRONMENT, CleanMachine, boot
from tests.packages.conftest import TREE

EXAMPLE = TREE / "examples/kubernetes"
MOUNT = "/mnt/gcore"
OF_A_USER = "setpriv --reuid=65534 --clear-groups sleep 1000"


def container_of(name: str) -> dict[str, Any]:
    """The container of an example."""
    (found,) = [
        each
        for each in yaml.safe_load_all((EXAMPLE / name).read_text())
        if each["kind"] == "DaemonSet"
    ]
    (container,) = found["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def named_capabilities() -> list[str]:
    """What the container without a mount is given."""
    context = container_of("daemonset-without-mount.yaml")["securityContext"]
    assert context["capabilities"]["drop"] == ["ALL"]
    return list(context["capabilities"]["add"])


def mount_and_probe() -> tuple[str, str]:
    """The command of the container with a mount, and how it is asked whether it is ready."""
    container = container_of("daemonset.yaml")
    assert container["securityContext"] == {"privileged": True}
    probe = container["readinessProbe"]["exec"]["command"]
    return shlex.join(container["command"]), shlex.join(probe)


def steps_of_the_image() -> list[str]:
    """The commands of Containerfile, with what it copies in the folder that the machine is given.
    AssertionError: it has another instruction."""
    text = (EXAMPLE / "Containerfile").read_text().replace("\\\n", "")
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
    """A root that the commands of Containerfile have made, as podman build runs them."""
    with boot(lower, given, tmp_path_factory.mktemp("image")) as machine:
        for step in steps_of_the_image():
            machine.says(step)
        yield machine


def test_the_image_has_what_it_names(image: CleanMachine) -> None:
    assert image.says("gcorefs --version") == f"gcorefs, version {__version__}\n"
    image.says("command -v eu-stack; ldconfig -p | grep -q libbpf.so.1")
    image.says("! ls /tmp/gcorefs_*.deb /var/lib/apt/lists/*_Packages 2>/dev/null")


@pytest.mark.parametrize("command", ["dump $pid -o", "dump $pid --policy @all >"])
def test_the_named_capabilities_suffice(image: CleanMachine, command: str) -> None:
    names = ",".join(f"+{name.lower()}" for name in named_capabilities())
    limited = f"setpriv --bounding-set=-all,{names} --inh-caps=-all"
    image.assert_cores(f"{limited} gcorefs {command} /tmp/core", target=OF_A_USER)


def test_the_mount_answers_its_probe(image: CleanMachine) -> None:
    command, probe = mount_and_probe()
    # In a mount namespace of its own, as in a container.
    image.says(f"""
        unshare --mount --propagation private sh -euc '
            {command} & server=$!
            until {probe}; do :; done
            head -c 4 {MOUNT}/@stacks/1 | tail -c 3 | grep -q ELF
            kill $server
            wait $server
        '
    """)
    assert MOUNT not in image.mounts()


# crun refuses control groups of both versions, which some systems have.  With version 2 alone it
# sets RLIMIT_MEMLOCK, for which it needs CAP_SYS_RESOURCE.  So it finds version 1 alone, if there
# is any.
PREPARE = """
command -v podman >/dev/null || {
    apt-get -qq update
    apt-get -qq install -y --no-install-recommends podman
} >/dev/null
if grep -q '^[1-9]' /proc/self/cgroup; then
    mount -t tmpfs -o mode=755 cgroups /sys/fs/cgroup
    sed -n 's/^[1-9][0-9]*:\\([^:]*\\):.*/\\1/p' /proc/self/cgroup | while read -r name; do
        mkdir "/sys/fs/cgroup/${name#name=}"
        mount -t cgroup -o "$name" cgroup "/sys/fs/cgroup/${name#name=}"
    done
fi
"""
# The units of its package may have run it already, with another driver.
STORE = "--root /srv/podman --runroot /run/podman-test --tmpdir /run/podman-tmp"
PODMAN = f"podman {STORE} --storage-driver vfs --cgroup-manager cgroupfs"
# Limits that nobody needs a capability for.
LIMITS = "--ulimit nofile=4096:4096 --ulimit nproc=4096:4096"
GROUP = "/gcorefs-podman"
RUN = f"{PODMAN} run {LIMITS} --cgroup-parent {GROUP} --network none --pid host"
TMP = "--volume /tmp:/tmp"
# Those of version 1 are not below the machine's own group.  A monitor (conmon) ends after podman.
FORGET = f"""
for group in /sys/fs/cgroup/*{GROUP}; do
    while [ -d "$group" ]; do find "$group" -depth -type d -exec rmdir {{}} + || :; done 2>/dev/null
done
"""


@pytest.fixture(scope="module")
def base(lower: Path) -> Path:
    """A small Debian, of the release for which the package was built."""
    if lower != Path("/"):
        return lower
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    folder = TREE / ".cache" / f"clean-{release}"
    command = ["setup/debian", str(folder), release, "systemd,ca-certificates"]
    made = subprocess.run(
        command, cwd=TREE, capture_output=True, text=True, timeout=280, check=False
    )
    if made.returncode:
        last = (made.stdout + made.stderr).strip().splitlines()[-1:]
        pytest.skip(f"no mirror has a Debian for the image: {last}")
    return folder


@pytest.fixture(scope="module")
def podman(
    lower: Path, base: Path, packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CleanMachine]:
    """A machine where podman runs, and has built the image as `gcorefs`."""
    given = tmp_path_factory.mktemp("context")
    shutil.copy(packages["deb"], given)
    shutil.copy(EXAMPLE / "Containerfile", given)
    release = dict(
        line.split("=", 1) for line in (base / "etc/os-release").read_text().splitlines()
    )["VERSION_CODENAME"]
    name = f"docker.io/library/debian:{release}-slim"
    with boot(lower, given, tmp_path_factory.mktemp("podman")) as machine:
        machine.says(PREPARE)
        tar = ["tar", "-C", str(base), "-c", "."]
        with subprocess.Popen(tar, stdout=subprocess.PIPE) as packed:
            words = machine.words(*ENVIRONMENT, *PODMAN.split(), "import", "-", name)
            subprocess.run(words, stdin=packed.stdout, check=True, timeout=200)
        try:
            tried = machine.shell(f"{RUN} --rm {name} true")
            if tried.returncode:
                pytest.skip(f"podman does not run here: {tried.stderr.strip()}")
            machine.says(f"""
                {PODMAN} build {LIMITS} --network host --pull=never --layers=false \\
                    --build-arg RELEASE={release} -t localhost/gcorefs \\
                    -f /run/given/Containerfile /run/given
            """)
            yield machine
        finally:
            machine.says(FORGET)


def test_podman_takes_a_core_without_a_mount(podman: CleanMachine) -> None:
    added = ",".join(named_capabilities())
    run = f"{RUN} --rm --cap-drop ALL --cap-add {added} {TMP} localhost/gcorefs"
    podman.assert_cores(
        f"{run} gcorefs dump $pid -o /tmp/core", target=OF_A_USER, info=f"{run} gcorefs info"
    )


def test_podman_takes_a_core_through_the_mount_of_a_container(podman: CleanMachine) -> None:
    command, probe = mount_and_probe()
    inside = f"{PODMAN} exec gcorefs"
    podman.says(f"{RUN} --detach --privileged --name gcorefs {TMP} localhost/gcorefs {command}")
    podman.says(f"until {inside} {probe}; do {inside} true; done")  # it fails if the server ended
    podman.assert_cores(
        f"{inside} cat {MOUNT}/$pid >/tmp/core",
        target=OF_A_USER,
        info=f"{inside} gcorefs info",
    )
    podman.says(f"{PODMAN} stop gcorefs")
    ended = f"{PODMAN} inspect --format '{{{{.State.ExitCode}}}}' gcorefs"
    assert podman.says(ended) == "0\n"
    assert MOUNT not in podman.mounts()
