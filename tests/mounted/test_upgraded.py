"""An upgrade, or a removal, while a program of ours runs: what it may need is imported when it is
ready.  (`gcorefs watch`: test_triggers.py)"""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gcorefs.mount.mountpoints import unmount
from tests.conftest import Mount, Target, wait_until_idle
from tests.mounted.conftest import AS_NOBODY, Imports, eventually, gcorefs, opened, run

Spawn = Callable[..., Target]

POLICIES = (
    "@all", "@stacks", "@threads", "@gentle", "@glance", "@text", "@hold=precopy", "@hold=fork",
    "@hold=copy", "@hold=none", "@stop=each,hold=copy", "@memory=filter,exclude=*libc*",
    "@memory=stacks,referenced=4,max_stop=60", "@night", ".gcorefs/exact",
)  # fmt: skip


@pytest.mark.parametrize("options", [(), ("spool",)])
def test_a_mount_imports_nothing_later(
    mount_with: Callable[..., Mount],
    unmounted: Mount,
    spawn: Spawn,
    tmp_path: Path,
    options: tuple[str, ...],
) -> None:
    config = tmp_path / "gcorefs.toml"
    config.write_text("[profiles.night]\nmemory = 'stacks'\nmax_stop = 60\n")
    imports = Imports(tmp_path)
    unmounted.program = imports.program
    unmounted.words = ["--config", str(config), "--metrics", str(tmp_path / "gcorefs.prom")]
    mount = mount_with("allow_other", *(f"{each}={tmp_path}" for each in options))
    imports.begin()
    target = spawn("threads", 3)
    for folder in POLICIES:
        assert (mount.path / folder / str(target.pid)).read_bytes().startswith(b"\x7fELF")
    assert run(*AS_NOBODY, "cat", mount / target.pid).returncode == 1
    mount.allow(f"process {target.pid}")
    assert gcorefs("status", "--mount", mount.path, "--kernel").returncode == 0
    with opened(mount / target.pid):
        assert os.getxattr(mount / target.pid, "user.gcorefs.state") == b"stopped"
    assert str(target.pid) in os.listdir(mount.path)
    os.kill(mount.server, signal.SIGHUP)
    eventually(lambda: "SIGHUP: there are " in mount.log.read_text())
    wait_until_idle(mount)
    imports.assert_none()


def test_a_mounted_core_imports_nothing_later(spawn: Spawn, tmp_path: Path) -> None:
    target = spawn("threads", 3)
    core, folder = tmp_path / "core.zst", tmp_path / "mnt"
    folder.mkdir()
    assert gcorefs("dump", target.pid, "--compress", "zstd", "-o", core).returncode == 0
    imports = Imports(tmp_path)
    subprocess.run([imports.program, "mount-core", core, folder], check=True, timeout=100)
    try:
        imports.begin()
        assert (folder / "core").read_bytes() == gcorefs("cat", core).stdout
        assert os.listdir(folder) == ["core"]
    finally:
        unmount(str(folder), lazy=True)
    imports.assert_none()
