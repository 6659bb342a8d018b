"""A process that chooses its own auxiliary vector (prctl(2), PR_SET_MM_MAP)."""

import os
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from gcorefs.cli import stopping
from gcorefs.process.program import program_of
from tests.conftest import Mount, Target
from tests.mounted.conftest import gcorefs, opened, whole

Spawn = Callable[..., Target]

ADDRESSES = ["fffffffffffff000", "8000000000000000", "7fffffffffffffff", "1"]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("words", ["hold=copy", "@stacks", "@threads"])
def test_no_address_in_it_hurts_others(
    spawn: Spawn, tmp_path: Path, address: str, words: str
) -> None:
    odd, other = spawn("endless", address), spawn("threads", 1)
    assert program_of(odd.pid).random == b""
    pids = str(odd.pid), str(other.pid)
    result = gcorefs("dump", "--policy", words, "-o", tmp_path / "core", *pids)
    assert (result.returncode, result.stderr) == (0, b"")
    assert sorted(os.listdir(tmp_path)) == sorted(f"core.{pid}" for pid in pids)


@pytest.mark.parametrize("words", ["@hold=copy", "@stacks", "@threads", "@gentle"])
def test_its_file_can_be_read(mount: Mount, spawn: Spawn, words: str) -> None:
    odd = spawn("endless", ADDRESSES[0])
    with opened(mount.path / words / str(odd.pid)) as fd:
        assert len(whole(fd)) == os.fstat(fd).st_size


def test_a_surprise_is_one_line_about_one_process() -> None:
    text = r"process 7: gcorefs itself failed: ZeroDivisionError: .* \(test_vectors.py:\d+\)"
    with pytest.raises(click.ClickException, match=text), stopping.refusals_told(7):
        1 // 0  # noqa: B018
    for error in (MemoryError(), click.Abort(), click.exceptions.Exit(3)):
        with pytest.raises(type(error)), stopping.refusals_told(7):
            raise error
