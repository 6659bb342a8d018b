"""The capabilities in the unit: all together suffice, and each is needed for something."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import GCOREFS, Mount
from tests.features import needs_bpf
from tests.mounted import uses
from tests.mounted.conftest import UNIT, assert_refused, end, run

# include/uapi/linux/capability.h
NUMBERS = {
    "dac_read_search": 2, "setgid": 6, "setuid": 7, "sys_ptrace": 19, "sys_admin": 21,
    "perfmon": 38, "bpf": 39,
}  # fmt: skip


def granted() -> set[str]:
    """The capabilities in the unit."""
    (line,) = (
        line for line in UNIT.read_text().splitlines() if line.startswith("CapabilityBoundingSet=")
    )
    return {name.removeprefix("CAP_").lower() for name in line.partition("=")[2].split()}


def confined(names: set[str]) -> tuple[str, ...]:
    """Words that run a command with at most these capabilities."""
    bounds = ",".join(["-all", *(f"+{name}" for name in sorted(names))])
    return ("setpriv", "--bounding-set", bounds, "--no-new-privs")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder that every user can reach; only we can reach pytest's own folder."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def mount_with_only(names: set[str], mount: Mount) -> "subprocess.CompletedProcess[bytes]":
    command = [*confined(names), GCOREFS, "mount", "--log-file", mount.log, "-o", "allow_other"]
    return run(*command, mount.path)


def not_done(names: set[str], mount: Mount) -> set[str]:
    """The uses of a service that a server with these capabilities fails to do."""
    result = mount_with_only(names, mount)
    assert (result.returncode, result.stderr) == (0, b"")
    try:
        result = run(uses.PYTHON, uses.__file__, mount.path)
        assert result.returncode == 0, result.stderr
        return {name for name, wrong in json.loads(result.stdout).items() if wrong is not None}
    finally:
        end(mount.server)


def test_the_service_needs_no_more_than_its_unit_grants(unmounted: Mount) -> None:
    assert not_done(granted(), unmounted) == set()


DENIED = "the kernel does not allow the opener to trace it"
ANOTHERS = {"another_users", "opened_by_another_user", "in_a_child_namespace_of_another_user"}
ALL = set(uses.USES) - {"listing"}
# Any process of root has capabilities that the service lacks, and so has an opener of root.
NEEDED = {
    "sys_ptrace": ("the opener cannot be identified from here", ALL),
    "dac_read_search": (DENIED, ANOTHERS),
    "setgid": (DENIED, {"opened_by_another_user"}),
    "setuid": (DENIED, {"opened_by_another_user"}),
}


BPF = {"bpf", "perfmon"}


@pytest.mark.parametrize("name", sorted(granted() - {"sys_admin"} - BPF))
def test_without_a_capability_what_it_is_for_is_refused(unmounted: Mount, name: str) -> None:
    logged, fails = NEEDED[name]
    unmounted.expect(logged)
    assert not_done(granted() - {name}, unmounted) == fails


def test_without_sys_admin_nothing_is_mounted(unmounted: Mount) -> None:
    result = mount_with_only(granted() - {"sys_admin"}, unmounted)
    assert result.returncode == 1
    assert b"cannot be mounted" in result.stderr


def test_the_drop_in_without_bpf_has_all_others() -> None:
    text = UNIT.with_name("without-bpf.conf").read_text().splitlines()
    lines = [line for line in text if line.startswith("CapabilityBoundingSet=")]
    names = ["CAP_" + name.upper() for name in granted() - BPF]
    assert [sorted(line.partition("=")[2].split()) for line in lines] == [[], sorted(names)]
    assert "SystemCallFilter=~bpf" in text


def test_only_a_drop_in_allows_what_could_write_into_a_process() -> None:
    text = UNIT.with_name("precopy.conf").read_text().splitlines()
    lines = [line.partition("=")[::2] for line in text if "=" in line and line[0] not in "#["]
    capabilities = [words for name, words in lines if name == "CapabilityBoundingSet"]
    calls = {call for name, words in lines if name == "SystemCallFilter" for call in words.split()}
    assert capabilities == ["CAP_DAC_OVERRIDE"]
    assert "dac_override" not in granted()
    assert calls == {"process_vm_writev", "fallocate", "ftruncate"}
    unit = [line for line in UNIT.read_text().splitlines() if line.startswith("SystemCallFilter=")]
    assert not calls & {call for line in unit for call in line.partition("=")[2].split()}


SOURCE = "from gcorefs.sources import bpf_choice; print(bpf_choice.choose('auto'))"


@pytest.mark.parametrize(
    ("names", "is_had"),
    [(BPF, True), ({"sys_admin"}, True), ({"bpf"}, False), ({"perfmon"}, False), (set(), False)],
    ids=lambda value: "+".join(sorted(value)) if isinstance(value, set) else str(value),
)
def test_bpf_needs_two_capabilities_or_the_one_that_includes_them(
    names: set[str], is_had: bool
) -> None:
    needs_bpf()
    denied = "smaps: bpf(2) is denied: no CAP_BPF and CAP_PERFMON, a seccomp filter, or lockdown"
    result = run(*confined(names), sys.executable, "-c", SOURCE)
    expected = f"mappings come from {'BPF' if is_had else denied}\n"
    assert (result.returncode, result.stdout.decode()) == (0, expected)


def test_without_sys_admin_holes_are_filled_in(tmp_path: Path) -> None:
    """As with gcorefs dump, which needs no mount."""
    with uses.running(uses.PYTHON, "-c", uses.HOLES) as pid:
        before = uses.shared_memory(pid)
        core = tmp_path / "core"
        words = (GCOREFS, "dump", pid, "-o", core)
        assert run(*confined(granted()), *words).returncode == 0
        assert uses.shared_memory(pid) == before
        assert run(*confined(granted() - {"sys_admin"}), *words).returncode == 0
        assert uses.shared_memory(pid) != before


@pytest.mark.parametrize("name", ["sys_ptrace", "dac_read_search"])
def test_a_dump_that_may_not_look_says_so_in_one_line(name: str, tmp_path: Path) -> None:
    with uses.asleep(*uses.AS_NOBODY) as pid:
        words = (*confined(granted() - {name}), GCOREFS, "dump", pid, "-o", tmp_path / "core")
        assert_refused(run(*words), f"process {pid}: {DENIED}")
