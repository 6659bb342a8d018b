"""A short run of every harness, and proof that a finding is seen."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUNS = 24_000


def fuzz(*words: str, plant: str = "") -> "subprocess.CompletedProcess[str]":
    """A separate process that fuzzes.  `plant` is run first."""
    code = f"{plant}\nimport runpy; runpy.run_module('tests.fuzz', None, '__main__')"
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=250, check=False, cwd=ROOT
    )


def test_no_harness_finds_anything() -> None:
    result = fuzz("--runs", str(RUNS))
    assert result.returncode == 0, result.stdout
    lines = result.stdout.splitlines()
    assert len(lines) > 1
    for line in lines:
        found = re.search(r"Done (\d+) runs", line)
        # The seeds count too, and may be read again as they grow.
        assert found is not None and int(found[1]) >= RUNS // len(lines)


PLANTED = """
from tests.fuzz.harnesses import harness
@harness(ValueError, b"seed")
def planted(data):
    if data[:4] == b"seed":
        {}
"""
FINDINGS = {
    "another error": "raise KeyError('x')",
    "what does not hold": "assert False",
    "an error of two lines": "raise ValueError('a\\nb')",
    "an error without a word": "raise ValueError",
}


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz")
    (path / "corpus").mkdir()
    (path / "corpus" / "0").write_bytes(b"seed")
    return path


def planted(folder: Path, code: str) -> "subprocess.CompletedProcess[str]":
    words = ("--runs", "1000", "--in", str(folder), "planted")
    return fuzz(*words, plant=PLANTED.format(code))


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_finding_is_reported(finding: str, folder: Path) -> None:
    assert planted(folder, FINDINGS[finding]).returncode != 0
    assert [path.read_bytes() for path in folder.glob("found-*")] == [b"seed"]


def test_a_permitted_error_is_not_a_finding(folder: Path) -> None:
    assert planted(folder, "raise ValueError('x')").returncode == 0
    assert list(folder.glob("found-*")) == []
