"""The rpm, installed by rpm, used, upgraded and removed.

The machine is a Debian: its database of rpm is empty, and what a distribution with rpm would have
in it is told by one package without files.  That provides what the libraries of the machine provide
(rpm's own elfdeps says it), so rpm checks what the package requires against this machine.
"""

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from gcorefs import __version__
from tests.packages.clean_machine import CleanMachine, boot
from tests.packages.test_contents import output
from tests.packages.test_installed import MOUNT, UNIT, servers

# Debian 12's rpm installs nothing without this option, and Debian 13's does not know it.
FORCE = "$(rpm --force-debian --version >/dev/null 2>&1 && echo --force-debian || true)"
RPM = f"rpm {FORCE} --nosignature"
GIVEN = "/run/given/gcorefs.rpm"

# fuse3 and the interpreter are named; rtld(GNU_HASH) is what glibc's package says of its linker.
REST = """
Name: rest
Version: 1
Release: 1
Summary: What is on this machine
License: none
BuildArch: noarch
AutoReqProv: no
Provides: {provides}
%description
%{{summary}}.
%files
"""
PROVIDED = """
ldconfig -p | sed -n 's/.*=> //p' | /usr/lib/rpm/elfdeps --provides | sort -u
ls -d /usr/bin/python3.*[0-9]
command -v fusermount3 >/dev/null && echo fuse3
echo 'rtld(GNU_HASH)'
"""
"""What the machine has, a line each."""


@pytest.fixture
def machine(
    lower: Path, given: Path, packages: dict[str, Path], tmp_path: Path
) -> Iterator[CleanMachine]:
    """A machine with rpm, and what the package depends on, from Debian's packages."""
    depends = output("dpkg-deb", "-f", packages["deb"], "Depends")
    words = shlex.quote(f"rpm, {depends}".strip())
    with boot(lower, given, tmp_path) as machine:
        machine.says("ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 || apt-get -qq update")
        machine.says(f"apt-get -qq satisfy -y --no-install-recommends {words}")
        yield machine


def tell_the_rest(machine: CleanMachine) -> None:
    """Have the database say what the machine has."""
    spec = REST.format(provides=", ".join(machine.says(PROVIDED).splitlines()))
    machine.says(f"cat >/tmp/rest.spec <<'END'\n{spec}\nEND\nrpmbuild --quiet -bb /tmp/rest.spec")
    machine.says(f"{RPM} -i ~/rpmbuild/RPMS/noarch/rest-1-1.noarch.rpm")


def test_without_what_it_needs_it_is_not_installed(machine: CleanMachine) -> None:
    refused = machine.shell(f"{RPM} -i {GIVEN}")
    assert refused.returncode != 0
    assert "fuse3 is needed by gcorefs" in refused.stderr
    assert "libfuse3.so." in refused.stderr


def test_from_the_installation_to_the_removal(machine: CleanMachine) -> None:
    tell_the_rest(machine)
    # As distributions with rpm have it: nothing is enabled of itself.
    machine.says("mkdir -p /etc/systemd/system-preset")
    machine.says("echo 'disable *' >/etc/systemd/system-preset/99-default.preset")
    machine.says(f"{RPM} -i {GIVEN}; {RPM} -e gcorefs")  # the database has its files now
    before = machine.changes()

    machine.says(f"{RPM} -i {GIVEN}")
    assert machine.says(f"{RPM} -V gcorefs") == ""
    assert machine.says("gcorefs --version") == f"gcorefs, version {__version__}\n"
    assert machine.shell(f"systemctl is-enabled {UNIT}").stdout == "disabled\n"
    machine.assert_cores("gcorefs dump $pid -o /tmp/core")
    machine.says("mkdir -p /mnt/here; mount -t gcorefs gcorefs /mnt/here")
    assert machine.mounts()["/mnt/here"] == "fuse.gcorefs"
    machine.says("umount /mnt/here; rmdir /mnt/here")

    machine.systemctl("enable", "--now", UNIT)
    assert machine.mounts()[MOUNT] == "fuse.gcorefs"
    machine.assert_cores(f"cp {MOUNT}/$pid /tmp/core")
    first = machine.show(UNIT, "MainPID")

    # An upgrade: the new server serves, and is enabled as before.
    machine.says(f"{RPM} -U --replacepkgs {GIVEN}")
    assert machine.show(UNIT, "MainPID") not in ("0", first)
    assert machine.mounts()[MOUNT] == "fuse.gcorefs"
    assert machine.systemctl("is-enabled", UNIT) == b"enabled\n"

    # What an administrator has written is kept, under another name.
    machine.says(f"echo '# mine' >>/etc/gcorefs.toml; {RPM} -e gcorefs")
    assert MOUNT not in machine.mounts()
    assert machine.show(UNIT, "LoadState") == "not-found"
    assert servers(machine) == "0"
    assert machine.says("cat /etc/gcorefs.toml.rpmsave").endswith("# mine\n")
    left = machine.changes() - before - {"etc/gcorefs.toml.rpmsave"}
    assert left == set()


def test_the_presets_decide_whether_it_is_enabled(machine: CleanMachine) -> None:
    tell_the_rest(machine)
    machine.says("mkdir -p /etc/systemd/system-preset")
    machine.says(f"echo 'enable {UNIT}' >/etc/systemd/system-preset/50-site.preset")
    machine.says(f"{RPM} -i {GIVEN}")
    assert machine.systemctl("is-enabled", UNIT) == b"enabled\n"
    assert machine.show(UNIT, "ActiveState") == "inactive"
