"""Whatever a mount says that calls itself a gcorefs, the command prints one line of text."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gcorefs.cli import main
from gcorefs.cli import status as command
from gcorefs.mount import mountpoints
from gcorefs.tuning import Tuning
from tests.tuned import tuned

STOP: dict[str, Any] = {
    "pid": 7,
    "name": "a\x1b[2J\n",
    "threads": 1,
    "stopped_ms": 1.0,
    "bytes_read": 1,
    "files": 2,
    "openers": [{"pid": 8, "uid": 9}],
    "state": "stopped",
    "why": "",
}


def status(
    text: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str
) -> "tuple[int, str]":
    (folder / ".gcorefs").mkdir()
    (folder / ".gcorefs/status").write_text(text)
    monkeypatch.setattr(mountpoints, "fstype", lambda path: mountpoints.FSTYPE)
    monkeypatch.setattr(mountpoints, "is_gcorefs", lambda fd: True)
    result = CliRunner().invoke(command.status, ["-m", str(folder), *words])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def test_a_stop_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, output = status(json.dumps({"stops": [STOP]}), tmp_path, monkeypatch)
    assert code == 0
    row = " ".join(output.splitlines()[1].split())
    assert row == "7 a\\x1b[2J\\n 1 0.0 s 0.0 MiB 8 (uid 9) and 1 more stopped"


def test_features_of_the_kernel_are_shown_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.dumps({"stops": [], "kernel": {"A\x1b": True, "B": False}})
    assert status(text, tmp_path, monkeypatch) == (0, "nothing is held\n")
    result = CliRunner().invoke(command.status, ["-m", str(tmp_path), "--kernel"])
    lines = [f"{tmp_path}: A\\x1b: yes", f"{tmp_path}: B: no"]
    assert result.output.splitlines() == ["nothing is held", *lines]


@pytest.mark.parametrize("words", [[], ["--kernel"]], ids=str)
def test_denied_reads_are_told_unasked(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.dumps({"stops": [], "kernel": {"process_vm_readv": False}})
    denied = "process_vm_readv(2) is denied to gcorefs, which reads through /proc/PID/mem"
    assert status(text, tmp_path, monkeypatch, *words) == (
        0,
        f"nothing is held\n{tmp_path}: {denied}\n"
        + f"{tmp_path}: process_vm_readv: no\n" * len(words),
    )


@pytest.mark.parametrize(
    ("is_missing", "words", "is_told"),
    [(True, [], True), (False, [], False), (False, ["--kernel"], True)],
)
def test_the_source_of_mappings_is_told_on_request_or_if_it_is_not_the_wanted_one(
    is_missing: bool,
    words: list[str],
    is_told: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = json.dumps({"stops": [], "mappings": "from X\x1b", "is_bpf_missing": is_missing})
    line = f"{tmp_path}: from X\\x1b\n" if is_told else ""
    assert status(text, tmp_path, monkeypatch, *words) == (0, f"nothing is held\n{line}")


VALUES: list[Any] = ["x", None, [], {}]
WRONG = [
    {name: value} for name in ("stopped_ms", "bytes_read", "files", "openers") for value in VALUES
]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "7",
        "{}",
        "[" * 100_000,
        '{"stops": 7}',
        '{"stops": [7]}',
        '{"stops": [{}]}',
        "\x00",
        *(json.dumps({"stops": [STOP | each]}) for each in WRONG),
        json.dumps({"stops": [STOP | {"stopped_ms": 10**4000}]}),
        json.dumps({"stops": [STOP | {"openers": [7]}]}),
    ],
)
def test_a_file_that_is_not_a_status_is_reported(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, output = status(text, tmp_path, monkeypatch)
    assert (code, output) == (1, f"Error: {tmp_path}: not the status of a gcorefs\n")


def test_a_status_without_end_takes_no_memory_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tuned(Tuning(most_status=1000)):
        code, output = status(json.dumps({"stops": [STOP] * 100}), tmp_path, monkeypatch)
    assert (code, output) == (1, f"Error: {tmp_path}: not the status of a gcorefs\n")


def test_one_that_lies_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("a", "[]"), ("b", json.dumps({"stops": [STOP]}))):
        (tmp_path / name / ".gcorefs").mkdir(parents=True)
        (tmp_path / name / ".gcorefs/status").write_text(text)
    monkeypatch.setattr(
        mountpoints, "mountpoints", lambda: [str(tmp_path / "a"), str(tmp_path / "b")]
    )
    monkeypatch.setattr(mountpoints, "is_gcorefs", lambda fd: True)
    result = CliRunner().invoke(command.status, ["--json"])
    assert result.exit_code == 1
    assert f"{tmp_path / 'a'}: not the status of a gcorefs\n" in result.output
    assert '"pid": 7' in result.output


@pytest.mark.parametrize(
    ("texts", "code", "said"),
    [
        ([], 0, "nothing is held\n"),
        (['{"stops": []}'], 0, "nothing is held\n"),
        (["[]"], 1, ""),
        (["[]", '{"stops": []}'], 1, "nothing is held by the mounts that answer\n"),
    ],
)
def test_nothing_is_said_of_a_mount_that_does_not_answer(
    texts: list[str], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [tmp_path / str(number) for number, _ in enumerate(texts)]
    for place, text in zip(places, texts, strict=True):
        (place / ".gcorefs").mkdir(parents=True)
        (place / ".gcorefs/status").write_text(text)
    monkeypatch.setattr(mountpoints, "mountpoints", lambda: [*map(str, places)])
    monkeypatch.setattr(mountpoints, "is_gcorefs", lambda fd: True)
    result = CliRunner().invoke(command.status)
    assert (result.exit_code, result.stdout) == (code, said)


def test_a_mount_that_we_may_not_enter_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds nothing of ours."""

    def refused(_: int) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    (tmp_path / ".gcorefs").mkdir()
    monkeypatch.setattr(mountpoints, "mountpoints", lambda: [str(tmp_path)])
    monkeypatch.setattr(mountpoints, "is_gcorefs", refused)
    result = CliRunner().invoke(command.status)
    assert (result.exit_code, result.stdout) == (0, "nothing is held\n")
    assert result.stderr == f"{tmp_path}: Permission denied\n"


