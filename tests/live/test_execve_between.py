"""A process that is another program, which the opener may not see, while its threads are recorded.

It is the program of the opener before and after that, and /proc shows no difference.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gcorefs import stopped
from gcorefs.policy import Policy
from gcorefs.process.access import Opener
from gcorefs.process.errors import ProcessError, Reason
from gcorefs.steps import Step
from gcorefs.tuning import Tuning
from tests.conftest import Target
from tests.readers.corefile import Core
from tests.snapshot import Snapshot, find

Tune = Callable[[Tuning], None]

NOBODY = 65534
OPENER = Opener(os.getpid(), NOBODY, NOBODY, (), 0)
SECRET = (0x5EC2E75E).to_bytes(8, "little")  # in a register of tests/targets/aba.c


@pytest.fixture
def target(build: Callable[[str], Path]) -> Iterator[Target]:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        programs = [Path(folder) / name for name in ("a", "b")]
        for each in programs:
            shutil.copy(build("aba"), each)
        programs[1].chmod(0o4755)
        words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "env", "-i"]
        target = Target([*words, *map(str, programs)])
        yield target
        target.kill()


class Changing:
    """Executes the other program at some steps."""

    def __init__(self, target: Target, *steps: Step) -> None:
        self._target = target
        self._left = [*steps]
        self._is_secret = False

    def reach(self, step: Step, pid: int) -> None:
        if self._left and step is self._left[0]:
            del self._left[0]
            self.change()

    def change(self) -> None:
        self._is_secret = not self._is_secret
        answer = self._target.ask("change")
        assert answer == {"pid": self._target.pid, "is_secret": int(self._is_secret)}
        while self._target.state_letters() != {"S"}:
            pass


POLICIES = {
    "each": Policy(stop="each"),
    "none": Policy(stop="none"),
    "none, bpf=off": Policy(stop="none", bpf="off"),
    "gentle": Policy(stop="gentle"),
    "gentle, bpf=off": Policy(stop="gentle", bpf="off"),
}
WITHOUT_A_TRACER = ["none", "none, bpf=off"]
AROUND_SLEEP = [name for name in POLICIES if name != "each"]


def before(
    monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[], None], is_after: bool = False
) -> None:
    """Change the program at the first call of a function that stopped.py calls."""
    call = getattr(stopped, name)
    has_changed = False

    def change_and_call(*arguments: int) -> object:
        nonlocal has_changed
        result = call(*arguments) if is_after else None
        if not has_changed:
            has_changed = True
            change()
        return result if is_after else call(*arguments)

    monkeypatch.setattr(stopped, name, change_and_call)


@contextlib.contextmanager
def taken(target: Target, name: str) -> Iterator[Snapshot]:
    """The core that the opener gets by this policy."""
    snapshot = Snapshot(find(target.pid), OPENER, POLICIES[name])
    try:
        snapshot.take()
        yield snapshot
    finally:
        snapshot.close()


@pytest.mark.parametrize("name", POLICIES)
def test_its_registers_are_not_shown(
    target: Target, tune: Tune, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    changing = Changing(target, *[] if name in WITHOUT_A_TRACER else [Step.STARTING])
    if name in WITHOUT_A_TRACER:
        before(monkeypatch, "program_of", changing.change, is_after=True)
    before(monkeypatch, "MemFile", changing.change)
    tune(Tuning(reach=changing.reach))
    with pytest.raises(ProcessError) as caught, taken(target, name):
        pass
    assert caught.value.reason is Reason.DENIED


@pytest.mark.parametrize("name", AROUND_SLEEP)
def test_nor_if_it_goes_back_just_before_the_judgement(
    target: Target, tune: Tune, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name in WITHOUT_A_TRACER:
        changing = Changing(target, Step.CHECK)

        def begin() -> None:
            changing.change()
            tune(Tuning(reach=changing.reach))

        before(monkeypatch, "program_of", begin, is_after=True)
    else:
        changing = Changing(target, Step.STARTING, Step.CHECK)
        tune(Tuning(reach=changing.reach))
    with taken(target, name) as snapshot:
        (record,) = snapshot.records
        assert SECRET not in record.registers.general
        assert SECRET not in snapshot.read(0, snapshot.core.layout.memory_offset)


def test_the_name_is_that_of_the_program_in_the_core(
    target: Target, tune: Tune, tmp_path: Path
) -> None:
    """The name, flags and parent are read at the stop, as arguments, registers and memory are."""
    changing = Changing(target, Step.STARTING)
    tune(Tuning(reach=changing.reach))
    snapshot = Snapshot(find(target.pid))
    try:
        snapshot.take()
        core = tmp_path / "core"
        core.write_bytes(snapshot.core.read(0, snapshot.size))
        info = Core(core).info
        assert info["fname"] == b"b".ljust(16, b"\0")
        assert snapshot.stop.comm == b"b"
    finally:
        snapshot.close()
