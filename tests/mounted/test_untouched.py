"""A copy of its core does not touch memory that a process never touched."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gcorefs.kernel.proc import task_status
from tests.conftest import GCOREFS, Mount, Target, text_of
from tests.mounted.conftest import eventually, is_free
from tests.readers.corefile import Core

# Not VmRSS as a whole: pages of mapped files that are in the core are mapped by the read.  They
# belong to the page cache, and cost the process nothing.
KEYS = ("VmPTE", "RssAnon", "RssShmem", "VmSwap", "VmSize")


def footprint(pid: int) -> dict[str, bytes]:
    status = task_status.status(pid)
    return {key: status[key] for key in KEYS}


@pytest.mark.parametrize("how", ["cp", "dump"])
def test_a_whole_copy_leaves_untouched_memory_untouched(
    spawn: Callable[..., Target], mount: Mount, tmp_path: Path, how: str
) -> None:
    target = spawn("sparse")
    target.ask("ping")
    eventually(lambda: target.state_letters() == {"S"})
    before = footprint(target.pid)
    core = tmp_path / "core"
    if how == "cp":
        with subprocess.Popen(["cp", "--sparse=always", mount / target.pid, core]) as copy:
            assert copy.wait(timeout=100) == 0
    else:
        command = [GCOREFS, "dump", str(target.pid), "-o", "/dev/null"]
        assert subprocess.run(text_of(command), check=False, timeout=100).returncode == 0
    eventually(lambda: is_free(target.pid))
    assert footprint(target.pid) == before
    assert target.ask("shmem") == target.truth["shmem"]
    if how == "cp":
        # All of it is in the core, but almost nothing of it in the file.
        assert sum(load.filesz for load in Core(core).loads) > target.truth["reserved"]
        assert os.stat(core).st_size < target.truth["reserved"] // 256
