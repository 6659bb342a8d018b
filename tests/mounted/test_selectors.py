"""Each command takes its processes in each way, of a process that is in a unit, a container and a
pod at the same time."""

import json
import shutil
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from gcorefs.cli import main
from gcorefs.cli.target import KINDS
from gcorefs.elfcore.corefile import read_core
from tests.cgroups import group_named
from tests.conftest import GCOREFS, Target, text_of
from tests.mounted.conftest import gcorefs

COMMANDS = ("bundle", "check", "dump", "info", "ls", "release", "stacks", "watch")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_every_way(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    options = {word for each in command.params for word in each.opts}
    assert options >= {f"--{each}" for each in KINDS}


@pytest.fixture
def known(build: Callable[[str], Path], tmp_path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """A process, and what it is called in each way."""
    program = tmp_path / f"threads-{uuid.uuid4().hex}"
    shutil.copy(build("threads"), program)
    container, pod, unit = uuid.uuid4().hex * 2, str(uuid.uuid4()), f"gcorefs-{uuid.uuid4().hex}"
    slice_ = f"kubepods-burstable-pod{pod.replace('-', '_')}.slice"
    target = Target([str(program), "2"])
    try:
        with group_named(
            "v2", f"{unit}.service", slice_, f"cri-containerd-{container}.scope"
        ) as group:
            group.add(target.pid)
            yield (
                target.pid,
                {
                    "name": program.name,
                    "exe": str(program),
                    "unit": unit,
                    "cgroup": str(group.path),
                    "container": container[:12],
                    "pod": pod,
                    "tree": str(target.pid),
                },
            )
    finally:
        target.kill()


Known = tuple[int, dict[str, str]]


def test_every_way_leads_to_the_process(known: Known) -> None:
    pid, words = known
    assert words.keys() == KINDS.keys()
    for each, text in words.items():
        result = gcorefs("ls", f"--{each}", text, "--json")
        assert (result.returncode, result.stderr) == (0, b""), each
        assert [row["pid"] for row in json.loads(result.stdout)] == [pid], each


def test_every_command_is_led_to_it(known: Known, tmp_path: Path) -> None:
    pid, words = known

    def says(command: str, way: str, *more: object) -> str:
        result = gcorefs(command, f"--{way}", words[way], *more)
        assert (result.returncode, result.stderr) == (0, b""), command
        return result.stdout.decode()

    says("dump", "pod", "-o", tmp_path / "core")
    with (tmp_path / "core").open("rb") as file:
        assert read_core(file).pid == pid
    assert f" process: {words['name'][:15]}" in says("stacks", "unit")
    assert f"process {pid} (" in says("check", "cgroup")
    assert f"process   {pid} on " in says("info", "container")
    assert says("bundle", "container", "-o", tmp_path / "X").startswith(f"{tmp_path}/X: 3 threads")
    watching = [GCOREFS, "watch", "--pod", words["pod"], "--every", "1h", tmp_path]
    with subprocess.Popen(text_of(watching), stdout=subprocess.PIPE) as watch:
        assert watch.stdout is not None
        assert watch.stdout.readline().startswith(b"core.%d." % pid)
        watch.send_signal(signal.SIGTERM)
