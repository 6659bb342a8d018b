"""The examples for Kubernetes, read as a cluster reads them, and held against the program."""

import re
import shlex
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml

from gcorefs.cli import main
from gcorefs.mount.options import parse

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "kubernetes"
README = (FOLDER / "README.md").read_text()
FILES = ["daemonset.yaml", "daemonset-without-mount.yaml"]


def objects(name: str) -> dict[str, Any]:
    """What a file has, by kind."""
    found = [*yaml.safe_load_all((FOLDER / name).read_text())]
    assert len({each["kind"] for each in found}) == len(found)
    return {each["kind"]: each for each in found}


def pod(name: str) -> dict[str, Any]:
    found: dict[str, Any] = objects(name)["DaemonSet"]["spec"]["template"]["spec"]
    return found


def container(name: str) -> dict[str, Any]:
    (found,) = pod(name)["containers"]
    assert isinstance(found, dict)
    return found


def commands(text: str) -> list[list[str]]:
    """The words of the commands of gcorefs in a text of shell commands."""
    whole = text.replace("\\\n", " ").splitlines()
    lines = [line.partition(" #")[0].partition(" > ")[0] for line in whole]
    split = [shlex.split(line) for line in lines if " -- " in line]
    after = [words[words.index("--") + 1 :] for words in split]
    return [words for words in after if words[0] == "gcorefs"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_a_cluster_takes_it_and_knows_every_field(name: str, version: str) -> None:
    for each in objects(name).values():
        assert kubernetes_validate.validate(each, version, strict=True) == version
    assert version in README


def test_a_field_with_a_typo_would_be_found() -> None:
    wrong = objects(FILES[0])["DaemonSet"]
    wrong["spec"]["template"]["spec"]["hostPid"] = True
    with pytest.raises(kubernetes_validate.ValidationError, match="hostPid"):
        kubernetes_validate.validate(wrong, "1.37", strict=True)


@pytest.mark.parametrize("name", FILES)
def test_it_sees_the_node_s_processes_and_shares_nothing(name: str) -> None:
    spec = pod(name)
    assert spec["hostPID"] is True
    assert spec["automountServiceAccountToken"] is False
    assert not spec.keys() & {"volumes", "hostNetwork", "hostIPC", "initContainers", "hostUsers"}
    # No volume: so there is no mountPropagation either.
    assert "volumeMounts" not in container(name)
    assert not re.search(r":latest$|^[^:]*$", container(name)["image"])
    # A limit of memory would have it killed for copies and headers that it holds for a moment.
    assert "limits" not in container(name)["resources"]


@pytest.mark.parametrize("name", FILES)
def test_its_labels_and_its_place_are_those_of_the_readme(name: str) -> None:
    found = objects(name)
    namespace = found["Namespace"]["metadata"]
    assert namespace["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"
    daemons = found["DaemonSet"]
    assert daemons["metadata"]["namespace"] == namespace["name"]
    assert f"-n {namespace['name']} " in README
    labels = daemons["spec"]["selector"]["matchLabels"]
    assert daemons["spec"]["template"]["metadata"]["labels"] == labels
    assert [f"-l {key}={value} " in README for key, value in labels.items()] == [True]
    assert f"--image={container(name)['image']} " in README


def test_the_mount_is_the_one_that_the_probes_and_the_readme_look_at() -> None:
    found = container(FILES[0])
    program, name, *words = found["command"]
    assert (program, name) == ("gcorefs", "mount")
    assert found["securityContext"] == {"privileged": True}
    options = words[words.index("-o") + 1]
    parse([options])
    place = words[-1]
    for probe in ("readinessProbe", "livenessProbe"):
        assert found[probe]["exec"]["command"] == ["test", "-e", f"{place}/1"]
    assert f"cat {place}/@stacks/PID" in README


def test_without_a_mount_it_has_named_capabilities() -> None:
    context = container(FILES[1])["securityContext"]
    assert "privileged" not in context
    assert context["capabilities"]["drop"] == ["ALL"]
    assert "SYS_ADMIN" not in context["capabilities"]["add"]


def test_every_command_of_the_readme_is_one() -> None:
    found = commands(README)
    assert {words[1] for words in found} == {"ls", "stacks", "dump"}
    for _, name, *words in found:
        command = main.get_command(click.Context(main), name)
        assert command is not None
        options = {each for parameter in command.params for each in parameter.opts}
        used = {word for word in words if word.startswith("-")}
        assert used <= options, words


def test_the_image_has_the_package_of_its_release() -> None:
    text = (FOLDER / "Containerfile").read_text()
    (release,) = re.findall(r"^ARG RELEASE=(\w+)$", text, re.MULTILINE)
    assert f"RELEASE={release} TARGET=deb" in text
    assert f".cache/debian-{release}/srv/gcorefs/build/package" in text
    assert container(FILES[0])["image"] in text