@pytest.mark.parametrize("is_gcorefs", [False, True])
@pytest.mark.parametrize("way", ["release", ".gcorefs", "none"])
def test_release_writes_to_nothing_else(
    is_gcorefs: bool, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount of another user may have symbolic links in it, or may now be a directory."""
    place, other = tmp_path / "mount", tmp_path / "other"
    place.mkdir()
    other.mkdir()
    victim = other / "release"
    victim.write_text("victim")
    if way == ".gcorefs":
        (place / ".gcorefs").symlink_to(other)
    else:
        (place / ".gcorefs").mkdir()
    if way == "release":
        (place / ".gcorefs/release").symlink_to(victim)
    monkeypatch.setattr(mountpoints, "mountpoints", lambda: [str(place)])
    if is_gcorefs:
        monkeypatch.setattr(mountpoints, "is_gcorefs", lambda fd: True)
    result = CliRunner().invoke(command.release, ["123"])
    assert result.exit_code == 1
    assert victim.read_text() == "victim"
    assert sorted(os.listdir(place / ".gcorefs")) == ["release"] * (way != "none")


def test_a_directory_in_the_place_of_a_mount_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".gcorefs").mkdir()
    release = tmp_path / ".gcorefs/release"
    release.write_text("not a gcorefs")
    monkeypatch.setattr(mountpoints, "mountpoints", lambda: [str(tmp_path)])
    result = CliRunner().invoke(command.release, ["123"])
    step = "findmnt -t fuse.gcorefs shows where"
    assert result.output == f"Error: {tmp_path}: no gcorefs is mounted there; {step}\n"
    assert release.read_text() == "not a gcorefs"


def test_the_libraries_of_a_server_are_not_needed() -> None:
    """So these commands start in half of the time, and work with little memory."""
    code = "import sys; from gcorefs.cli import status, umount; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    modules = {name.partition(".")[0] for name in result.stdout.split()}
    assert "click" in modules
    assert not {"msgspec", "pyfuse3", "ssl", "trio"} & modules


def test_a_limit_of_our_own_is_no_empty_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount that cannot be asked hides no other one, but then none can be asked."""
    (tmp_path / ".gcorefs").mkdir()

    def no_more_files(_: int) -> bool:
        raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    monkeypatch.setattr(mountpoints, "mountpoints", lambda: [str(tmp_path)])
    monkeypatch.setattr(mountpoints, "is_gcorefs", no_more_files)
    result = CliRunner().invoke(main, ["status"])
    text = f"Error: {os.strerror(errno.ENFILE)} (fs.file-max)\n"
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", text)
