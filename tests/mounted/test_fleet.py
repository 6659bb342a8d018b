"""`examples/fleet`: ClusterShell folds the stacks of hosts, Dask those of cores."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import GCOREFS, Target
from tests.mounted.conftest import gcorefs
from tests.mounted.objects import ObjectServer, object_server

Spawn = Callable[..., Target]

FLEET = Path(__file__).parents[2] / "examples" / "fleet"


def environment() -> dict[str, str]:
    """Our own programs come first."""
    return os.environ | {"PATH": f"{GCOREFS.parent}:{os.environ['PATH']}"}


def test_equal_states_of_hosts_are_shown_once(spawn: Spawn, tmp_path: Path) -> None:
    for number in range(1, 7):
        target = spawn("threads", 2 if number == 4 else 3)
        (tmp_path / f"web{number}").write_text(str(target.pid))
    # The worker "exec" runs the command here, with the name of a host for each %h.
    target_words = f"$(cat {tmp_path}/%h)"
    result = subprocess.run(
        [FLEET / "stacks", target_words, "-R", "exec", "-w", "web[1-6]"],
        env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 0
    assert "exited with" not in result.stderr
    parts = re.split(r"^-+\n(.*)\n-+\n", result.stdout, flags=re.MULTILINE)
    shown = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert sorted(shown) == ["web4", "web[1-3,5-6] (5)"]
    assert shown["web4"].startswith("3 threads of 1 process: threads\n")
    assert shown["web[1-3,5-6] (5)"].startswith("4 threads of 1 process: threads\n")


def test_a_host_that_fails_fails_the_command(tmp_path: Path) -> None:
    result = subprocess.run(
        [FLEET / "stacks", "--name %h", "-R", "exec", "-w", "no-such-process-[1-2]"],
        env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert "has the name no-such-process-1" in result.stderr + result.stdout


def test_without_a_target_it_says_how(tmp_path: Path) -> None:
    result = subprocess.run([FLEET / "stacks"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "stacks TARGET CLUSH-OPTION..." in result.stderr


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    with tempfile.TemporaryDirectory() as folder, object_server(Path(folder)) as server:
        yield server


@pytest.mark.parametrize("compression", [(), ("--compress", "zstd")])
def test_equal_stacks_of_cores_are_counted(
    server: ObjectServer, spawn: Spawn, compression: tuple[str, ...]
) -> None:
    folder = f"{server.url}/fleet{len(compression)}/"
    settings = os.environ | server.environment
    for count in (3, 3, 5):
        target = spawn("threads", count)
        options = ("--policy", "@stacks", "--to", folder, *compression)
        result = gcorefs("dump", target.pid, *options, env=settings)
        assert result.returncode == 0, result.stderr
    told = analyse(folder, settings)
    assert told.startswith("3 cores, 14 threads\n")
    # The 11 threads beside the leaders all sleep at the end of the same chain of calls.
    assert re.search(r"^11 threads in 3 cores:\n  #0 \S+\n", told, re.MULTILINE), told
    assert re.search(r"^3 threads in 3 cores:\n(?:  #\d+ .*\n)*?  #\d+ main$", told, re.MULTILINE)


def test_cores_may_lie_in_a_folder(spawn: Spawn, tmp_path: Path) -> None:
    target = spawn("threads", 2)
    for name in ("first", "second"):
        gcorefs("dump", target.pid, "--policy", "@stacks", "-o", tmp_path / name)
    assert analyse(f"file://{tmp_path}/", dict(os.environ)).startswith("2 cores, 6 threads\n")


def analyse(folder: str, settings: dict[str, str]) -> str:
    result = subprocess.run(
        [sys.executable, FLEET / "analyse.py", folder],
        env=settings, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout
