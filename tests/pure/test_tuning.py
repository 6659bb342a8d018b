"""Time-outs, sizes and steps: one place for each, and only a program itself changes a value."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gcorefs import tuning
from gcorefs.steps import Step
from gcorefs.tuning import Tuning
from tests.tuned import program, tuned

ROOT = Path(__file__).parents[2]
SOURCE = "\n".join(path.read_text() for path in (ROOT / "gcorefs").rglob("*.py"))
OTHERS = [path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]
TESTS = "\n".join(path.read_text() for path in OTHERS)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Tuning)])
def test_gcorefs_uses_each_value_and_a_test_changes_it(name: str) -> None:
    assert f"tuning.now().{name}" in SOURCE
    assert f"{name}=" in TESTS


def test_every_step_is_reached_in_one_place_and_a_test_uses_it() -> None:
    reached = re.findall(r"\bStep\.(\w+)", SOURCE)
    assert sorted(reached) == sorted(step.name for step in Step)
    assert [step for step in Step if f"Step.{step.name}" not in TESTS] == []


def test_only_a_program_itself_changes_a_value() -> None:
    assert "tuning.use(" not in SOURCE
    before = tuning.now()
    with tuned(Tuning(read_timeout=1.0)):
        assert tuning.now().read_timeout == 1.0
    assert tuning.now() is before


def test_a_program_of_a_test_reaches_the_steps(tmp_path: Path) -> None:
    reach = "def reach(step, pid):\n    print(step.name, pid)"
    last = "import atexit\nfrom gcorefs import tuning\nfrom gcorefs.steps import Step\n"
    last += "atexit.register(lambda: tuning.now().reach(Step.SMAPS, 1))"
    command = [str(program(tmp_path, first=last, reach=reach)), "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[1:] == ["SMAPS 1"]


def test_a_program_of_a_test_is_the_command_line(tmp_path: Path) -> None:
    code = "import atexit\nfrom gcorefs import tuning\natexit.register(lambda: print(tuning.now()))"
    values = Tuning(last_look=3.0, copy_piece=4096)
    command = [str(program(tmp_path, values, code)), "--version"]
    environment = {"PATH": os.environ["PATH"]}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    version, used = result.stdout.splitlines()
    real = [str(Path(sys.executable).with_name("gcorefs")), "--version"]
    assert version == subprocess.check_output(real, text=True).strip()
    assert used == repr(values)
