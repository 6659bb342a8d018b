"""Names of outputs in directories where another user may have created a file first."""

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from gcorefs.export.lookup import look_up
from gcorefs.export.sink import SinkError, open_sink

OTHER, THIRD = 65534, 65533


def write(path: object, data: bytes, is_chosen: bool = True) -> None:
    sink = open_sink(str(path), is_chosen)
    try:
        sink.write(memoryview(data))
        sink.commit()
    finally:
        sink.abort()


def refusal(path: object, is_chosen: bool = True) -> int:
    with pytest.raises(SinkError) as raised:
        open_sink(str(path), is_chosen)
    assert raised.value.filename == str(path)
    return raised.value.errno or 0


@pytest.fixture
def sticky(tmp_path: Path) -> Path:
    """A directory like /tmp that belongs to us."""
    path = tmp_path / "sticky"
    path.mkdir()
    path.chmod(0o1777)
    return path


def open_below(folder: Path) -> list[str]:
    """Files below a folder, and the folder itself, that this process has open.

    Descriptors of other tests come and go with the garbage collector, so only these are counted.
    """
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the listing itself
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return [path for path in found if path.startswith(str(folder))]


def link(path: Path, target: object, owner: int) -> Path:
    path.symlink_to(str(target))
    os.lchown(path, owner, owner)
    return path


@pytest.mark.parametrize(
    ("mode", "directory", "owner", "expected"),
    [
        (0o1777, 0, OTHER, errno.EACCES),
        (0o1777, THIRD, OTHER, errno.EACCES),
        (0o1777, 0, 0, 0),
        (0o1777, OTHER, OTHER, 0),  # the owner of the directory may do anything in it
        (0o0777, 0, OTHER, 0),
        (0o1775, 0, OTHER, 0),
    ],
)
def test_a_link_is_followed_by_the_rule_of_protected_symlinks(
    tmp_path: Path, sticky: Path, mode: int, directory: int, owner: int, expected: int
) -> None:
    (tmp_path / "file").write_bytes(b"old")
    link(sticky / "link", "../file", owner)
    os.chown(sticky, directory, directory)
    sticky.chmod(mode)
    if expected:
        assert refusal(sticky / "link") == expected
        assert (tmp_path / "file").read_bytes() == b"old"
    else:
        write(sticky / "link", b"new")
        assert (tmp_path / "file").read_bytes() == b"new"
    assert (sticky / "link").is_symlink()


def test_a_link_behind_a_link_is_judged_as_well(tmp_path: Path, sticky: Path) -> None:
    link(sticky / "second", tmp_path / "file", OTHER)
    first = link(tmp_path / "first", sticky / "second", 0)
    assert refusal(first) == errno.EACCES
    assert not (tmp_path / "file").exists()


def test_a_link_to_nothing_yet_says_where_the_file_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    write(link(tmp_path / "link", "folder/core", 0), b"new")
    assert (folder / "core").read_bytes() == b"new"
    assert stat.S_IMODE((folder / "core").stat().st_mode) == 0o600
    assert os.listdir(folder) == ["core"]


def test_links_in_a_circle_are_told(tmp_path: Path) -> None:
    link(tmp_path / "a", "b", 0)
    link(tmp_path / "b", "a", 0)
    assert refusal(tmp_path / "a") == errno.ELOOP
    assert open_below(tmp_path) == []


@pytest.mark.parametrize("count", [1, 40])
def test_as_many_links_are_followed_as_the_kernel_follows(tmp_path: Path, count: int) -> None:
    for number in range(count):
        link(tmp_path / str(number), number + 1, 0)
    (tmp_path / str(count)).write_bytes(b"old")
    os.close(os.open(tmp_path / "0", os.O_RDONLY))
    write(tmp_path / "0", b"new")
    assert (tmp_path / str(count)).read_bytes() == b"new"
    link(tmp_path / "more", 0, 0)
    if count == 40:
        with pytest.raises(OSError, match="Too many levels"):
            os.open(tmp_path / "more", os.O_RDONLY)
        assert refusal(tmp_path / "more") == errno.ELOOP


