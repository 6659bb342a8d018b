"""Names that another user created first, in a directory that everybody may write to.

fs.protected_symlinks and similar settings may be 0 here (proc_sys_fs(5)): gcorefs itself refuses.
"""

import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import GCOREFS, Mount, Target
from tests.mounted.conftest import AS_NOBODY, NOBODY, assert_refused, end, gcorefs, is_free, run


@pytest.fixture
def sticky(tmp_path: Path) -> Path:
    """A directory like /tmp."""
    path = tmp_path / "sticky"
    path.mkdir()
    path.chmod(0o1777)
    return path


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of root, in the same file system."""
    path = tmp_path / "secret"
    path.write_bytes(b"old")
    return path


def plant_link(name: Path, target: Path) -> None:
    assert run(*AS_NOBODY, "ln", "-s", target, name).returncode == 0
    assert name.lstat().st_uid == NOBODY


def on_a_terminal(*words: object, **kwargs: object) -> "subprocess.CompletedProcess[bytes]":
    """Run a command whose standard output is a terminal."""
    terminal, other = pty.openpty()
    try:
        return subprocess.run(
            [str(word) for word in (GCOREFS, *words)],
            stdout=other, stderr=subprocess.PIPE, timeout=60, check=False, cwd=str(kwargs["cwd"]),
        )  # fmt: skip
    finally:
        os.close(terminal)
        os.close(other)


def test_the_name_that_we_choose_is_not_followed(
    spawn: Callable[..., Target], sticky: Path, secret: Path
) -> None:
    target = spawn("threads", 1)
    name = sticky / f"core.{target.pid}"
    plant_link(name, secret)
    assert_refused(
        on_a_terminal("dump", target.pid, cwd=sticky), f"core.{target.pid}: ", "symbolic link"
    )
    assert secret.read_bytes() == b"old"
    assert os.listdir(sticky) == [name.name]
    assert is_free(target.pid)
    name.unlink()
    assert on_a_terminal("dump", target.pid, cwd=sticky).returncode == 0
    assert name.read_bytes().startswith(b"\x7fELF")


def test_a_link_of_another_user_is_not_followed_even_if_it_is_named(
    spawn: Callable[..., Target], sticky: Path, secret: Path
) -> None:
    plant_link(sticky / "core", secret)
    result = gcorefs("dump", spawn("threads", 1).pid, "-o", sticky / "core")
    assert_refused(result, f"{sticky}/core: ", "a symbolic link of another user's")
    assert secret.read_bytes() == b"old"
    assert os.listdir(sticky) == ["core"]


def test_a_hard_link_loses_its_name_alone(
    spawn: Callable[..., Target], sticky: Path, secret: Path
) -> None:
    (sticky / "core").hardlink_to(secret)
    assert gcorefs("dump", spawn("threads", 1).pid, "-o", sticky / "core").returncode == 0
    assert secret.read_bytes() == b"old"
    assert (sticky / "core").read_bytes().startswith(b"\x7fELF")


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_by_its_name_is_standard_output(
    spawn: Callable[..., Target], tmp_path: Path, name: str
) -> None:
    target = spawn("threads", 1)
    script = '(echo before; "$1" dump "$2" -o "$3"; echo after) > file'
    result = run("sh", "-c", script, "-", GCOREFS, target.pid, name, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, b"")
    text = (tmp_path / "file").read_bytes()
    assert text.startswith(b"before\n\x7fELF")
    assert text.endswith(b"after\n")
    assert gcorefs("dump", target.pid, "-o", name).stdout.startswith(b"\x7fELF")
    assert os.listdir(tmp_path) == ["file"]


def test_a_closed_standard_output_is_reported(spawn: Callable[..., Target]) -> None:
    target = spawn("threads", 1)
    for words in ("", "-o -", "-o /dev/stdout"):
        script = f'"$1" dump "$2" {words} >&-'
        result = run("sh", "-c", script, "-", GCOREFS, target.pid)
        assert_refused(result, "Bad file descriptor")
        assert is_free(target.pid)


@pytest.fixture(params=["link", "hard link", "file", "FIFO"])
def planted(request: pytest.FixtureRequest, sticky: Path, secret: Path) -> Path:
    """A log file that another user created."""
    log = sticky / "log"
    if request.param == "link":
        plant_link(log, secret)
    elif request.param == "hard link":  # anybody can make one if fs.protected_hardlinks is 0
        log.hardlink_to(secret)
    else:
        command = "mkfifo" if request.param == "FIFO" else "touch"
        assert run(*AS_NOBODY, command, log).returncode == 0
    return log


@pytest.mark.parametrize("words", [[], ["--foreground"]])
def test_no_log_goes_where_another_user_wants_it(
    unmounted: Mount, planted: Path, secret: Path, words: list[str]
) -> None:
    result = gcorefs("mount", *words, "--log-file", planted, unmounted.path)
    assert_refused(result, f"Error: {planted}: ", "another user")
    assert secret.read_bytes() == b"old"
    assert not unmounted.path.is_mount()


def test_a_log_of_our_own_may_be_a_link(unmounted: Mount, sticky: Path) -> None:
    link = sticky / "log"
    link.symlink_to(unmounted.log)
    unmounted.log.write_text("before\n")
    result = gcorefs("mount", "--log-file", link, unmounted.path)
    assert (result.returncode, result.stderr) == (0, b"")
    end(unmounted.server)
    lines = unmounted.log.read_text().splitlines()
    assert lines[0] == "before"
    assert len(lines) > 1


def test_a_log_is_below_the_directory_that_we_are_started_in(
    unmounted: Mount, tmp_path: Path
) -> None:
    result = gcorefs("mount", "--log-file", "log", unmounted.path, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, b"")
    end(unmounted.server)
    assert unmounted.log == tmp_path / "log"
    assert unmounted.log.read_text()
