"""A 32-bit process through the mount, and by the command that needs no mount."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.conftest import GCOREFS, Mount, Target
from tests.mounted.conftest import eventually, is_free
from tests.readers.corefile import Core


def facts(core: Core, tids: list[int]) -> tuple[object, ...]:
    """The facts that two stops of a sleeping process have in common, for these threads."""
    loads = [(load.vaddr, load.memsz, load.filesz, load.flags, load.align) for load in core.loads]
    threads = [core.threads[tid] for tid in tids]
    registers = [(each.status["eip"], each.status["esp"], each.regsets) for each in threads]
    return core.ident, core.header, core.order, loads, core.info, registers


def test_dump_and_mount_give_the_same_32_bit_core(
    spawn: Callable[..., Target], mount: Mount, tmp_path: Path
) -> None:
    target = spawn("registers32", 3, "blocked")
    copy, dumped = tmp_path / "copy", tmp_path / "dumped"
    shutil.copyfile(mount / target.pid, copy)
    eventually(lambda: is_free(target.pid))
    subprocess.run([GCOREFS, "dump", str(target.pid), "-o", dumped], check=True, timeout=30)
    tids = [each["tid"] for each in target.truth["threads"]]
    found = Core(dumped)
    assert (found.bits, found.header["e_machine"]) == (32, "EM_386")
    assert set(found.threads) == {target.pid, *tids}
    assert facts(found, tids) == facts(Core(copy), tids)
    assert dumped.stat().st_size == max(load.offset + load.filesz for load in found.loads)
    eventually(lambda: is_free(target.pid))