@pytest.mark.parametrize("kind", ["link", "fifo", "device", "directory"])
def test_a_name_that_nobody_chose_is_a_regular_file_s(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "core.1"
    make: dict[str, Callable[[], object]] = {
        "link": lambda: link(path, tmp_path / "file", 0),
        "fifo": lambda: os.mkfifo(path),
        "device": lambda: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3)),
        "directory": path.mkdir,
    }
    make[kind]()
    assert refusal(path, is_chosen=False) == (errno.ELOOP if kind == "link" else errno.EEXIST)
    assert os.listdir(tmp_path) == ["core.1"]


def test_a_fifo_of_another_user_s_is_not_written_to(sticky: Path) -> None:
    os.mkfifo(sticky / "core")
    os.chown(sticky / "core", OTHER, OTHER)
    assert refusal(sticky / "core") == errno.EACCES


def test_a_hard_link_of_another_user_s_loses_its_name_alone(tmp_path: Path, sticky: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"old")
    (sticky / "core").hardlink_to(secret)
    write(sticky / "core", b"new", is_chosen=False)
    assert (secret.read_bytes(), secret.stat().st_nlink) == (b"old", 1)
    assert (sticky / "core").read_bytes() == b"new"
    assert os.listdir(sticky) == ["core"]


@pytest.mark.parametrize("is_there", [False, True])
def test_a_directory_that_is_swapped_meanwhile_changes_nothing(
    tmp_path: Path, is_there: bool
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for path in (ours, theirs):
        path.mkdir()
        if is_there:
            (path / "core").write_bytes(b"old")
    sink = open_sink(str(ours / "core"), is_chosen=True)
    ours.rename(tmp_path / "moved")
    ours.symlink_to("theirs")
    sink.write(memoryview(b"new"))
    sink.commit()
    assert (tmp_path / "moved/core").read_bytes() == b"new"
    assert os.listdir(tmp_path / "moved") == ["core"]
    assert [path.read_bytes() for path in theirs.iterdir()] == [b"old"] * is_there


def test_a_link_that_comes_meanwhile_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    sink = open_sink(str(tmp_path / "core"), is_chosen=True)
    (tmp_path / "core").symlink_to("file")
    sink.write(memoryview(b"new"))
    sink.commit()
    assert (tmp_path / "file").read_bytes() == b"old"
    assert not (tmp_path / "core").is_symlink()
    assert (tmp_path / "core").read_bytes() == b"new"


@pytest.mark.parametrize("form", ["/dev/fd/{}", "/proc/self/fd/{}", "{link}"])
def test_a_descriptor_by_its_name_is_written_to_where_it_stands(tmp_path: Path, form: str) -> None:
    fd = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.write(fd, b"before ")
        name = link(tmp_path / "link", f"/proc/self/fd/{fd}", 0)
        write(form.format(fd, link=name), b"core")
        os.write(fd, b" after")
    finally:
        os.close(fd)
    assert (tmp_path / "file").read_bytes() == b"before core after"


def test_a_descriptor_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert refusal(f"/dev/fd/{fd}") == errno.EBADF
    finally:
        os.close(fd)
    assert refusal("/dev/fd/999") == errno.EBADF


def test_a_link_of_proc_leads_to_the_file_itself(tmp_path: Path) -> None:
    """The text of the link is not a name: for a file without a name, it ends in " (deleted)"."""
    reading, writing = os.pipe()
    try:
        write(f"/proc/thread-self/fd/{writing}", b"core")
        assert os.read(reading, 9) == b"core"
    finally:
        os.close(reading)
        os.close(writing)
    fd = os.open(tmp_path, os.O_TMPFILE | os.O_RDWR, 0o600)
    try:
        write(f"/proc/thread-self/fd/{fd}", b"core")
        assert os.pread(fd, 9, 0) == b"core"
    finally:
        os.close(fd)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["", ".", "..", "folder/", "folder"])
def test_a_directory_is_no_place_for_bytes(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    assert refusal(f"{tmp_path}/{name}") == errno.EISDIR
    assert os.listdir(tmp_path) == ["folder"]


def test_what_is_looked_up_is_closed_again(tmp_path: Path) -> None:
    with look_up(str(link(tmp_path / "link", "core", 0))) as entry:
        assert (entry.name, entry.exists) == ("core", False)
        assert open_below(tmp_path) == [str(tmp_path)]
    write(tmp_path / "core", b"new")
    assert open_below(tmp_path) == []
    write("/dev/zero", b"new")
    assert open_below(Path("/dev/zero")) == []
