"""The kernel treats a traced process differently, and nothing can repair that.

SECURITY.md says so.  A stopped process does nothing, so each of these calls happens between the
seize and the stop.
"""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from gcorefs.kernel import ptrace
from gcorefs.kernel.proc import task_status
from tests.conftest import Target
from tests.mounted.conftest import AS_NOBODY, NOBODY, errno_of, eventually, is_free, is_held
from tests.mounted.faultpoints import RECORDED_ALL, SEIZED_ALL, Hold, Point

HeldAt = Callable[[Point, int], AbstractContextManager[Hold]]
USER = ("groups=", f"gid={NOBODY},{NOBODY},{NOBODY}", f"uid={NOBODY},{NOBODY},{NOBODY}")


@contextlib.contextmanager
def dumped(
    interruptible: Path, held_at: HeldAt, target: Target, point: Point, *words: str
) -> Iterator[None]:
    """Inside, a dump behind other words stands at a point; then it goes on to its end."""
    with held_at(point, target.pid) as hold:
        command = [*words, str(interruptible), "dump", "-o", os.devnull, str(target.pid)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as dump:
            hold.wait()
            yield
            hold.go_on()
            dump.wait(timeout=60)
    eventually(lambda: is_free(target.pid))


@pytest.mark.parametrize(
    ("words", "euid"), [(None, 0), ((), 0), (AS_NOBODY, NOBODY)], ids=["nobody", "root", "a user"]
)
def test_a_set_uid_program_has_its_owner_s_rights_unless_a_user_traces_it(
    interruptible: Path,
    held_at: HeldAt,
    spawn: Callable[..., Target],
    build: Callable[[str], Path],
    tmp_path: Path,
    words: tuple[str, ...] | None,
    euid: int,
) -> None:
    program = tmp_path / "program"
    shutil.copy(build("identity"), program)
    program.chmod(0o4755)
    target = spawn("identity", *USER, "dumpable=1")
    with contextlib.ExitStack() as stack:
        if words is not None:
            stack.enter_context(dumped(interruptible, held_at, target, SEIZED_ALL, *words))
        target.tell(f"exec {program}")
        assert target.line() == {"pid": target.pid}
        assert task_status.status(target.pid)["Uid"].split()[1] == str(euid).encode()


def test_who_is_traced_by_us_cannot_be_traced_by_another(
    interruptible: Path, held_at: HeldAt, spawn: Callable[..., Target]
) -> None:
    target = spawn("traced")
    with dumped(interruptible, held_at, target, SEIZED_ALL):
        assert target.ask("traceme")["errno"] == errno.EPERM
    with dumped(interruptible, held_at, target, RECORDED_ALL):
        assert is_held(target.pid)
        assert errno_of(lambda: ptrace.seize(target.pid)) == errno.EPERM


def test_a_child_that_is_to_be_traced_as_its_parent_is_let_go_with_it(
    interruptible: Path, held_at: HeldAt, spawn: Callable[..., Target]
) -> None:
    target = spawn("traced")
    with dumped(interruptible, held_at, target, SEIZED_ALL):
        child = target.ask("clone")["child"]
        assert task_status.tracer(child, child) != 0
        eventually(lambda: is_held(child))
    eventually(lambda: is_free(child))
    os.kill(child, signal.SIGKILL)
