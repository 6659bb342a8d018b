"""A process that must allow each open(2) on a file system (fanotify(7)), dumped to that same file
system.  While it is stopped, it allows nothing."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

from gcorefs.elfcore.corefile import read_core
from tests.conftest import Mount, Target
from tests.mounted.conftest import eventually, gcorefs, is_free, run


def test_dump_opens_its_file_before_the_stop(spawn: Callable[..., Target], tmpfs: Path) -> None:
    target = spawn("listener", tmpfs)
    result = gcorefs("dump", target.pid, "-o", tmpfs / "core")
    assert (result.returncode, result.stderr) == (0, b"")
    with (tmpfs / "core").open("rb") as file:
        assert read_core(file).missing == 0
    assert target.ask("count")["opens"] >= 2


def test_cp_opens_its_file_during_the_stop_and_ends_with_idle_timeout(
    spawn: Callable[..., Target], mount_with: Callable[..., Mount], tmpfs: Path
) -> None:
    mount = mount_with("idle_timeout=0.5")
    target = spawn("listener", tmpfs)
    mount.expect(f"process {target.pid}: let go, its file was not read for 0.5 s")
    mount.allow(f"process {target.pid}: the process was let go")
    result = run("cp", mount / target.pid, tmpfs / "core")
    assert result.returncode == 1
    assert os.strerror(errno.EIO) in result.stderr.decode()
    eventually(lambda: is_free(target.pid))
